"""Gradients of each objective within a step: their norms, and the cosine between any two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor, nn

from alignment_train.training.distributed import all_reduce_gradients, full_tensor


class PerObjectiveGradients:
    """Collects the gradients of backward passes until `merge` sums them, over processes too."""

    def __init__(self, parameters: Sequence[nn.Parameter], separate: bool):
        """
        Args:
            separate: Whether to keep the gradients of objectives apart, which needs a copy for each after the first.
        """
        self.parameters, self.separate = parameters, separate
        self.gradients: dict[str, list[Tensor | None]] = {}

    @contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Context in which backward passes add to the gradient of the objective `name`."""
        name = name if self.separate else ""
        for parameter, gradient in zip(self.parameters, self.gradients.get(name, self._empty), strict=True):
            parameter.grad = gradient
        yield
        self.gradients[name] = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def _empty(self) -> list[Tensor | None]:
        return [None] * len(self.parameters)

    def merge(self) -> dict[str, float]:
        """Set each parameter's gradient to the sum over objectives and processes.

        Returns:
            If separate, for weighted objectives: `gradient_norm/NAME`, and `gradient_cosine/NAME/NAME` in the order of
            their first micro-batch, unless a norm is 0.
        """
        for name, gradients in self.gradients.items():
            self.gradients[name] = all_reduce_gradients(gradients, self.parameters)
        figures = self._figures() if self.separate else {}
        for i, parameter in enumerate(self.parameters):
            for gradients in self.gradients.values():
                gradient = gradients[i]
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.gradients.clear()
        return figures

    def _figures(self) -> dict[str, float]:
        norms = {name: _dot(gradients, gradients) ** 0.5 for name, gradients in self.gradients.items()}
        figures = {f"gradient_norm/{name}": norm for name, norm in norms.items()}
        for a, b in combinations(self.gradients, 2):
            if product := norms[a] * norms[b]:
                figures[f"gradient_cosine/{a}/{b}"] = _dot(self.gradients[a], self.gradients[b]) / product
        return figures


def _dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> float:
    """Dot product of two gradients, given by parameter; None counts as 0."""
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return float(full_tensor(torch.stack([torch.sum(x * y) for x, y in both]).sum())) if both else 0.0
