"""Processes that train one model together, as torchrun starts them; alone, each of these does next to nothing."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
BUCKET = 1 << 25  # numbers that are summed over processes at once


def num_processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the one that writes, reports and speaks to Dagster."""
    return rank() == 0


def initialize(device: "torch.device") -> None:
    """Meet the others: over gloo on CPUs, NCCL on GPUs."""
    if num_processes() > 1:
        from accelerate import PartialState

        PartialState(cpu=device.type == "cpu")


def shut_down() -> None:
    """Part from the others."""
    if num_processes() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def barrier() -> None:
    """Until all are here."""
    if num_processes() > 1:
        import torch.distributed as dist

        dist.barrier()


def main_process_first(work: Callable[[], T]) -> T:
    """What `work` gives, done by the first before all others: it may fetch files, or clear a folder that all share."""
    if not is_main_process():
        barrier()
        return work()
    out = work()
    barrier()
    return out


def all_reduce_sum(values: Sequence[float], device: "torch.device") -> list[float]:
    """The sums over all processes."""
    if num_processes() == 1 or not values:
        return list(values)
    import torch
    import torch.distributed as dist

    sums = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def broadcast_parameters(module: "torch.nn.Module") -> None:
    """Give parameters and buffers the values that they have in the first process."""
    if num_processes() > 1:
        import torch.distributed as dist

        for value in (*module.parameters(), *module.buffers()):
            dist.broadcast(value.data, 0)


def full_tensor(tensor: "Tensor") -> "Tensor":
    """All of a tensor that is divided among the processes (`fsdp.FsdpModel`); any other as it is."""
    gather = getattr(tensor, "full_tensor", None)
    return gather() if gather else tensor


def all_reduce_gradients(gradients: "Sequence[Tensor | None]", like: "Sequence[Tensor]") -> "list[Tensor | None]":
    """Gradients of the parameters `like`, summed over all processes; None where no process has one.

    This takes the place of DistributedDataParallel, whose reducer wants to see the model's own forward pass: ours ends
    at a layer, asks for logits at some positions, and has several backward passes a step, each over other parameters.
    Here a step communicates once whatever it accumulates; the price is that it does not overlap with the last backward
    pass. Of parameters that are divided (`fsdp.FsdpModel`) the backward pass has summed them.
    """
    if num_processes() == 1 or any(hasattr(parameter, "full_tensor") for parameter in like):
        return list(gradients)
    import torch
    import torch.distributed as dist

    there = torch.tensor([gradient is not None for gradient in gradients], dtype=torch.uint8, device=like[0].device)
    dist.all_reduce(there, dist.ReduceOp.MAX)
    wanted = [i for i, anywhere in enumerate(there.tolist()) if anywhere]
    out: list[Tensor | None] = [None] * len(gradients)
    bucket: list[int] = []
    for place, i in enumerate(wanted):
        bucket.append(i)
        if place + 1 < len(wanted) and sum(like[j].numel() for j in bucket) < BUCKET:
            continue
        parts = [torch.zeros_like(like[j]) if (own := gradients[j]) is None else own for j in bucket]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        for j, part in zip(bucket, flat.split([part.numel() for part in parts]), strict=True):
            out[j] = part.view_as(like[j])
        bucket = []
    return out
