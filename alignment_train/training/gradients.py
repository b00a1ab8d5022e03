"""The gradients of objectives apart, within a step: the norm of each, and the cosine between each two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor, nn

from alignment_train.training.distributed import all_reduce_gradients, full_tensor


class PerObjectiveGradients:
    """Keeps what the backward passes leave, until `merge` puts their sum, over all processes too, in place.

    Where `each`, it keeps objectives apart, one copy of the gradients for each of them after the first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], separate: bool):
        self.parameters, self.separate = parameters, separate
        self.found: dict[str, list[Tensor | None]] = {}

    @contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Backward passes within add to the gradient of the objective `name` alone."""
        name = name if self.separate else ""
        for parameter, gradient in zip(self.parameters, self.found.get(name, self._none), strict=True):
            parameter.grad = gradient
        yield
        self.found[name] = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    @property
    def _none(self) -> list[Tensor | None]:
        return [None] * len(self.parameters)

    def merge(self) -> dict[str, float]:
        """Put the sum of all in place; of objectives apart, figures of each as it counts in the step, weight included.

        `gradient_norm/NAME` and, in the order of their first turn, `gradient_cosine/NAME/NAME`; no cosine where a norm
        is 0.
        """
        for name, own in self.found.items():
            self.found[name] = all_reduce_gradients(own, self.parameters)
        figures = self._figures() if self.separate else {}
        for i, parameter in enumerate(self.parameters):
            for own in self.found.values():
                gradient = own[i]
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.found.clear()
        return figures

    def _figures(self) -> dict[str, float]:
        norms = {name: _dot(own, own) ** 0.5 for name, own in self.found.items()}
        out = {f"gradient_norm/{name}": norm for name, norm in norms.items()}
        for one, other in combinations(self.found, 2):
            if size := norms[one] * norms[other]:
                out[f"gradient_cosine/{one}/{other}"] = _dot(self.found[one], self.found[other]) / size
        return out


def _dot(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> float:
    """Of two gradients, parameter by parameter; one that is None counts as 0."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return float(full_tensor(torch.stack([torch.sum(a * b) for a, b in both]).sum())) if both else 0.0
