"""What determines a training, and what it leaves for the manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alignment_train.config import TrainConfig
from alignment_train.objectives import Objective
from alignment_train.settings import Guards, Optimiser
from alignment_train.training.trainable import Memory


@dataclass
class Plan:
    """Everything that determines the final weights, apart from the initial model and the data."""

    objectives: Sequence[Objective]
    steps: int
    max_length: int
    optimiser: Optimiser
    precision: str
    seed: int
    checkpoint_every: int
    schedule: Literal["joint", "alternate_step", "alternate_microbatch"] = "joint"
    accumulation: int = 1
    """Micro-batches per step. Those of one objective together have the gradient of a single batch."""
    turns: Sequence[str] = ()
    """Objective names in the order of their turns, for schedules that alternate; by default that of `objectives`. The
    turn of a name that is not in `objectives` stays empty, so that a control trains exactly when the aligned model
    trains the same objectives."""
    gradients_every: int = 10
    """Steps between measurements of per-objective gradients, including the first step; 0 disables them."""
    guards: Guards = field(default_factory=lambda: Guards.model_validate({}))
    parallel: Literal["data", "fsdp"] = "data"
    """Whether each process has the whole model, or with `fsdp` a shard of it (`fsdp.FsdpModel`)."""
    checkpointing: bool = False
    """Whether to recompute blocks in the backward pass instead of storing their activations."""

    @classmethod
    def of(cls, config: TrainConfig, objectives: Sequence[Objective], precision: str, seed: int) -> "Plan":
        """The plan of a recipe's `train` section for some of its objectives."""
        return cls(
            objectives=objectives,
            steps=config.steps if objectives else 0,  # without objectives, the control is the base model
            max_length=config.max_length,
            optimiser=config.optimiser,
            precision=precision,
            seed=seed,
            checkpoint_every=config.checkpoint_every,
            guards=config.guards,
            schedule=config.schedule,
            accumulation=config.accumulation,
            gradients_every=config.gradients_every,
            turns=config.turns,
            parallel=config.parallel,
            checkpointing=config.checkpointing,
        )


@dataclass
class Outcome:
    """Counts of a training, for its manifest; dictionaries are keyed by objective."""

    steps: int
    """Completed steps."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows consumed."""
    tokens: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    """Texts truncated at max_length."""
    memory: Memory | None = None
    """As estimated before the first step. Not checkpointed, because it follows from the plan."""
    precision: str = "float32"
    """The precision used; a resumed training keeps that of its checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "rows": self.rows, "tokens": self.tokens, "cut": self.cut}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.rows, self.tokens, self.cut = state["steps"], state["rows"], state["tokens"], state["cut"]
