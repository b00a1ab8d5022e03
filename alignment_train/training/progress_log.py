"""Where a training is: to the terminal, log.jsonl and TensorBoard, and to Dagster's log where Dagster started it."""

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

DAGSTER_INTERVAL = 5.0  # seconds between lines in Dagster's log


class Reporter:
    """Receives every step of one training; of several processes the first alone writes and speaks."""

    def __init__(self, title: str, log: Path, on_progress: ProgressCallback, dagster: Any = None):
        """log: a JSON-lines file, TensorBoard's go beside it; dagster: an open `dagster_pipes` context or None."""
        self.title, self.log, self.on_progress, self.dagster = title, log, on_progress, dagster
        self.board = log.parent / "tensorboard"
        self._writer: Any = None
        self._hook = threading.excepthook
        self._began, self._spoke, self._tokens, self._ideal = time.monotonic(), 0.0, 0, 0.0
        self._stepping = self._began
        self._first = 0
        self._before = 0.0
        self._losses: dict[str, float] = {}  # the latest of each objective

    def rewind(self, step: int, log: Path | None = None) -> None:
        """Forget what was logged at or after `step`: a resumed run logs it again. TensorBoard hides it.

        log: where the lines up to `step` are kept; by default in the log itself.
        """
        if not distributed.is_main_process():
            return
        from torch.utils.tensorboard import SummaryWriter

        self.log.parent.mkdir(parents=True, exist_ok=True)
        kept_in = log or self.log
        lines = kept_in.read_text().splitlines(keepends=True) if step and kept_in.exists() else []
        whole = [line for line in lines if line.endswith("}\n")]  # a kill may leave half a line
        kept = [line for line in whole if json.loads(line)["step"] < step]
        self.log.write_text("".join(kept))
        self._hook, threading.excepthook = threading.excepthook, _without_tensorboard(threading.excepthook)
        self._first, self._stepping = step, time.monotonic()
        self._before = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._writer = SummaryWriter(str(self.board), purge_step=step)

    def note(self, sentence: str) -> None:
        """Say something before the first step."""
        announce(f"{self.title} · {sentence}", self.dagster)

    def step(
        self,
        step: int,
        steps: int,
        losses: dict[str, float],
        tokens: int,
        more: dict[str, float],
        rows: dict[str, int],
        ideal: float = 0.0,
    ) -> None:
        """losses: nats by objective, of those whose turn it was; tokens: real ones of this step; more: further figures
        to log; rows: consumed by objective up to now; ideal: seconds that the step's FLOPs take at the device's peak, 0
        where that is not known. An MFU above 1 says that the peak was measured too low, and is not shown.
        """
        if not distributed.is_main_process():
            return
        self._tokens += tokens
        self._ideal += ideal
        self._losses |= losses
        spent = max(time.monotonic() - self._stepping, 1e-6)
        eta = spent / (step + 1 - self._first) * (steps - step - 1)
        mfu = self._ideal / spent
        line = {
            "step": step,
            "loss": {name: round(value, 6) for name, value in losses.items()},
            **{name: float(f"{value:.6g}") for name, value in more.items()},
            "rows": rows,
            "tokens": tokens,
            "tokens_per_second": round(self._tokens / spent),
            **({"mfu": round(mfu, 4)} if 0 < mfu <= 1 else {}),
            "seconds": round(self.seconds(), 2),
            "eta_seconds": round(eta, 1),
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._draw(line)
        values = " ".join(f"{name} {value:.3f}" for name, value in self._losses.items())
        speed = f"{self._tokens / spent:,.0f} tokens/s"
        share = f"MFU {100 * mfu:.0f} %" if "mfu" in line else ""
        note = " · ".join(filter(None, (f"step {step + 1}/{steps}", values, speed, share)))
        self.on_progress(step + 1, steps, note)
        if self.dagster and (time.monotonic() - self._spoke > DAGSTER_INTERVAL or step + 1 == steps):
            self._spoke = time.monotonic()
            self.dagster.log.info(f"{self.title} · {note} · {clock(eta)} left")

    def _draw(self, line: dict[str, Any]) -> None:
        """One TensorBoard curve for each figure of a line of the log, those of objectives as `loss/NAME`."""
        if not self._writer:
            return
        for name, value in line.items():
            if name not in ("step", "seconds", "eta_seconds"):
                for part, figure in value.items() if isinstance(value, dict) else [("", value)]:
                    self._writer.add_scalar(f"{name}/{part}".rstrip("/"), figure, line["step"])

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer:
            self._writer.close()
            self._writer = None
        threading.excepthook = self._hook

    def last(self) -> dict[str, float]:
        """The last value of speed, MFU and of every figure of the gradients, as the log has them."""
        out: dict[str, float] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else []:
            found = json.loads(line)
            out |= {n: v for n, v in found.items() if n in ("tokens_per_second", "mfu") or n.startswith("gradient_")}
        return out

    def seconds(self) -> float:
        """Seconds of work: of this process, and what a killed one before it had logged."""
        return self._before + time.monotonic() - self._began

    def ends(self, share: float = 0.1) -> tuple[dict[str, float], dict[str, float]]:
        """Mean loss by objective over the first and over the last tenth of the steps that it took part in."""
        if not self.log.exists():
            return {}, {}
        found: dict[str, list[float]] = {}
        for line in self.log.read_text().splitlines():
            for name, value in json.loads(line)["loss"].items():
                found.setdefault(name, []).append(value)
        sizes = {name: max(1, round(share * len(values))) for name, values in found.items()}
        first = {name: round(fmean(values[: sizes[name]]), 6) for name, values in found.items()}
        last = {name: round(fmean(values[-sizes[name] :]), 6) for name, values in found.items()}
        return first, last


def announce(sentence: str, dagster: Any = None) -> None:
    """Print a line that stays, on stderr and in Dagster's log; of several processes the first one."""
    if distributed.is_main_process():
        print(printable("\n" * sys.stderr.isatty() + sentence), file=sys.stderr, flush=True)  # after the progress line
        if dagster:
            dagster.log.info(sentence)


_announced: set[str] = set()


def announce_once(sentence: str, dagster: Any = None) -> None:
    """`announce`, but nothing that this process has announced before."""
    if sentence not in _announced:
        _announced.add(sentence)
        announce(sentence, dagster)


def _without_tensorboard(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`hook`, but for what TensorBoard's thread raises where the disk is full: the next figure raises it again."""

    def report(args: Any) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
            hook(args)

    return report


@contextmanager
def dagster_pipes() -> Iterator[Any]:
    """The open Pipes context where Dagster started this process as rank 0, else None.

    Under Dagster the process also ends when Dagster dies: a trainer without its run must not go on writing.
    """
    if "DAGSTER_PIPES_CONTEXT" not in os.environ or not distributed.is_main_process():
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    die_with_parent(int(os.environ.get("ISOGLOSS_PARENT") or os.getppid()))  # it may have died while torch was loading
    with open_dagster_pipes() as context:
        yield context


def die_with_parent(parent: int) -> None:
    """Kill this process once `parent`, the process that started it, has ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)  # as a killed run: the last checkpoint is whole, the next run resumes

    threading.Thread(target=watch, daemon=True).start()
