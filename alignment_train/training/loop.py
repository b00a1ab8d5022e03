"""The training loop: objectives on the training mix, one optimizer step after another, resumable at any point."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.settings import Optimiser
from alignment_train.training import distributed, heap
from alignment_train.training.checkpoints import LOG, PRECISION, Checkpoints
from alignment_train.training.data import Rows
from alignment_train.training.flops import Flops, peak
from alignment_train.training.gradients import PerObjectiveGradients
from alignment_train.training.guards import PROBE_ROWS, TrainingAborted, TrainingMonitor, oom_as_abort, oom_hint
from alignment_train.training.plan import Outcome, Plan
from alignment_train.training.progress_log import Reporter
from alignment_train.training.schedule import loss_weights, lr_factor, micro_batch_schedule
from alignment_train.training.trainable import checkpoint_blocks, drop_frozen, estimate_memory
from pipelines.errors import UserError, error_context

if TYPE_CHECKING:
    from alignment_train.training.fsdp import FsdpModel

T = TypeVar("T")
Batch = dict[str, Tensor]
Row = dict[str, Any]

logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns about the tied head at every checkpoint


def train(
    model: Model, plan: Plan, parts: dict[str, pa.Table], checkpoints: Path, reporter: Reporter, device: torch.device
) -> Outcome:
    """Train `model` in place, from the last checkpoint if there is one.

    With several processes (torchrun), each runs an equal part of every batch, and gradients are summed.

    Args:
        parts: The tables that objectives read, by name.
        checkpoints: A folder for this plan and data only.

    Raises:
        UserError: A loss is not finite, or a guard aborts the training. The last checkpoint is kept.
    """
    loop = TrainingLoop(model, plan, parts, Checkpoints(checkpoints), reporter, device)
    loop.resume()
    for step in range(loop.outcome.steps, plan.steps):
        with loop.reporting_abort(step):
            metrics = loop.forward_backward(step)
            loop.optimizer_step(metrics)
            loop.measure_states(metrics)
        loop.log(step, metrics)
        if loop.is_checkpoint_due:
            loop.checkpoint()
    return loop.finish()


@dataclass
class StepMetrics:
    """Figures of one step, by objective except for `figures`."""

    losses: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    """Further figures, by `OBJECTIVE/NAME` or name."""
    tokens: dict[str, float] = field(default_factory=dict)
    cut: dict[str, float] = field(default_factory=dict)
    """Truncated texts."""


class TrainingLoop:
    """The state of one training: model, objectives, optimizer, monitor and counts."""

    fsdp: "FsdpModel | None"

    def __init__(
        self,
        model: Model,
        plan: Plan,
        parts: dict[str, pa.Table],
        checkpoints: Checkpoints,
        reporter: Reporter,
        device: torch.device,
    ):
        for objective in plan.objectives:
            _check_data_parallel(objective)
        distributed.initialize(device)
        self.model, self.plan, self.checkpoints, self.reporter = model, plan, checkpoints, reporter
        self._resumed_from = last = checkpoints.latest_intact()
        self.precision = (last / PRECISION).read_text() if last and (last / PRECISION).exists() else plan.precision
        self.accelerator = Accelerator(
            mixed_precision="no",  # `torch.autocast` is used instead: Accelerate's setting is global to the process
            cpu=device.type == "cpu",
            step_scheduler_with_optimizer=False,  # would step once for each process
        )
        self.device = self.accelerator.device
        self._prepare_model()
        self._set_up_objectives(parts)
        self._shard_model()
        self._create_optimizer()
        self._create_monitor()
        self._register_checkpointed()

    def _prepare_model(self) -> None:
        if self.device.type == "cpu":
            heap.retain_freed_memory(max(weight.nbytes for weight in self.model.lm.parameters()))
        set_seed(self.plan.seed)
        self.model.lm.to(self.device).train()
        _ = self.model.head_kind  # determined by running the model, which `Flops` must not count
        distributed.broadcast_parameters(self.model.lm)

    def _set_up_objectives(self, parts: dict[str, pa.Table]) -> None:
        """Let objectives derive their state from the base model, before a checkpoint is loaded."""
        objectives = self.plan.objectives
        tables = {o.name: _usable_rows(o, parts[o.reads]) for o in objectives}
        self.states = {o.name: o.setup(self.model, tables[o.name]) for o in objectives}
        self.modules = [state.to(self.device) for state in self.states.values() if isinstance(state, nn.Module)]
        for module in self.modules:
            distributed.broadcast_parameters(module)
        if distributed.rank():
            set_seed(self.plan.seed + distributed.rank())  # each process has other rows, and other dropout
        self.rows = {
            o.name: Rows(
                tables[o.name],
                o.rows,
                _derive_seed(self.plan.seed, o.name),
                partial(o.token_lengths, model=self.model),
            )
            for o in objectives
        }

    def _shard_model(self) -> None:
        plan = self.plan
        if plan.checkpointing:
            checkpoint_blocks(self.model)
        self.memory = estimate_memory([self.model.lm, *self.modules])
        self.reporter.note(self.memory.sentence(distributed.num_processes() if plan.parallel == "fsdp" else 1))
        # evaluation_mode: without DistributedDataParallel, see `distributed.all_reduce_gradients`
        self.lm = self.accelerator.prepare_model(self.model.lm, evaluation_mode=True)
        self.fsdp = None
        if plan.parallel == "fsdp" and distributed.num_processes() > 1:
            from alignment_train.training.fsdp import FsdpModel

            self.fsdp = FsdpModel(self.model, self.modules, self.precision)

    def _create_optimizer(self) -> None:
        plan = self.plan
        optimizer = _adamw([self.model.lm, *self.modules], plan.optimiser)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: lr_factor(plan.optimiser, n, plan.steps))
        self.optimizer, self.scheduler = self.accelerator.prepare(optimizer, scheduler)
        rows, tokens, cut = ({o.name: 0 for o in plan.objectives} for _ in range(3))
        self.outcome = Outcome(0, rows, tokens, cut, self.memory, self.precision)
        self.weights = [p for part in (self.lm, *self.modules) for p in part.parameters() if p.requires_grad]

    def _create_monitor(self) -> None:
        plan = self.plan
        self.flops, self.peak_flops = Flops(counts=self.device.type == "cuda"), 1.0
        if self.flops.counts:
            local_peak = peak(self.device, getattr(torch, self.precision))
            (self.peak_flops,) = distributed.all_reduce_sum([local_peak], self.device)
        probes = {
            o.name: (o, o.collate(_every_nth(self.rows[o.name].at(0), PROBE_ROWS), self.model, plan.max_length))
            for o in plan.objectives
            if o.is_alignment and plan.guards.collapse
        }
        self.monitor = TrainingMonitor(plan.guards, self.model, probes)

    def _register_checkpointed(self) -> None:
        self.accelerator.register_for_checkpointing(self.outcome, self.monitor, self.flops, *self.modules)
        self.accelerator.register_save_state_pre_hook(drop_frozen)
        if self.fsdp:
            self.fsdp.register_checkpoint_hooks(self.accelerator, self.optimizer.optimizer)

    def resume(self) -> None:
        """Continue from the last checkpoint, or measure what the guards compare with."""
        last = self._resumed_from
        if last:
            has_all_weights = all(p.requires_grad for p in self.model.lm.parameters())
            self.accelerator.load_state(str(last), strict=has_all_weights, map_location="cpu")
        self._initial_ranks = {} if self.outcome.steps else self._run_no_grad(self.monitor.check_states)
        self.reporter.rewind(self.outcome.steps, last / LOG if last else None)

    def forward_backward(self, step: int) -> StepMetrics:
        """Run the micro-batches of a step, leaving the gradient of their weighted losses, summed over processes."""
        separate = self.plan.gradients_every > 0 and step % self.plan.gradients_every == 0
        gradients, metrics = PerObjectiveGradients(self.weights, separate), StepMetrics()
        batches = self._collate(step)
        weights = loss_weights(batches, self.plan.accumulation, self.device)
        for (objective, batch), (weight, factor) in zip(batches, weights, strict=True):
            self._run_batch(step, objective, batch, weight, factor, gradients, metrics)
        self._reduce(metrics)
        for name in metrics.tokens:
            self.outcome.tokens[name] += round(metrics.tokens[name])
            self.outcome.cut[name] += round(metrics.cut[name])
        metrics.figures |= self._initial_ranks | gradients.merge()
        self._initial_ranks = {}
        return metrics

    def _collate(self, step: int) -> list[tuple[Objective, Batch]]:
        batches = []
        for objective, index in micro_batch_schedule(self.plan, step):
            with error_context(f"objective '{objective.name}', step {step}"):
                rows = _process_shard(self.rows[objective.name].at(index))
                batches.append((objective, objective.collate(rows, self.model, self.plan.max_length)))
        return batches

    def _run_batch(
        self,
        step: int,
        objective: Objective,
        batch: Batch,
        weight: float,
        factor: float,
        gradients: PerObjectiveGradients,
        metrics: StepMetrics,
    ) -> None:
        """Forward and backward passes over a batch, in the parts that the objective splits it into."""
        name, count = objective.name, max(1, objective.count(batch))
        # with FSDP every pass gathers the weights, so the batch is not split
        for part in [batch] if self.fsdp else objective.microbatches(batch):
            fraction = objective.count(part) / count
            with (
                error_context(f"objective '{name}', step {step}"),
                oom_as_abort(*oom_hint(objective, part, self.plan.max_length)),
                gradients.collect(name),
                self.flops.counting(name, part["attention_mask"]) as forward_done,
            ):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                    loss, figures = self._run(partial(objective.loss, self.model, part, self.states[name]))
                forward_done()
                _check_requires_grad(loss, objective)
                self.accelerator.backward(objective.weight * factor * fraction * loss)
            metrics.losses[name] = metrics.losses.get(name, 0.0) + weight * fraction * loss.item()
            for figure, value in figures.items():
                key = f"{name}/{figure}"
                metrics.figures[key] = metrics.figures.get(key, 0.0) + weight * fraction * value
        metrics.tokens[name] = metrics.tokens.get(name, 0) + int(batch["attention_mask"].sum())
        metrics.cut[name] = metrics.cut.get(name, 0) + int(batch["cut"])
        self.outcome.rows[name] += objective.rows

    def _reduce(self, metrics: StepMetrics) -> None:
        """Sum the figures over all processes, which have the same names in the same order."""
        tables = [metrics.losses, metrics.figures, metrics.tokens, metrics.cut]
        sums = iter(distributed.all_reduce_sum([value for table in tables for value in table.values()], self.device))
        for table in tables:
            for name in table:
                table[name] = next(sums)

    def optimizer_step(self, metrics: StepMetrics) -> None:
        """Clip the gradient, check it and the losses, and update weights and learning rate."""
        clipped = self.accelerator.clip_grad_norm_(self.weights, self.plan.optimiser.max_grad_norm)
        assert clipped is not None  # as it is with DeepSpeed
        norm = float(distributed.full_tensor(clipped))
        self.monitor.check_losses(metrics.losses, norm)
        metrics.figures |= {"gradient_norm": norm, "learning_rate": self.scheduler.get_last_lr()[0]}
        with oom_as_abort("the optimiser, which has two moments for each weight", "use a smaller base model"):
            self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.outcome.steps += 1

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether a checkpoint follows the last completed step."""
        return self.outcome.steps % self.plan.checkpoint_every == 0 and self.outcome.steps < self.plan.steps

    def measure_states(self, metrics: StepMetrics) -> None:
        """Check pooled states for collapse, at intervals and before each checkpoint."""
        if self.is_checkpoint_due or self.outcome.steps % self.plan.guards.every == 0:
            metrics.figures |= self._run_no_grad(self.monitor.check_states)

    def log(self, step: int, metrics: StepMetrics) -> None:
        """Report a step to log, terminal, TensorBoard and Dagster."""
        ideal_seconds = self.flops.needed(metrics.tokens) / self.peak_flops
        tokens, rows = round(sum(metrics.tokens.values())), self.outcome.rows
        self.reporter.step(step, self.plan.steps, metrics.losses, tokens, metrics.figures, rows, ideal_seconds)

    def checkpoint(self) -> None:
        """Write a checkpoint from which `resume` continues to the same weights."""
        self.checkpoints.save(self.accelerator, self.outcome, self.reporter.log)

    def finish(self) -> Outcome:
        """Close the log and leave the whole model in evaluation mode."""
        self.reporter.close()
        if self.fsdp:
            self.fsdp.unshard_model()
        self.model.lm.eval()
        return self.outcome

    @contextmanager
    def reporting_abort(self, step: int) -> Iterator[None]:
        """Add the step and the last checkpoint to the reason why a guard aborts the training."""
        try:
            yield
        except TrainingAborted as reason:
            last = self.checkpoints.latest() or "the base model"
            raise UserError(f"step {step}: {reason}. The last good state is in {last}.") from None

    def _run(self, forward: Callable[[], T]) -> T:
        return self.fsdp(forward) if self.fsdp else forward()

    def _run_no_grad(self, forward: Callable[[], T]) -> T:
        return self.fsdp.run_no_grad(forward) if self.fsdp else forward()


