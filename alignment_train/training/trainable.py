"""Which weights are trained, gradient checkpointing, and an estimate of the memory that both determine."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from alignment_train.models.model import Model
from pipelines.errors import UserError

MAX_NAMES = 8
"""Parameter names that a message lists."""
GIB = 2**30


def freeze(model: Model, trainable: str | list[str]) -> None:
    """Freeze every weight that `find_frozen` returns; weights that are already frozen stay so."""
    for parameter in find_frozen(model, trainable):
        parameter.requires_grad_(False)


def find_frozen(model: Model, trainable: str | list[str]) -> set[nn.Parameter]:
    """The weights that are not trained.

    Args:
        trainable: `all`; `blocks`, all but the token embeddings and the output head; or globs of parameter names. A
            tied weight is trained if one of its names matches.

    Raises:
        UserError: A glob matches no parameter.
    """
    if trainable == "all":
        return set()
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.lm.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    if isinstance(trainable, str):
        ends = (model.lm.get_input_embeddings(), model.lm.get_output_embeddings())
        return {parameter for module in ends for parameter in module.parameters()}
    matches = {glob: {p for p in names if any(fnmatchcase(n, glob) for n in names[p])} for glob in trainable}
    if unmatched := [glob for glob, parameters in matches.items() if not parameters]:
        every = [name for aliases in names.values() for name in aliases]
        examples = every[:: -(-len(every) // MAX_NAMES)]
        raise UserError(
            f"train.trainable: found {unmatched[0]!r}, which matches no parameter of {type(model.lm).__name__}. "
            f"Expected: globs of its {len(every)} parameter names, such as {', '.join(examples)}. Fix: name some of "
            f"these; * stands for any text."
        )
    return set(names) - set().union(*matches.values())


def checkpoint_blocks(model: Model) -> None:
    """Store only the input of each block, and recompute the block in the backward pass (arXiv 1604.06174).

    Raises:
        UserError: The model does not support it.
    """
    # the second name is deprecated in newer versions of transformers
    enable = getattr(model.lm, "activation_checkpointing_enable", None) or model.lm.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"train.checkpointing: found true, with a model that does not support it: {error} Expected: false for "
            f"{type(model.lm).__name__}. Fix: remove checkpointing, and lower the objectives' rows."
        ) from None
    if getattr(model.lm, "_require_grads_hooks", None):
        model.lm.disable_input_require_grads()  # only reentrant checkpointing needs gradients of embeddings


class Memory(NamedTuple):
    """Bytes that a training needs in every step, apart from activations."""

    weights: int
    gradients: int
    optimiser: int

    @property
    def total(self) -> int:
        return sum(self)

    def sentence(self, processes: int = 1) -> str:
        """A summary for the log.

        Args:
            processes: Number of processes among which the memory is divided.
        """
        parts = (f"{size / processes / GIB:.2f} GiB {name}" for name, size in self._asdict().items())
        scope = " per process" if processes > 1 else ""
        total = self.total / processes / GIB
        return f"memory{scope}: {total:.2f} GiB ({', '.join(parts)}), plus activations of a micro-batch"


def estimate_memory(modules: Iterable[nn.Module]) -> Memory:
    """Memory of the weights in `modules`, with gradients and AdamW's two moments for the trained ones."""
    parameters = {p for module in modules for p in module.parameters()}
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    return Memory(sum(p.numel() * p.element_size() for p in parameters), trained, 2 * trained)


def drop_frozen(models: list[nn.Module], states: list[dict[str, Any]], _: str) -> None:
    """Remove frozen weights from the states of a checkpoint, as a hook of Accelerator: the base model has them."""
    for module, state in zip(models, states, strict=False):  # FSDP writes its own states and passes none
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                state.pop(name, None)
