"""How much of the device a training uses: the FLOPs that its losses need, over the matmul peak of the device (MFU)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CPU_ATTENTION = {  # which torch counts on GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
SECONDS, TIMES = 0.1, 5  # of matmuls at least, for the peak


class Flops:
    """What a token of each objective costs, counted at its first micro-batch and never again, in a resumed run either:
    the counter moves the last bit of what it watches.
    """

    def __init__(self, counts: bool = True) -> None:
        """counts: without it nothing is counted and no FLOPs are needed: where the device's peak cannot be known."""
        self.counts = counts
        self.per_token: dict[str, float] = {}

    def state_dict(self) -> dict[str, float]:
        return self.per_token

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.per_token = dict(state)

    @contextmanager
    def counting(self, name: str, mask: Tensor) -> Iterator[Callable[[], None]]:
        """Within, the forward pass of an objective, a call of what this gives, and its backward pass.

        mask: [N, T], whose places the count is divided by: padding is work, but none that a step needs. The backward
        pass counts twice the forward one at most; what is above is the forward pass made again, which saves memory and
        is not needed either (Chowdhery et al. 2022, arXiv 2204.02311, appendix B: MFU counts no rematerialisation).
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
        """FLOPs of so many real tokens of each objective, 0 where nothing is counted."""
        return sum(self.per_token[name] * count for name, count in tokens.items()) if self.counts else 0.0


@cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of many square matmuls, measured for a tenth of a second, before a training uses the GPU.

    Other processes share a CPU's cores at any moment, and a peak that is too low gives an MFU that is too high: there
    it says nothing.

    The first one does not count: in one of three processes on a busy machine it took 155 ms, the next ones 20 to 24,
    and a control once had a peak 40 times too low, for which this is the likely cause.
    """
    size = 8192 if device.type == "cuda" else 768
    one, other = (
        torch.randn(size, size, generator=torch.Generator(device).manual_seed(seed), device=device).to(dtype)
        for seed in (0, 1)
    )
    torch.mm(one, other)
    taken: list[float] = []
    while len(taken) < TIMES or sum(taken) < SECONDS:
        _wait(device)
        start = time.perf_counter()
        torch.mm(one, other)
        _wait(device)
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
