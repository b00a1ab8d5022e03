"""The loop: objectives over the training mix, one optimiser step after another, resumed where it was killed."""

import hashlib
import logging
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from alignment_train.config import Guards, Optimiser, TrainConfig
from alignment_train.models.adapter import without_frozen
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.training import distributed, heap
from alignment_train.training.data import Rows
from alignment_train.training.flops import Flops, peak
from alignment_train.training.gradients import PerObjectiveGradients
from alignment_train.training.guards import PROBE_ROWS, TrainingAborted, TrainingMonitor, oom_as_abort, oom_hint
from alignment_train.training.progress_log import Reporter
from alignment_train.training.trainable import Memory, checkpoint_blocks, estimate_memory
from alignment_train.training.writing import os_errors
from pipelines import files
from pipelines.errors import UserError, error_context, printable

if TYPE_CHECKING:
    from alignment_train.training.fsdp import FsdpModel

T = TypeVar("T")
LOG = "log.jsonl"  # in a checkpoint: the log up to its step
PRECISION = "precision"  # in a checkpoint: that of the training
logging.getLogger("accelerate").setLevel(logging.ERROR)  # at every checkpoint it tells of the tied head


@dataclass
class Plan:
    """All that decides the weights a training ends with, beside the model it begins with and the rows it reads."""

    objectives: Sequence[Objective]
    steps: int
    max_length: int
    optimiser: Optimiser
    precision: str
    seed: int
    checkpoint_every: int
    schedule: Literal["joint", "alternate_step", "alternate_microbatch"] = "joint"
    accumulation: int = 1
    """Micro-batches a step; those of an objective have together the gradient of one batch. An empty turn counts 0."""
    turns: Sequence[str] = ()
    """Names of those who take turns where they alternate, in order; without it, the objectives. The turn of a name that
    is no objective here stays empty: so the control has all others when the aligned model has them."""
    gradients_every: int = 10
    """Steps between measurements of the gradients of objectives apart, the first step included; 0: never."""
    guards: Guards = field(default_factory=lambda: Guards.model_validate({}))
    parallel: Literal["data", "fsdp"] = "data"
    """What each of several processes holds: the whole model, or a part of it (`fsdp.FsdpModel`); no other weights."""
    checkpointing: bool = False
    """Whether blocks are run again in the backward pass in place of keeping their activations."""

    @classmethod
    def of(cls, config: TrainConfig, objectives: Sequence[Objective], precision: str, seed: int) -> "Plan":
        """The plan of a recipe's `train` section for some of its objectives."""
        return cls(
            objectives=objectives,
            steps=config.steps if objectives else 0,  # a control of contrast alone is the base itself
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
    """What a training was, for its manifest."""

    steps: int
    rows: dict[str, int] = field(default_factory=dict)
    """Consumed by objective."""
    tokens: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    """Texts cut at max_length, by objective."""
    memory: Memory | None = None
    """As stated before the start; not in a checkpoint, for it follows from the plan."""
    precision: str = "float32"
    """That it was run in: of a resumed training the one of its checkpoint, whatever the plan says now."""

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "rows": self.rows, "tokens": self.tokens, "cut": self.cut}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.rows, self.tokens, self.cut = state["steps"], state["rows"], state["tokens"], state["cut"]


