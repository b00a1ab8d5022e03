"""Processes that train one model together, as started by torchrun; without it, these functions do almost nothing."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
BUCKET = 1 << 25
"""Numbers that are summed over processes at once."""


def num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this process writes files, reports progress and talks to Dagster."""
    return rank() == 0


def initialize(device: "torch.device") -> None:
    """Connect the processes: over gloo on CPUs, NCCL on GPUs."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def shut_down() -> None:
    """Disconnect from the other processes."""
    if num_processes() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def barrier() -> None:
    """Wait until all processes get here."""
    if num_processes() > 1:
        import torch.distributed as dist

        dist.barrier()


def main_process_first(function: Callable[[], T]) -> T:
    """Call `function` in every process, first in the main one: it may download files or clear a shared folder."""
    if not is_main_process():
        barrier()
        return function()
    result = function()
    barrier()
    return result


def all_reduce_sum(values: Sequence[float], device: "torch.device") -> list[float]:
    """Sum each value over all processes."""
    if num_processes() == 1 or not values:
        return list(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def broadcast_parameters(module: "torch.nn.Module") -> None:
    """Set parameters and buffers to those of the main process."""
    if num_processes() > 1:
        import torch.distributed as dist

        for value in (*module.parameters(), *module.buffers()):
            dist.broadcast(value.data, 0)


def full_tensor(tensor: "Tensor") -> "Tensor":
    """The whole of a sharded tensor (`fsdp.FsdpModel`); other tensors unchanged."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def all_reduce_gradients(gradients: "Sequence[Tensor | None]", parameters: "Sequence[Tensor]") -> "list[Tensor | None]":
    """Sum gradients over all processes; None where no process has one.

    Used instead of DistributedDataParallel, whose reducer relies on the model's own forward pass. Here forward passes
    end at a layer or compute logits at some positions, and a step has several backward passes, each through other
    parameters. A step communicates once, whatever it accumulates, but not while a backward pass runs. Gradients of
    sharded parameters (`fsdp.FsdpModel`) are summed by the backward pass.
    """
    if num_processes() == 1 or any(hasattr(parameter, "full_tensor") for parameter in parameters):
        return list(gradients)
    import torch
    import torch.distributed as dist

    present = torch.tensor(
        [gradient is not None for gradient in gradients], dtype=torch.uint8, device=parameters[0].device
    )
    dist.all_reduce(present, dist.ReduceOp.MAX)
    indices = [i for i, anywhere in enumerate(present.tolist()) if anywhere]
    sums: list[Tensor | None] = [None] * len(gradients)
    bucket: list[int] = []
    for n, i in enumerate(indices):
        bucket.append(i)
        if n + 1 < len(indices) and sum(parameters[j].numel() for j in bucket) < BUCKET:
            continue
        parts = [torch.zeros_like(parameters[j]) if (local := gradients[j]) is None else local for j in bucket]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        for j, part in zip(bucket, flat.split([part.numel() for part in parts]), strict=True):
            sums[j] = part.view_as(parameters[j])
        bucket = []
    return sums
