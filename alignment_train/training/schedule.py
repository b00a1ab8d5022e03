"""What a step runs: its micro-batches, their weights in loss and gradient, and its learning rate."""

import math
from collections import Counter
from collections.abc import Sequence

import torch

from alignment_train.objectives import Objective
from alignment_train.settings import Optimiser
from alignment_train.training import distributed
from alignment_train.training.plan import Plan


def micro_batch_schedule(plan: Plan, step: int) -> list[tuple[Objective, int]]:
    """The micro-batches of a step, in order: the objective and the index of its batch, counted from 0.

    Batches are numbered per objective, so that alternating objectives skip no rows.
    """
    objectives = {objective.name: objective for objective in plan.objectives}
    order = plan.turns or list(objectives)
    schedule: list[tuple[Objective, int]] = []
    for i in range(plan.accumulation):
        micro_batch = step * plan.accumulation + i
        match plan.schedule:
            case "joint":
                schedule += [(objective, micro_batch) for objective in plan.objectives]
                continue
            case "alternate_step":
                turn, index = step % len(order), step // len(order) * plan.accumulation + i
            case "alternate_microbatch":
                turn, index = micro_batch % len(order), micro_batch // len(order)
        if order[turn] in objectives:
            schedule.append((objectives[order[turn]], index))
    return schedule


def loss_weights(
    batches: Sequence[tuple[Objective, dict[str, torch.Tensor]]], accumulation: int, device: torch.device
) -> list[tuple[float, float]]:
    """The weight of each micro-batch of a step in its objective's loss, and the factor of its gradient.

    The weights of an objective are proportional to `Objective.count` and sum to 1 over all processes. Its factors sum
    to the fraction of the step's micro-batches that are its own.
    """
    counts = [objective.count(batch) for objective, batch in batches]
    total, number = Counter[str](), Counter[str]()
    for (objective, _), count in zip(batches, distributed.all_reduce_sum(counts, device), strict=True):
        total[objective.name] += round(count)
        number[objective.name] += 1
    weights = [count / max(1, total[objective.name]) for (objective, _), count in zip(batches, counts, strict=True)]
    return [
        (weight, weight * number[objective.name] / accumulation)
        for (objective, _), weight in zip(batches, weights, strict=True)
    ]


def lr_factor(optimiser: Optimiser, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) as a fraction of its maximum."""
    warmup = max(1, round(optimiser.warmup * steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    match optimiser.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 - progress
        case "inverse_sqrt":
            return math.sqrt(warmup / (step + 1))
        case "constant":
            return 1.0