def train(
    model: Model, plan: Plan, parts: dict[str, pa.Table], checkpoints: Path, reporter: Reporter, device: torch.device
) -> Outcome:
    """Train `model` in place.

    parts: the tables that objectives read, by name; checkpoints: a folder that belongs to just this plan and data.
    Where torchrun started several processes, each has an equal part of every batch, and their gradients are summed.
    Raises ValueError where a loss is not finite or a guard of the plan says stop: the last checkpoint stays.
    """
    for objective in plan.objectives:
        _check_split(objective)
    distributed.initialize(device)
    last = _last_whole(checkpoints)
    precision = (last / PRECISION).read_text() if last and (last / PRECISION).exists() else plan.precision
    accelerator = Accelerator(
        mixed_precision="no",  # ours is `torch.autocast` below: Accelerate's is one for all trainings of a process
        cpu=device.type == "cpu",
        step_scheduler_with_optimizer=False,  # which would step once for each process
    )
    device = accelerator.device
    if device.type == "cpu":
        heap.retain_freed_memory(max(weight.nbytes for weight in model.lm.parameters()))
    set_seed(plan.seed)
    model.lm.to(device).train()
    _ = model.head_kind  # found by running the model, which is no part of what `Flops` counts
    distributed.broadcast_parameters(model.lm)
    tables = {o.name: _usable(o, parts[o.reads]) for o in plan.objectives}
    states = {
        o.name: o.setup(model, tables[o.name]) for o in plan.objectives
    }  # of the base: a checkpoint is loaded later
    modules = [item.to(device) for item in states.values() if isinstance(item, torch.nn.Module)]
    for module in modules:
        distributed.broadcast_parameters(module)
    if distributed.rank():
        set_seed(plan.seed + distributed.rank())  # its rows are others, so is their dropout
    if plan.checkpointing:
        checkpoint_blocks(model)
    needed = estimate_memory([model.lm, *modules])
    reporter.note(needed.sentence(distributed.num_processes() if plan.parallel == "fsdp" else 1))
    lm = accelerator.prepare_model(
        model.lm, evaluation_mode=True
    )  # not wrapped in DDP: see `distributed.all_reduce_gradients`
    divided = _divided(model, modules, plan, precision)
    run, run_no_grad = (divided, divided.run_no_grad) if divided else (_call, _call)
    optimiser = _adamw([model.lm, *modules], plan.optimiser)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: lr_factor(plan.optimiser, step, plan.steps))
    optimiser, schedule = accelerator.prepare(optimiser, schedule)
    outcome = Outcome(0, *({o.name: 0 for o in plan.objectives} for _ in range(3)), needed, precision)
    rows = {
        o.name: Rows(tables[o.name], o.rows, _seed(plan.seed, o.name), partial(o.token_lengths, model=model))
        for o in plan.objectives
    }
    weights = [p for part in (lm, *modules) for p in part.parameters() if p.requires_grad]
    flops, speed = Flops(counts=device.type == "cuda"), 1.0
    if flops.counts:
        (speed,) = distributed.all_reduce_sum([peak(device, getattr(torch, precision))], device)
    probes = {
        o.name: (o, o.collate(_some(rows[o.name].at(0), PROBE_ROWS), model, plan.max_length))
        for o in plan.objectives
        if o.is_alignment and plan.guards.collapse
    }
    watch = TrainingMonitor(plan.guards, model, probes)
    accelerator.register_for_checkpointing(outcome, watch, flops, *modules)
    accelerator.register_save_state_pre_hook(without_frozen)
    if divided:
        divided.register_checkpoint_hooks(accelerator, optimiser.optimizer)
    if last:
        whole = all(p.requires_grad for p in model.lm.parameters())
        accelerator.load_state(str(last), strict=whole, map_location="cpu")
    looked = {} if outcome.steps else run_no_grad(watch.states)
    reporter.rewind(outcome.steps, last / LOG if last else None)

    for step in range(outcome.steps, plan.steps):
        losses: dict[str, float] = {}
        figures: dict[str, float] = {}
        tokens: dict[str, float] = {}
        cut: dict[str, float] = {}
        apart = PerObjectiveGradients(weights, separate=plan.gradients_every > 0 and step % plan.gradients_every == 0)
        batches = []
        for objective, turn in micro_batch_schedule(plan, step):
            with error_context(f"objective '{objective.name}', step {step}"):
                batch = objective.collate(_own(rows[objective.name].at(turn)), model, plan.max_length)
            batches.append((objective, batch))
        with _stopping(step, checkpoints):
            scales = loss_weights(batches, plan.accumulation, device)
            for (objective, batch), (share, scale) in zip(batches, scales, strict=True):
                count = max(1, objective.count(batch))
                for part in [batch] if divided else objective.microbatches(batch):  # each pass gathers what is divided
                    own = objective.count(part) / count
                    with (
                        error_context(f"objective '{objective.name}', step {step}"),
                        oom_as_abort(*oom_hint(objective, part, plan.max_length)),
                        apart.collect(objective.name),
                        flops.counting(objective.name, part["attention_mask"]) as forward_done,
                    ):
                        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                            loss, metrics = run(partial(objective.loss, model, part, states[objective.name]))
                        forward_done()
                        _check_reaches(loss, objective)
                        accelerator.backward(objective.weight * scale * own * loss)
                    losses[objective.name] = losses.get(objective.name, 0.0) + share * own * loss.item()
                    for name, value in metrics.items():
                        what = f"{objective.name}/{name}"
                        figures[what] = figures.get(what, 0.0) + share * own * value
                tokens[objective.name] = tokens.get(objective.name, 0) + int(batch["attention_mask"].sum())
                cut[objective.name] = cut.get(objective.name, 0) + int(batch["cut"])
                outcome.rows[objective.name] += objective.rows
            losses, figures, tokens, cut = _summed([losses, figures, tokens, cut], device)
            for name in tokens:
                outcome.tokens[name] += round(tokens[name])
                outcome.cut[name] += round(cut[name])
            figures |= looked | apart.merge()
            clipped = accelerator.clip_grad_norm_(weights, plan.optimiser.max_grad_norm)
            assert clipped is not None  # as DeepSpeed's is
            norm = float(distributed.full_tensor(clipped))
            watch.losses(losses, norm)
            looked = {}
            figures |= {"gradient_norm": norm, "learning_rate": schedule.get_last_lr()[0]}
            with oom_as_abort("the optimiser, which holds two numbers for each weight", "Take a smaller base"):
                optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            outcome.steps = step + 1
            saves = outcome.steps % plan.checkpoint_every == 0 and outcome.steps < plan.steps
            if saves or outcome.steps % plan.guards.every == 0:
                figures |= run_no_grad(watch.states)
        ideal = flops.needed(tokens) / speed
        reporter.step(step, plan.steps, losses, round(sum(tokens.values())), figures, outcome.rows, ideal)
        if saves:
            _save(accelerator, checkpoints, outcome, reporter.log)
    reporter.close()
    if divided:
        divided.unshard_model()
    model.lm.eval()
    return outcome


