"""Model FLOPs utilisation (MFU): the FLOPs that losses need, relative to the device's peak matmul throughput."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""Attention kernels of CPUs, which torch's counter omits."""
MIN_SECONDS, MIN_REPETITIONS = 0.1, 5
"""Of the measurement of the peak."""


class Flops:
    """FLOPs per token of each objective, counted once, at its first micro-batch.

    They are checkpointed, because the counter changes the last bit of results: a resumed run must not count again.
    """

    def __init__(self, counts: bool = True) -> None:
        """
        Args:
            counts: Whether to count at all; pointless if the device's peak cannot be measured.
        """
        self.counts = counts
        self.per_token: dict[str, float] = {}

    def state_dict(self) -> dict[str, float]:
        return self.per_token

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.per_token = dict(state)

    @contextmanager
    def counting(self, name: str, mask: Tensor) -> Iterator[Callable[[], None]]:
        """Context that counts the FLOPs of an objective; call what it yields between forward and backward pass.

        The backward pass counts at most twice the forward pass: the rest is recomputation, which MFU excludes
        (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

        Args:
            mask: [N, T], whose number of elements the count is divided by. Padding is computed, but not needed.
        """
        if not self.counts or name in self.per_token:
            yield lambda: None
            return
        forward: list[int] = []
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            yield lambda: forward.append(counter.get_total_flops())
        backward = counter.get_total_flops() - forward[0]
        self.per_token[name] = (forward[0] + min(backward, 2 * forward[0])) / mask.numel()

    def needed(self, tokens: dict[str, float]) -> float:
        """FLOPs for these numbers of real tokens by objective; 0 without counting."""
        return sum(self.per_token[name] * count for name, count in tokens.items()) if self.counts else 0.0


@cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Peak throughput in FLOP/s: the fastest of many square matmuls, measured before training.

    The first matmul is not timed, because it includes initialisation. Meaningless on CPUs, whose cores other processes
    share.
    """
    size = 8192 if device.type == "cuda" else 768
    a, b = (
        torch.randn(size, size, generator=torch.Generator(device).manual_seed(seed), device=device).to(dtype)
        for seed in (0, 1)
    )
    torch.mm(a, b)
    seconds: list[float] = []
    while len(seconds) < MIN_REPETITIONS or sum(seconds) < MIN_SECONDS:
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        _synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
