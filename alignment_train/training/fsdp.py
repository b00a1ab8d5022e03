"""A model whose weights, gradients and optimiser state are divided among the processes, by torch's `fully_shard`."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from alignment_train.models.model import Model
from alignment_train.training import distributed
from pipelines.errors import UserError

T = TypeVar("T")

SUMS = "set_force_sum_reduction_for_comms"  # since torch 2.9


class FsdpModel(nn.Module):
    """FSDP2 (Zhao et al. 2023, arXiv 2304.11277): each process keeps 1/n of every matrix, its gradient and its moments.

    A block is gathered when it runs and again for its backward pass; embeddings, head and the parts that objectives
    train (`open`) from the begin of a forward pass to the end of its backward pass. Our forward passes end at a layer,
    or ask for logits at some positions, and none is the language model's own; so the root that FSDP2 wants is this
    module, and what it runs is any callable: `divided(work)`. Whatever runs the model, must run within such a call.
    Accelerate's plug-in for FSDP2 serves GPUs alone and wraps the language model.
    With bfloat16 blocks are gathered in it, as autocast would keep a copy of all weights until the backward pass;
    gradients are summed in float32, and what is kept is float32.
    """

    def __init__(self, model: Model, modules: Sequence[nn.Module], precision: str):
        """Divide `model` and `modules`, which are the same in all processes, in place."""
        super().__init__()
        if not hasattr(FSDPModule, SUMS):
            raise UserError(
                f"train.parallel: found fsdp, with torch {torch.__version__}. Allowed: torch 2.9 or newer. Install it, "
                f"or leave 'parallel' out: each process then holds the whole model."
            )
        _ = model.packing, model.head_kind  # found by running the model, so before it is divided
        self._model, self._apart = [model], [_hollow(model)]  # in lists: they are no parts of this module
        self.parts = nn.ModuleList([model.lm, *modules])
        mesh = init_device_mesh(model.device.type, (distributed.num_processes(),))
        low = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        # autocast has layer_norm run in float32 on GPUs; on CPUs it takes no weights of another kind than its input's
        mixed = model.device.type == "cpu" and any(isinstance(part, nn.LayerNorm) for part in model.blocks.modules())
        self.low = precision == "bfloat16"
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=low if self.low and not mixed else MixedPrecisionPolicy())
        fully_shard(self, mesh=mesh)
        for module in self._divided():
            module.set_gradient_divide_factor(1.0)  # `loop.loss_weights` sees to means
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other

    def forward(self, work: Callable[[], T]) -> T:
        """What `work` gives: a loss, alone or in a tuple, on which the backward pass is run next."""
        return work()

    @torch.no_grad()
    def run_no_grad(self, work: Callable[[], T]) -> T:
        """What `work` gives, of which there is no backward pass: it would divide the weights again."""
        with torch.autocast(self._model[0].device.type, torch.bfloat16, enabled=self.low):
            found = self(work)
        for module in self._divided():
            module.reshard()
        return found

    def unshard_model(self) -> None:
        """Give the model back as it was before it was divided, with the weights of now, on the CPU of each process.

        Not `unshard`: that is a method of torch's FSDPModule, which takes precedence.
        """
        (model,), (apart,) = self._model, self._apart
        for mine, whole in zip(model.lm.parameters(), apart.lm.parameters(), strict=True):
            whole.data = distributed.full_tensor(mine.detach()).cpu()
        model.__dict__.update(apart.__dict__)

    def register_checkpoint_hooks(self, accelerator: Accelerator, optimiser: torch.optim.Optimizer) -> None:
        """Checkpoints are those of an undivided model: the first process writes them, each reads its part of them."""
        accelerator.register_save_state_pre_hook(_gathered_weights)
        accelerator.register_load_state_pre_hook(_divided_weights)
        for module in self.parts[1:]:
            module.register_state_dict_post_hook(_gathered_state)
            module.register_load_state_dict_pre_hook(_divided_state)
        optimiser.register_state_dict_post_hook(_gathered_moments)
        optimiser.register_load_state_dict_pre_hook(_divided_moments)

    def _divided(self) -> list[FSDPModule]:
        return [module for module in self.modules() if isinstance(module, FSDPModule)]


def _gathered_weights(models: list[nn.Module], states: list[dict[str, Any]], _: str) -> None:
    """What a checkpoint is about to hold: in the first process the whole of each tensor, in others nothing."""
    for model, state in zip(models, states, strict=True):
        found: dict[int, Tensor] = {}  # a tied weight is one
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name not in state:
                continue
            if id(parameter) not in found:
                found[id(parameter)] = _to_first(parameter.detach())
            state[name] = found[id(parameter)]
        if not distributed.is_main_process():
            state.clear()


def _divided_weights(models: list[nn.Module], folder: str) -> None:
    """Read this process's part of what is trained, and leave no model that Accelerator would load."""
    model = models.pop()
    tied: dict[int, list[str]] = {}
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name, parameter in trained.items():
        tied.setdefault(id(parameter), []).append(name)
    with safe_open(Path(folder) / "model.safetensors", "pt") as file, torch.no_grad():
        stored = set(file.keys())
        for names in tied.values():
            kept = next(name for name in names if name in stored)
            trained[names[0]].copy_(_part(file.get_tensor(kept), trained[names[0]]))


def _hollow(model: Model) -> Model:
    """A copy without numbers: its parameters are empty."""
    empty = {id(p): nn.Parameter(p.new_empty(0, device="cpu"), p.requires_grad) for p in model.lm.parameters()}
    return deepcopy(model, {**empty, id(model.tokenizer): model.tokenizer})


def _gathered_state(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
    for name, value in state.items():
        state[name] = _to_first(value)


def _divided_state(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    for name, parameter in module.named_parameters():
        state[name] = _part(state[name], parameter)


def _gathered_moments(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    whole = {number: {name: _to_first(value) for name, value in own.items()} for number, own in state["state"].items()}
    return {**state, "state": whole if distributed.is_main_process() else {}}


def _divided_moments(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    parts = {
        number: {name: _part(value, parameters[number]) for name, value in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": parts}


def _to_first(value: Tensor) -> Tensor:
    """The whole of a divided tensor, on the first process's CPU, an empty one on others; any other as it is."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if distributed.is_main_process() else whole.new_empty(0)


def _part(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, divided as `like` is; a number, such as the count of steps, as it is."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
