"""Fully sharded data parallelism: weights, gradients and optimiser state divided among processes (FSDP2)."""

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

FORCE_SUM = "set_force_sum_reduction_for_comms"
"""A method of FSDPModule since torch 2.9."""


class FsdpModel(nn.Module):
    """FSDP2 (Zhao et al. 2023, arXiv 2304.11277): each process stores 1/n of every matrix, its gradient and moments.

    The weights of a block are gathered for its forward pass and again for its backward pass; those of embeddings, head
    and objectives' modules from the start of the forward pass to the end of the backward pass.

    FSDP2 needs a root module whose forward pass is the whole computation, but forward passes here end at a layer or
    compute logits at some positions. So the root is this module, which calls any function: `fsdp(function)`. All that
    runs the model must run in such a call. Accelerate's FSDP2 plug-in supports only GPUs and wraps the language model.

    With bfloat16, blocks are gathered in bfloat16: autocast would store a copy of all weights until the backward
    pass. Gradients are summed in float32, and stored weights are float32.
    """

    def __init__(self, model: Model, modules: Sequence[nn.Module], precision: str):
        """Shard `model` and `modules`, which are equal in all processes, in place."""
        super().__init__()
        if not hasattr(FSDPModule, FORCE_SUM):
            raise UserError(
                f"train.parallel: found fsdp with torch {torch.__version__}. Expected: torch 2.9 or newer. Fix: "
                f"install it, or remove 'parallel', so that each process stores the whole model."
            )
        _ = model.packing, model.head_kind  # determined by running the model, before it is sharded
        self._model, self._template = [model], [_without_weights(model)]  # lists keep them from becoming submodules
        self.parts = nn.ModuleList([model.lm, *modules])
        mesh = init_device_mesh(model.device.type, (distributed.num_processes(),))
        mixed = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        # autocast runs layer_norm in float32 on GPUs; on CPUs its weights must have the type of its input
        has_layer_norm = any(isinstance(part, nn.LayerNorm) for part in model.blocks.modules())
        self.is_mixed = precision == "bfloat16"
        use_mixed = self.is_mixed and not (model.device.type == "cpu" and has_layer_norm)
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=mixed if use_mixed else MixedPrecisionPolicy())
        fully_shard(self, mesh=mesh)
        for module in self._sharded_modules():
            module.set_gradient_divide_factor(1.0)  # `schedule.loss_weights` computes means
            module.set_force_sum_reduction_for_comms(True)  # gloo supports no other reduction

    def forward(self, function: Callable[[], T]) -> T:
        """Call `function`, whose result is a loss, alone or in a tuple, followed by its backward pass."""
        return function()

    @torch.no_grad()
    def run_no_grad(self, function: Callable[[], T]) -> T:
        """Call `function` without a backward pass, which would shard the weights again."""
        with torch.autocast(self._model[0].device.type, torch.bfloat16, enabled=self.is_mixed):
            result = self(function)
        for module in self._sharded_modules():
            module.reshard()
        return result

    def unshard_model(self) -> None:
        """Restore the model on the CPU of each process, with its current weights.

        Not `unshard`: that is a method of torch's FSDPModule, which takes precedence.
        """
        (model,), (template,) = self._model, self._template
        for shard, parameter in zip(model.lm.parameters(), template.lm.parameters(), strict=True):
            parameter.data = distributed.full_tensor(shard.detach()).cpu()
        model.__dict__.update(template.__dict__)

    def register_checkpoint_hooks(self, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> None:
        """Make checkpoints those of an unsharded model, written by the main process; each process reads its shards."""
        accelerator.register_save_state_pre_hook(_gather_weights)
        accelerator.register_load_state_pre_hook(_load_shards)
        for module in self.parts[1:]:
            module.register_state_dict_post_hook(_gather_module_state)
            module.register_load_state_dict_pre_hook(_shard_module_state)
        optimizer.register_state_dict_post_hook(_gather_moments)
        optimizer.register_load_state_dict_pre_hook(_shard_moments)

    def _sharded_modules(self) -> list[FSDPModule]:
        return [module for module in self.modules() if isinstance(module, FSDPModule)]


def _without_weights(model: Model) -> Model:
    """A copy whose parameters are empty."""
    empty = {id(p): nn.Parameter(p.new_empty(0, device="cpu"), p.requires_grad) for p in model.lm.parameters()}
    return deepcopy(model, {**empty, id(model.tokenizer): model.tokenizer})


def _gather_weights(models: list[nn.Module], states: list[dict[str, Any]], _: str) -> None:
    """Replace the states of a checkpoint by whole tensors in the main process, and by nothing in others."""
    for model, state in zip(models, states, strict=True):
        gathered: dict[int, Tensor] = {}  # once for tied weights
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name not in state:
                continue
            if id(parameter) not in gathered:
                gathered[id(parameter)] = _to_main_process(parameter.detach())
            state[name] = gathered[id(parameter)]
        if not distributed.is_main_process():
            state.clear()


def _load_shards(models: list[nn.Module], folder: str) -> None:
    """Read this process's shards of trained weights, and leave no model for Accelerator to load."""
    model = models.pop()
    aliases: dict[int, list[str]] = {}
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for name, parameter in trained.items():
        aliases.setdefault(id(parameter), []).append(name)
    with safe_open(Path(folder) / "model.safetensors", "pt") as file, torch.no_grad():
        stored = set(file.keys())
        for names in aliases.values():
            name = next(name for name in names if name in stored)
            trained[names[0]].copy_(_shard(file.get_tensor(name), trained[names[0]]))


def _gather_module_state(_: nn.Module, state: dict[str, Any], *__: Any) -> None:
    for name, value in state.items():
        state[name] = _to_main_process(value)


def _shard_module_state(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    for name, parameter in module.named_parameters():
        state[name] = _shard(state[name], parameter)


def _gather_moments(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    whole = {
        number: {name: _to_main_process(value) for name, value in moments.items()}
        for number, moments in state["state"].items()
    }
    return {**state, "state": whole if distributed.is_main_process() else {}}


def _shard_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shards = {
        number: {name: _shard(value, parameters[number]) for name, value in moments.items()}
        for number, moments in state["state"].items()
    }
    return {**state, "state": shards}


def _to_main_process(value: Tensor) -> Tensor:
    """A sharded tensor as a whole one on the CPU of the main process, and an empty one in others; else unchanged."""
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if distributed.is_main_process() else whole.new_empty(0)


def _shard(value: Tensor, like: Tensor) -> Tensor:
    """This process's shard of a whole tensor, placed as `like` is; scalars, such as step counts, unchanged."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
