"""Guards that abort a training early: diverging losses, collapsing states, and running out of memory."""

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

WINDOW = 20
"""Loss values that are averaged, because a single batch may be hard."""
PROBE_ROWS = 128
"""Maximum number of rows whose states are measured."""


class TrainingAborted(UserError):
    """Why a training cannot continue: found, expected and fix, without a full stop at the end."""


class TrainingMonitor:
    """Checks every loss, and at intervals the states of fixed rows; raises TrainingAborted beyond a bound.

    Its state is checkpointed, so that a resumed run decides as an uninterrupted one.
    """

    def __init__(self, guards: Guards, model: Model, probes: dict[str, tuple[Objective, dict[str, Tensor]]]):
        """
        Args:
            probes: For each alignment objective, a batch whose pooled states are compared with the initial ones.
        """
        self.guards, self.model, self.probes = guards, model, probes
        self.first: dict[str, list[float]] = {}
        self.last: dict[str, list[float]] = {}
        self.ranks: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "ranks": self.ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.last, self.ranks = state["first"], state["last"], state["ranks"]

    def check_losses(self, losses: dict[str, float], gradient_norm: float) -> None:
        """Abort if a number of this step is not finite, or a loss diverges (`Guards.divergence`)."""
        if not all(map(math.isfinite, (gradient_norm, *losses.values()))):
            raise TrainingAborted(
                f"found losses {losses} with gradient norm {gradient_norm}. Expected: finite numbers. Fix: lower "
                f"train.optimiser.learning_rate"
            )
        for name, value in losses.items():
            first, last = self.first.setdefault(name, []), self.last.setdefault(name, [])
            if len(first) < WINDOW:
                first.append(value)
                continue
            last.append(value)
            del last[:-WINDOW]
            if self.guards.divergence is None or len(last) < WINDOW:
                continue
            start, now = fmean(first), fmean(last)
            limit = start + self.guards.divergence * max(abs(start), 1.0)
            if now > limit:
                raise TrainingAborted(
                    f"the loss of {name} diverges: found {now:.3f} as the mean of its last {WINDOW} steps, after "
                    f"{start:.3f} in its first {WINDOW}. Expected: at most {limit:.3f} (train.guards.divergence). Fix: "
                    f"lower train.optimiser.learning_rate or the weights of the other objectives"
                )

    def check_states(self) -> dict[str, float]:
        """Abort if states collapse (`Guards.collapse`); the first call sets the reference.

        Returns:
            `effective_rank/OBJECTIVE` for each probe.
        """
        ranks = {name: self._effective_rank(*probe) for name, probe in self.probes.items()}
        for name, rank in ranks.items():
            limit = self.guards.collapse * self.ranks.setdefault(name, rank) if self.guards.collapse else 0.0
            if rank < limit:
                raise TrainingAborted(
                    f"the states that {name} trains collapse: found an effective rank of {rank:.2f}, after "
                    f"{self.ranks[name]:.2f} at the start. Expected: at least {limit:.2f} (train.guards.collapse). "
                    f"Fix: lower train.optimiser.learning_rate or the weight of {name}"
                )
        return {f"effective_rank/{name}": rank for name, rank in ranks.items()}

    @torch.no_grad()
    def _effective_rank(self, objective: Any, batch: dict[str, Tensor]) -> float:
        """Effective rank of the directions of pooled states, without dropout."""
        ids, mask, lm = batch["input_ids"], batch["attention_mask"], self.model.lm
        layer = layer_index(getattr(objective, "layer", "middle"), len(self.model.blocks))
        training = lm.training
        lm.eval()
        pooled = mask if getattr(objective, "special_tokens", False) else self.model.text_mask(ids, mask)
        states = pool(self.model.hidden(ids, mask, layer), pooled, getattr(objective, "pooling", "mean"))
        lm.train(training)
        return effective_rank(F.normalize(states.float(), dim=-1))


@contextmanager
def oom_as_abort(consumer: str, fix: str) -> Iterator[None]:
    """Turn running out of memory into a TrainingAborted.

    Args:
        consumer: What needs the memory.
        fix: How to need less.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        request = str(error).splitlines()[0]
        raise TrainingAborted(
            f"out of memory in {consumer}: {request} Expected: no more than is free. Fix: {fix}, or use a device with "
            f"more memory"
        ) from None


def oom_hint(objective: Objective, batch: dict[str, Tensor], max_length: int) -> tuple[str, str]:
    """The arguments of `oom_as_abort` for a micro-batch."""
    shape = " texts of ".join(map(str, batch["input_ids"].shape))
    setting = f"train.objectives.{objective.name}"
    if "chunk" in type(objective).model_fields:
        fix = f"set {setting}.chunk (found {getattr(objective, 'chunk', None)}) to fewer texts"
    else:
        fix = f"lower {setting}.rows (found {objective.rows}) and raise train.accumulation by as much"
    return f"{objective.name}, {shape} tokens", f"{fix}, or lower train.max_length (found {max_length})"
