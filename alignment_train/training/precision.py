"""float32 or bfloat16: what `train.precision: auto` stands for on this machine."""

import time
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from alignment_train.training import distributed

WIDTH = (
    512  # narrower models gain a quarter at most (128 wide 1.3x, 192 wide 1.2x), and have the same results everywhere
)
WIDEST = 1024  # that is measured: beyond it the ratio stays, and takes seconds to measure
TOKENS = 1024
SECONDS = 1.0
WORTH = 1.1


class Precision(NamedTuple):
    """Of activations while training, and of weights while evaluating."""

    name: str
    """`float32` or `bfloat16`."""
    reason: str = ""
    """Why `auto` is this; empty where the precision was named."""


def choose_precision(setting: str, device: torch.device, width: int) -> Precision:
    """What the recipe's `precision` is on this device for a model of `width` numbers a state.

    `auto` is bfloat16 on GPUs that have it, and on processors where it is at least WORTH times as fast: for models from
    WIDTH on this is measured in SECONDS. Several processes come to one answer.
    """
    if setting != "auto":
        return Precision(setting)
    if device.type == "cuda":
        return Precision("bfloat16" if torch.cuda.is_bf16_supported() else "float32", "what this GPU has")
    if width < WIDTH:
        return Precision("float32", f"the model is less than {WIDTH} wide")
    speedup = (
        sum(distributed.all_reduce_sum([measure_speedup(min(width, WIDEST))], device)) / distributed.num_processes()
    )
    reason = f"bfloat16 has {speedup:.1f}x float32's speed on this processor"
    return Precision("bfloat16" if speedup >= WORTH else "float32", reason)


@cache
def measure_speedup(width: int) -> float:
    """How many times as fast a feed-forward block of `width` is in bfloat16, forward and backward, as training runs it.

    The two take turns, so that other work on the machine meets both, and the fastest run of each counts.
    """
    with torch.random.fork_rng(devices=[]):
        block = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        states = torch.randn(TOKENS, width)
    fastest = {"float32": float("inf"), "bfloat16": float("inf")}
    began = time.perf_counter()
    for turn in range(1000):
        for name in fastest:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
                loss = block(states).float().sum()
            loss.backward()
            if turn:  # what is set up at a first run is not what is measured
                fastest[name] = min(fastest[name], time.perf_counter() - start)
        if turn > 1 and time.perf_counter() - began > SECONDS:
            break
    return fastest["float32"] / fastest["bfloat16"]
