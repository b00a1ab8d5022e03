"""The choice between float32 and bfloat16 for `train.precision: auto` on this machine."""

import time
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from alignment_train.training import distributed

MIN_WIDTH = 512
"""Hidden size below which bfloat16 saves too little time on CPUs to give up equal results on all machines."""
MAX_WIDTH = 1024
"""Largest hidden size that is measured; beyond it the ratio stays the same."""
TOKENS = 1024
SECONDS = 1.0
"""Duration of a measurement."""
MIN_SPEEDUP = 1.1


class Precision(NamedTuple):
    """The precision of activations in training, and of weights in evaluation."""

    name: str
    """`float32` or `bfloat16`."""
    reason: str = ""
    """Why `auto` selected it; empty if the recipe names the precision."""


def choose_precision(setting: str, device: torch.device, width: int) -> Precision:
    """The precision for the recipe's `precision` setting on a device, the same in all processes.

    `auto` selects bfloat16 on GPUs that support it, and on CPUs if it is at least MIN_SPEEDUP times as fast, which is
    measured from MIN_WIDTH.

    Args:
        width: The model's hidden size.
    """
    if setting != "auto":
        return Precision(setting)
    if device.type == "cuda":
        return Precision("bfloat16" if torch.cuda.is_bf16_supported() else "float32", "supported by this GPU")
    if width < MIN_WIDTH:
        return Precision("float32", f"hidden size below {MIN_WIDTH}")
    speedups = distributed.all_reduce_sum([measure_speedup(min(width, MAX_WIDTH))], device)
    speedup = sum(speedups) / distributed.num_processes()
    return Precision(
        "bfloat16" if speedup >= MIN_SPEEDUP else "float32", f"bfloat16 is {speedup:.1f}x as fast on this CPU"
    )


@cache
def measure_speedup(width: int) -> float:
    """Speed of bfloat16 relative to float32, for forward and backward passes of a feed-forward block of `width`.

    The two alternate, so that other load on the machine affects both, and the fastest run of each counts.
    """
    with torch.random.fork_rng(devices=[]):
        block = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        states = torch.randn(TOKENS, width)
    fastest = {"float32": float("inf"), "bfloat16": float("inf")}
    measurement_start = time.perf_counter()
    for repetition in range(1000):
        for name in fastest:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
                loss = block(states).float().sum()
            loss.backward()
            if repetition:  # the first one includes initialisation
                fastest[name] = min(fastest[name], time.perf_counter() - start)
        if repetition > 1 and time.perf_counter() - measurement_start > SECONDS:
            break
    return fastest["float32"] / fastest["bfloat16"]
