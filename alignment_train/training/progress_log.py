"""Progress of a training: terminal, log.jsonl and TensorBoard, and Dagster's log if Dagster started the process."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from alignment_train.training import distributed
from pipelines.errors import printable
from pipelines.progress import ProgressCallback, clock

DAGSTER_INTERVAL = 5.0
"""Seconds between lines in Dagster's log."""


class Reporter:
    """Reports the steps of one training; of several processes only the main one does."""

    def __init__(self, title: str, log: Path, on_progress: ProgressCallback, dagster: Any = None):
        """
        Args:
            title: The asset that is trained.
            log: A JSON-lines file; TensorBoard's files are written beside it.
            dagster: An open `dagster_pipes` context, or None.
        """
        self.title, self.log, self.on_progress, self.dagster = title, log, on_progress, dagster
        self.board = log.parent / "tensorboard"
        self._writer: Any = None
        self._hook = threading.excepthook
        self._tokens, self._ideal_seconds = 0, 0.0  # of this process
        self._start_time = self._first_step_time = time.monotonic()
        self._dagster_time = 0.0
        self._first_step = 0
        self._seconds_before = 0.0
        self._losses: dict[str, float] = {}
        """The latest loss of each objective."""

    def rewind(self, step: int, log: Path | None = None) -> None:
        """Remove log lines at or after `step`, which a resumed run writes again; TensorBoard hides them.

        Args:
            log: A file with the lines before `step`; by default the log itself.
        """
        if not distributed.is_main_process():
            return
        from torch.utils.tensorboard import SummaryWriter

        self.log.parent.mkdir(parents=True, exist_ok=True)
        source = log or self.log
        lines = source.read_text().splitlines(keepends=True) if step and source.exists() else []
        complete = [line for line in lines if line.endswith("}\n")]  # a kill may leave half a line
        kept = [line for line in complete if json.loads(line)["step"] < step]
        self.log.write_text("".join(kept))
        self._hook, threading.excepthook = threading.excepthook, _ignoring_tensorboard(threading.excepthook)
        self._first_step, self._first_step_time = step, time.monotonic()
        self._seconds_before = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._writer = SummaryWriter(str(self.board), purge_step=step)

    def note(self, sentence: str) -> None:
        """Announce a sentence before the first step."""
        announce(f"{self.title} · {sentence}", self.dagster)

    def step(
        self,
        step: int,
        steps: int,
        losses: dict[str, float],
        tokens: int,
        figures: dict[str, float],
        rows: dict[str, int],
        ideal_seconds: float = 0.0,
    ) -> None:
        """Report a step.

        Args:
            step: Number of the step, from 0.
            steps: Number of steps of the training.
            losses: Losses in nats, of the objectives that this step trained.
            tokens: Tokens of this step without padding.
            figures: Further figures to log.
            rows: Rows consumed so far, by objective.
            ideal_seconds: Time for the step's FLOPs at the device's peak, 0 if unknown. An MFU above 1 means that the
                peak was measured too low, and is omitted.
        """
        if not distributed.is_main_process():
            return
        self._tokens += tokens
        self._ideal_seconds += ideal_seconds
        self._losses |= losses
        elapsed = max(time.monotonic() - self._first_step_time, 1e-6)
        eta = elapsed / (step + 1 - self._first_step) * (steps - step - 1)
        mfu = self._ideal_seconds / elapsed
        line = {
            "step": step,
            "loss": {name: round(value, 6) for name, value in losses.items()},
            **{name: float(f"{value:.6g}") for name, value in figures.items()},
            "rows": rows,
            "tokens": tokens,
            "tokens_per_second": round(self._tokens / elapsed),
            **({"mfu": round(mfu, 4)} if 0 < mfu <= 1 else {}),
            "seconds": round(self.seconds(), 2),
            "eta_seconds": round(eta, 1),
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._add_scalars(line)
        values = " ".join(f"{name} {value:.3f}" for name, value in self._losses.items())
        speed = f"{self._tokens / elapsed:,.0f} tokens/s"
        utilisation = f"MFU {100 * mfu:.0f} %" if "mfu" in line else ""
        note = " · ".join(filter(None, (f"step {step + 1}/{steps}", values, speed, utilisation)))
        self.on_progress(step + 1, steps, note)
        if self.dagster and (time.monotonic() - self._dagster_time > DAGSTER_INTERVAL or step + 1 == steps):
            self._dagster_time = time.monotonic()
            self.dagster.log.info(f"{self.title} · {note} · {clock(eta)} left")

    def _add_scalars(self, line: dict[str, Any]) -> None:
        """Add a line of the log to TensorBoard: a curve for each figure, `loss/NAME` for those of objectives."""
        if not self._writer:
            return
        for name, value in line.items():
            if name not in ("step", "seconds", "eta_seconds"):
                for part, figure in value.items() if isinstance(value, dict) else [("", value)]:
                    self._writer.add_scalar(f"{name}/{part}".rstrip("/"), figure, line["step"])

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._writer:
            self._writer.close()
            self._writer = None
        threading.excepthook = self._hook

    def last(self) -> dict[str, float]:
        """The last logged values of speed, MFU and gradient figures."""
        values: dict[str, float] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            row = json.loads(line)
            values |= {n: v for n, v in row.items() if n in ("tokens_per_second", "mfu") or n.startswith("gradient_")}
        return values

    def seconds(self) -> float:
        """Seconds of work, including what a killed process before this one logged."""
        return self._seconds_before + time.monotonic() - self._start_time

    def ends(self, fraction: float = 0.1) -> tuple[dict[str, float], dict[str, float]]:
        """Mean loss by objective over the first and the last tenth of the steps that trained it."""
        if not self.log.exists():
            return {}, {}
        losses: dict[str, list[float]] = {}
        for line in self.log.read_text().splitlines():
            for name, value in json.loads(line)["loss"].items():
                losses.setdefault(name, []).append(value)
        sizes = {name: max(1, round(fraction * len(values))) for name, values in losses.items()}
        first = {name: round(fmean(values[: sizes[name]]), 6) for name, values in losses.items()}
        last = {name: round(fmean(values[-sizes[name] :]), 6) for name, values in losses.items()}
        return first, last


def announce(sentence: str, dagster: Any = None) -> None:
    """Print a permanent line on stderr and in Dagster's log, from the main process."""
    if distributed.is_main_process():
        print(
            printable("\n" * sys.stderr.isatty() + sentence), file=sys.stderr, flush=True
        )  # on a terminal, after the progress line
        if dagster:
            dagster.log.info(sentence)


_announced: set[str] = set()


def announce_once(sentence: str, dagster: Any = None) -> None:
    """Like `announce`, but only once in this process."""
    if sentence not in _announced:
        _announced.add(sentence)
        announce(sentence, dagster)


def _ignoring_tensorboard(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`hook`, except for errors of TensorBoard's thread on a full disk, which the next figure raises again."""

    def report(args: Any) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            hook(args)

    return report


@contextmanager
def dagster_pipes() -> Iterator[Any]:
    """The open Pipes context if Dagster started this process and it is the main one, else None.

    The process then also ends when Dagster dies, because it must not continue to write without its run.
    """
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or not distributed.is_main_process():
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    die_with_parent(
        int(os.environ.get("ISOGLOSS_PARENT") or os.getppid())
    )  # Dagster may have died while torch was loading
    with open_dagster_pipes() as context:
        yield context


def die_with_parent(parent: int) -> None:
    """Kill this process when `parent`, the process that started it, has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)  # checkpoints stay intact, and the next run resumes

    threading.Thread(target=watch, daemon=True).start()
