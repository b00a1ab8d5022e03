"""One line that says what runs, how far it is and how long still: live on a terminal, else a line every 10 seconds."""

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from pipelines.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

INTERVAL = 8.0  # seconds between plain lines: below the 10 that users are promised


class ProgressCallback(Protocol):
    """Called by a stage to report progress: `done` of `total` units; total is 0 where it is not known."""

    def __call__(self, done: float, total: float = 0, note: str = "") -> None: ...


def no_progress(done: float, total: float = 0, note: str = "") -> None:
    """A ProgressCallback that reports nothing."""


class Progress:
    """Shows the state of the current task from a thread of its own, so that a long step is not a silent one.

    On a terminal a bar of `rich`, which a finished task leaves as one line; elsewhere plain lines.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._title, self._began = "", time.monotonic()
        self._state: tuple[float, float, str] = (0, 0, "")
        self._bar = _live_bar(self.stream) if self.live else None
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        else:
            self._stop.set()
            self._thread.join()

    def start(self, title: str) -> None:
        """Begin a task; its title is shown until the next one."""
        with self._lock:
            self._title, self._began, self._state = title, time.monotonic(), (0, 0, "")
        if self._bar:
            self._remove_tasks(self._bar)
            self._bar.add_task(_one_line(title), total=None, note="")
        else:
            self._print()

    def update(self, done: float, total: float = 0, note: str = "") -> None:
        """The ProgressCallback of the current task."""
        with self._lock:
            self._state = (done, total, note)
        if self._bar and self._bar.task_ids:
            self._bar.update(self._bar.task_ids[-1], completed=done, total=total or None, note=_one_line(note))

    def finish(self, note: str) -> None:
        """End the task and leave a line with its result."""
        with self._lock:
            line = _one_line(f"{self._title}: {note} ({clock(time.monotonic() - self._began)})")
            self._title = ""
        if self._bar:
            self._remove_tasks(self._bar)
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._write(line)

    @staticmethod
    def _remove_tasks(bar: "RichProgress") -> None:
        for task in bar.task_ids:
            bar.remove_task(task)

    def _line(self) -> str:
        with self._lock:
            if not self._title:
                return ""
            (done, total, note), spent = self._state, time.monotonic() - self._began
            parts = [self._title]
            if total:
                parts.append(f"{min(done / total, 1):.0%}")
            if note:
                parts.append(note)
            parts.append(clock(spent))
            if total and done:
                parts.append(f"{clock(spent * (total - done) / done)} left")
        return " · ".join(parts)

    def _print(self) -> None:
        if line := self._line():
            self._write(_one_line(line))

    def _write(self, line: str) -> None:
        self.stream.write(f"{line}\n")
        self.stream.flush()

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._print()


def clock(seconds: float) -> str:
    """`7 s`, `2:05`, `1:02:05`."""
    whole = int(max(0, seconds) + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _one_line(text: str) -> str:
    return printable(" ".join(text.splitlines()))


def _live_bar(stream: TextIO) -> "RichProgress":
    """Title, bar, percentage, note, time spent and time left; a pulse where the total is not known."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.progress import Task as RichTask
    from rich.text import Text

    class Times(ProgressColumn):
        def render(self, task: RichTask) -> Text:
            left = f", {clock(task.time_remaining)} left" if task.time_remaining is not None and task.total else ""
            return Text(f"{clock(task.elapsed or 0)}{left}", style="dim")

    class Percentage(ProgressColumn):
        def render(self, task: RichTask) -> Text:
            return Text(f"{task.percentage:3.0f} %" if task.total else "")

    return RichProgress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Percentage(),
        TextColumn("{task.fields[note]}", markup=False),
        Times(),
        console=Console(file=stream, force_terminal=True, highlight=False),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        refresh_per_second=4,
        speed_estimate_period=60,
    )
