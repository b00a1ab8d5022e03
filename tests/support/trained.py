"""Short runs of one objective on the tiny model, whole or killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.settings import Guards, Optimiser
from alignment_train.training.loop import train
from alignment_train.training.plan import Outcome, Plan
from alignment_train.training.progress_log import Reporter
from pipelines.progress import no_progress
from tests.support.models import tiny

UNGUARDED = Guards.model_validate({"collapse": None})
"""Of sixteen numbers a state, few are left when a tiny world is learnt by heart."""


def interrupting(folder: Path, stop: int) -> Reporter:
    """A reporter into `folder` that raises KeyboardInterrupt after step `stop` (from 0); -1: never."""
    reporter = Reporter("test", folder / "log.jsonl", no_progress)
    on_progress = reporter.step

    def step(number: int, *rest: Any) -> None:
        on_progress(number, *rest)
        if number == stop:
            raise KeyboardInterrupt

    reporter.step = step  # type: ignore[method-assign]
    return reporter


def trained(
    folder: Path,
    objective: Objective,
    table: pa.Table,
    steps: int,
    max_length: int = 64,
    every: int = 100,
    stop: int = -1,
    make: Callable[[], Model] = tiny,
) -> tuple[Model, Outcome, Reporter]:
    """A model after `steps`; KeyboardInterrupt after step `stop` (from 0). Checkpoints: after `every` steps."""
    reporter = interrupting(folder, stop)
    model = make()
    optimiser = Optimiser.model_validate({"learning_rate": 5e-3})
    plan = Plan([objective], steps, max_length, optimiser, "float32", seed=3, checkpoint_every=every, guards=UNGUARDED)
    return model, train(model, plan, {objective.reads: table}, folder, reporter, torch.device("cpu")), reporter


def assert_a_kill_changes_nothing(
    folder: Path, objective: Objective, table: pa.Table, make: Callable[[], Model] = tiny
) -> None:
    """Four steps, and the same killed in the third and resumed from the second, end alike in all they leave."""
    whole, told, reporter = trained(folder / "whole", objective, table, 4, every=2, make=make)
    with pytest.raises(KeyboardInterrupt):
        trained(folder / "broken", objective, table, 4, every=2, stop=2, make=make)
    resumed, again, other = trained(folder / "broken", objective, table, 4, every=2, make=make)
    assert again == told
    losses, same = ([json.loads(line)["loss"] for line in run.log.open()] for run in (reporter, other))
    assert len(losses) == 4
    assert losses == same
    fresh = make().lm.state_dict()
    assert not all(torch.equal(value, fresh[name]) for name, value in whole.lm.state_dict().items())
    assert all(torch.equal(value, resumed.lm.state_dict()[name]) for name, value in whole.lm.state_dict().items())
