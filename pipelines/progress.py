"""One line that says what runs, how far it is and how long still: live on a terminal, else a line every 10 seconds."""

import sys
import threading
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

from pipelines.errors import printable

INTERVAL = 8.0  # seconds between plain lines: below the 10 that users are promised


class ProgressCallback(Protocol):
    """How a stage says where it is: `done` of `total` units; total 0 where it cannot be known."""

    def __call__(self, done: float, total: float = 0, note: str = "") -> None: ...


def no_progress(done: float, total: float = 0, note: str = "") -> None:
    """A Tell that says nothing."""


class Progress:
    """Prints the state of the task at hand from a thread of its own, so that a long step is not a silent one."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._title, self._began = "", time.monotonic()
        self._state: tuple[float, float, str] = (0, 0, "")
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def start(self, title: str) -> None:
        """Begin a task; its title is shown until the next one."""
        with self._lock:
            self._title, self._began, self._state = title, time.monotonic(), (0, 0, "")
        self._print()

    def update(self, done: float, total: float = 0, note: str = "") -> None:
        """A Tell for the task at hand."""
        with self._lock:
            self._state = (done, total, note)

    def finish(self, note: str) -> None:
        """End the task with what came of it."""
        with self._lock:
            line = f"{self._title}: {note} ({clock(time.monotonic() - self._began)})"
            self._title = ""
        self._write(line, end="\n")

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
            self._write(line, end="" if self.live else "\n")

    def _write(self, line: str, end: str) -> None:
        line = printable(" ".join(line.splitlines()))
        self.stream.write(f"\r\x1b[2K{line}{end}" if self.live else f"{line}{end}")
        self.stream.flush()

    def _beat(self) -> None:
        while not self._stop.wait(0.5 if self.live else INTERVAL):
            self._print()


def clock(seconds: float) -> str:
    """`7 s`, `2:05`, `1:02:05`."""
    whole = int(max(0, seconds) + 0.5)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
