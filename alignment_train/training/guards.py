"""What stops a training before it wastes its time: a loss that rises, states that collapse, memory that ends."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from alignment_train.layers import layer_index
from alignment_train.losses import effective_rank, pool
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.settings import Guards
from pipelines.errors import UserError

WINDOW = 20  # values of a loss that are averaged: a single batch may be hard
PROBE_ROWS = 128  # rows at most whose states are looked at


class TrainingAborted(UserError):
    """Why a training cannot go on; a sentence without its full stop."""


class TrainingMonitor:
    """Sees every loss, and now and then the states of the same few rows; raises Stop where a bound is passed.

    Its state is checkpointed, so that a resumed run judges as an unbroken one.
    """

    def __init__(self, guards: Guards, model: Model, probes: dict[str, tuple[Objective, dict[str, Tensor]]]):
        """probes: of each objective that aligns, a batch whose pooled states are compared with those at the start."""
        self.guards, self.model, self.probes = guards, model, probes
        self.first: dict[str, list[float]] = {}
        self.last: dict[str, list[float]] = {}
        self.ranks: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "ranks": self.ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.last, self.ranks = state["first"], state["last"], state["ranks"]

    def losses(self, found: dict[str, float], norm: float) -> None:
        """Numbers that are not finite, and divergence: see `Guards.divergence`.

        found: the losses of one step; norm: of its gradient.
        """
        if not all(map(math.isfinite, (norm, *found.values()))):
            raise TrainingAborted(
                f"loss {found} with gradient norm {norm}. Allowed: finite numbers. Lower train.optimiser.learning_rate"
            )
        for name, value in found.items():
            first, last = self.first.setdefault(name, []), self.last.setdefault(name, [])
            if len(first) < WINDOW:
                first.append(value)
                continue
            last.append(value)
            del last[:-WINDOW]
            if self.guards.divergence is None or len(last) < WINDOW:
                continue
            start, now = fmean(first), fmean(last)
            most = start + self.guards.divergence * max(abs(start), 1.0)
            if now > most:
                raise TrainingAborted(
                    f"the loss of {name} diverges: found {now:.3f}, the mean of its last {WINDOW} steps, after "
                    f"{start:.3f} in its first {WINDOW}. Allowed: at most {most:.3f} (train.guards.divergence). Lower "
                    f"train.optimiser.learning_rate or the weights of the other objectives"
                )

    def states(self) -> dict[str, float]:
        """Collapse: see `Guards.collapse`. Gives `effective_rank/NAME`; the first call sets what is compared with."""
        found = {name: self._rank(*probe) for name, probe in self.probes.items()}
        for name, rank in found.items():
            least = self.guards.collapse * self.ranks.setdefault(name, rank) if self.guards.collapse else 0.0
            if rank < least:
                raise TrainingAborted(
                    f"the states that {name} trains collapse: found an effective rank of {rank:.2f}, at the start "
                    f"{self.ranks[name]:.2f}. Allowed: at least {least:.2f} (train.guards.collapse). Lower "
                    f"train.optimiser.learning_rate or the weight of {name}"
                )
        return {f"effective_rank/{name}": rank for name, rank in found.items()}

    @torch.no_grad()
    def _rank(self, objective: Any, batch: dict[str, Tensor]) -> float:
        """Of the directions of pooled states, as they are without dropout."""
        ids, mask, lm = batch["input_ids"], batch["attention_mask"], self.model.lm
        layer = layer_index(getattr(objective, "layer", "middle"), len(self.model.blocks))
        training = lm.training
        lm.eval()
        pooled = mask if getattr(objective, "special_tokens", False) else self.model.text_mask(ids, mask)
        states = pool(self.model.hidden(ids, mask, layer), pooled, getattr(objective, "pooling", "mean"))
        lm.train(training)
        return effective_rank(F.normalize(states.float(), dim=-1))


@contextmanager
def oom_as_abort(what: str, cure: str) -> Iterator[None]:
    """Memory that ends within is a Stop that names `what` and the `cure`."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        asked = str(error).splitlines()[0]
        raise TrainingAborted(
            f"out of memory in {what}: {asked} Allowed: what this device has free. {cure}, or take a device with more "
            f"memory"
        ) from None


def oom_hint(objective: Objective, batch: dict[str, Tensor], max_length: int) -> tuple[str, str]:
    """What a micro-batch is, and how it gets smaller: the arguments of `memory`."""
    shape = " texts of ".join(map(str, batch["input_ids"].shape))
    own = f"train.objectives.{objective.name}"
    if "chunk" in type(objective).model_fields:
        way = f"Set {own}.chunk (found {getattr(objective, 'chunk', None)}) to fewer texts"
    else:
        way = f"Lower {own}.rows (found {objective.rows}) and raise train.accumulation by as much"
    return f"{objective.name}, {shape} tokens", f"{way}, or lower train.max_length (found {max_length})"