def _divided(model: Model, modules: Sequence[torch.nn.Module], plan: Plan, precision: str) -> "FsdpModel | None":
    """What has the weights in parts from now on, where the plan wants that and there is more than one process."""
    if plan.parallel == "data" or distributed.num_processes() == 1:
        return None
    from alignment_train.training.fsdp import FsdpModel

    return FsdpModel(model, modules, precision)


def _call(work: Callable[[], T]) -> T:
    return work()


@contextmanager
def _stopping(step: int, checkpoints: Path) -> Iterator[None]:
    """A guard's reason to stop becomes an error that says when, and what is left."""
    try:
        yield
    except TrainingAborted as reason:
        kept = _last(checkpoints) or "the base model"
        raise UserError(f"step {step}: {reason}. The last good state is in {kept}.") from None


def _own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a batch that this process has; the batch is sorted by length, and so all have as much."""
    return rows[distributed.rank() :: distributed.num_processes()]


def _summed(figures: list[dict[str, float]], device: torch.device) -> list[dict[str, float]]:
    """Each figure as the sum over all processes, which have the same names in the same order."""
    values = iter(distributed.all_reduce_sum([value for found in figures for value in found.values()], device))
    return [{name: next(values) for name in found} for found in figures]


def _check_split(objective: Objective) -> None:
    """ValueError where the batches of an objective cannot be divided among the processes."""
    count, name = distributed.num_processes(), f"train.objectives.{objective.name}"
    if count > 1 and not objective.supports_data_parallel:
        raise UserError(
            f"{name}: found {count} processes, but its loss needs its whole batch in one. Allowed: 1 process, without "
            f"torchrun. Start one, or leave the objective out."
        )
    if objective.rows % count:
        raise UserError(
            f"{name}.rows: found {objective.rows} with {count} processes. Allowed: a multiple of {count}, as each has "
            f"the same part of a batch. Take {-(-objective.rows // count) * count}."
        )


def _check_reaches(loss: torch.Tensor, objective: Objective) -> None:
    if not loss.requires_grad:
        raise UserError(
            f"train.trainable: found no trained weight that the loss of {objective.name} depends on. Expected: one at "
            f"least; a loss at a layer depends on the embeddings and the blocks below it. Fix: train more, or remove "
            f"the objective."
        )


def _some(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of the rows, from all lengths."""
    return rows[:: -(-len(rows) // most)]


def micro_batch_schedule(plan: Plan, step: int) -> list[tuple[Objective, int]]:
    """What a step runs, in order: an objective, and the number of its turn, from 0.

    A turn counts one objective's own micro-batches alone, so that it skips no row, whoever takes turns with it.
    """
    named = {objective.name: objective for objective in plan.objectives}
    order = plan.turns or list(named)
    out: list[tuple[Objective, int]] = []
    for place in range(plan.accumulation):
        number = step * plan.accumulation + place
        match plan.schedule:
            case "joint":
                out += [(objective, number) for objective in plan.objectives]
                continue
            case "alternate_step":
                now, turn = step % len(order), step // len(order) * plan.accumulation + place
            case "alternate_microbatch":
                now, turn = number % len(order), number // len(order)
        if order[now] in named:
            out.append((named[order[now]], turn))
    return out


def loss_weights(
    batches: Sequence[tuple[Objective, dict[str, torch.Tensor]]], accumulation: int, device: torch.device
) -> list[tuple[float, float]]:
    """Of each micro-batch of a step: its share in its objective's loss, and what its gradient is multiplied by.

    The shares of an objective go by `count` and sum to 1, over all processes; the multipliers sum to the part of the
    step's micro-batches that are its own.
    """
    counts = [objective.count(batch) for objective, batch in batches]
    total, batches_of = Counter[str](), Counter[str]()
    for (objective, _), count in zip(batches, distributed.all_reduce_sum(counts, device), strict=True):
        total[objective.name] += round(count)
        batches_of[objective.name] += 1
    found = [count / max(1, total[objective.name]) for (objective, _), count in zip(batches, counts, strict=True)]
    return [(share, share * batches_of[o.name] / accumulation) for (o, _), share in zip(batches, found, strict=True)]


def lr_factor(optimiser: Optimiser, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) as a share of its peak."""
    warm = max(1, round(optimiser.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    match optimiser.schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            return 1 - done
        case "inverse_sqrt":
            return math.sqrt(warm / (step + 1))
        case "constant":
            return 1.0


def _usable(objective: Objective, part: pa.Table) -> pa.Table:
    """The rows that an objective draws from; ValueError where they are less than a micro-batch."""
    mask = objective.row_mask(part)
    table = part if mask is None else part.filter(mask)
    if table.num_rows < objective.rows:
        raise UserError(
            f"train.objectives.{objective.name}: found {table.num_rows} rows that it can use, of {part.num_rows} rows "
            f"of {objective.reads}. Allowed: at least one batch of {objective.rows}. Lower its `rows`, or give it more "
            f"data."
        )
    return table


def _adamw(modules: Sequence[torch.nn.Module], settings: Optimiser) -> torch.optim.Optimizer:
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def _seed(*parts: int | str) -> int:
    """A seed for each purpose, the same in every process (`hash` of a text is not)."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])


def _last(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint: a folder gets its final name last."""
    found = [path for path in checkpoints.glob("step-*") if re.fullmatch("[0-9]+", path.name[5:])]
    return max(found, key=lambda path: int(path.name[5:]), default=None)


def _last_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint whose files are as they were written; the first process removes damaged ones."""
    if distributed.is_main_process():
        while (last := _last(checkpoints)) and (cause := files.digests_fault(last)):
            shutil.rmtree(last)
            start = _last(checkpoints) or "the beginning"
            sentence = f"Checkpoint {last}: {cause}. It was removed; training starts from {start}."
            print(printable("\n" * sys.stderr.isatty() + sentence), file=sys.stderr)  # after the progress line
    distributed.barrier()
    return _last(checkpoints)


def _save(accelerator: Accelerator, checkpoints: Path, outcome: Outcome, log: Path) -> None:
    """The first process writes, each adds its random state; the folder is one that all of them see.

    log: the lines of all steps up to now, which a resumed training continues.
    """
    fresh, old = checkpoints / "unfinished", _last(checkpoints)
    if distributed.is_main_process():
        shutil.rmtree(fresh, ignore_errors=True)
    distributed.barrier()
    try:
        with os_errors(checkpoints):
            accelerator.save_state(str(fresh))
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)  # what fills a disk must not stay there
        raise
    distributed.barrier()
    if distributed.is_main_process():
        shutil.copyfile(log, fresh / LOG)
        (fresh / PRECISION).write_text(outcome.precision)
        files.write_digests(fresh)
        fresh.rename(checkpoints / f"step-{outcome.steps:08}")
        files.sync_folder(checkpoints)
        if old:
            shutil.rmtree(old)
    distributed.barrier()
