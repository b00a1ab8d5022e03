"""The parts of a causal language model of any family: its body, its blocks and what computes logits after the body."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from pipelines.errors import UserError


def find_body(lm: Any) -> Any:
    """The model without its head; `base_model` is the whole model for classes without such a part (Llama 4)."""
    head = lm.get_output_embeddings()
    if lm.base_model is not lm or head is None:
        return lm.base_model
    return next(child for child in lm.children() if child is not head)


def find_blocks(body: nn.Module, count: int) -> nn.ModuleList:
    """The transformer blocks of any decoder: its outermost list of `count` modules.

    Raises:
        UserError: There is none.
    """
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(
        f"{type(body).__name__}: found no list of {count} blocks. Expected: a decoder of transformers. Fix: take "
        f"another base model."
    )


def linear_head(lm: Any) -> Callable[[Tensor], Tensor]:
    """States [P, H] to logits [P, V] by the output embedding alone, with its current weights."""
    head = lm.get_output_embeddings()
    weights = dict(head.named_parameters())
    return lambda states: functional_call(head, weights, (states,))


def forward_head(lm: Any, body: nn.Module, output: type) -> Callable[[Tensor], Tensor]:
    """States [P, H] to logits [P, V] by all that the model's forward pass does after its body, with current weights.

    Args:
        output: Class of what the body returns.
    """
    with _body_replaced(lm, body, None):
        weights = dict(lm.named_parameters())

    def run(states: Tensor) -> Tensor:
        with _body_replaced(lm, body, output(last_hidden_state=states[None])):
            inputs = {"inputs_embeds": states[None], "use_cache": False}
            return functional_call(lm, weights, kwargs=inputs).logits[0]

    return run


class _ConstantBody(nn.Module):
    """Returns an output that was computed before."""

    def __init__(self, output: Any):
        super().__init__()
        self.output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self.output


@contextmanager
def _body_replaced(lm: Any, body: nn.Module, output: Any) -> Iterator[None]:
    """Context in which the body of the language model returns `output` without running."""
    name = next(name for name, child in lm.named_children() if child is body)
    lm._modules[name] = _ConstantBody(output)
    try:
        yield
    finally:
        lm._modules[name] = body