def _check_data_parallel(objective: Objective) -> None:
    """Raise a UserError if the batches of an objective cannot be divided among the processes."""
    count, name = distributed.num_processes(), f"train.objectives.{objective.name}"
    if count > 1 and not objective.supports_data_parallel:
        raise UserError(
            f"{name}: found {count} processes, but its loss needs the whole batch in one. Expected: 1 process, without "
            f"torchrun. Fix: start one process, or remove the objective."
        )
    if objective.rows % count:
        raise UserError(
            f"{name}.rows: found {objective.rows} with {count} processes. Expected: a multiple of {count}, because "
            f"batches are divided equally. Fix: set rows to {-(-objective.rows // count) * count}."
        )


def _check_requires_grad(loss: Tensor, objective: Objective) -> None:
    if not loss.requires_grad:
        raise UserError(
            f"train.trainable: found no trained weight that the loss of {objective.name} depends on. Expected: at "
            f"least one; a loss at a layer depends on the embeddings and the blocks below it. Fix: train more weights, "
            f"or remove the objective."
        )


def _usable_rows(objective: Objective, part: pa.Table) -> pa.Table:
    """The rows that an objective trains on; a UserError if they do not fill a batch."""
    mask = objective.row_mask(part)
    table = part if mask is None else part.filter(mask)
    if table.num_rows < objective.rows:
        raise UserError(
            f"train.objectives.{objective.name}: found {table.num_rows} usable rows among the {part.num_rows} of "
            f"{objective.reads}. Expected: at least one batch of {objective.rows}. Fix: lower its `rows`, or add data."
        )
    return table


def _process_shard(rows: list[Row]) -> list[Row]:
    """The rows of a batch that this process runs; batches are sorted by length, so shards have similar lengths."""
    return rows[distributed.rank() :: distributed.num_processes()]


def _every_nth(rows: list[Row], limit: int) -> list[Row]:
    """At most `limit` rows, evenly spaced, so that all lengths occur."""
    return rows[:: -(-len(rows) // limit)]


def _adamw(modules: Sequence[nn.Module], settings: Optimiser) -> torch.optim.Optimizer:
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def _derive_seed(*parts: int | str) -> int:
    """A seed for each purpose, the same in every process, unlike `hash` of a string."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])
