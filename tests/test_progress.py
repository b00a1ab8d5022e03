import io
import threading

from pipelines import progress
from pipelines.progress import Progress, clock
from tests.support.terminal import without_control_sequences


def test_a_long_step_is_never_silent_without_a_terminal(monkeypatch) -> None:
    enough = threading.Event()

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if self.getvalue().count("\n") >= 3:
                enough.set()
            return super().write(text)

    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with Progress(Stream()) as shown:
        shown.start("clean_bitext")
        shown.update(1, 4, "lid")
        assert enough.wait(10)
        shown.finish("3 rows")
    lines = shown.stream.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "clean_bitext · 0 s"
    assert "clean_bitext · 25% · lid · 0 s · 0 s left" in lines
    assert lines[-1] == "clean_bitext: 3 rows (0 s)"


def test_the_interval_is_below_the_promised_ten_seconds() -> None:
    assert progress.INTERVAL < 10


def test_a_terminal_gets_a_bar_that_the_result_replaces() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress(stream) as shown:
        shown.start("mix")
        shown.finish("done")
    shown_text = without_control_sequences(stream.getvalue())
    assert " mix ━" in shown_text
    assert "mix: done (0 s)\n" in shown_text


def test_where_the_total_is_unknown_there_is_neither_share_nor_time_left() -> None:
    shown = Progress(io.StringIO())
    shown.start("raw_bitext")
    shown.update(20, 0, "20 rows")
    assert shown._line() == "raw_bitext · 20 rows · 0 s"


def test_times_are_read_at_a_glance() -> None:
    assert [clock(s) for s in (-1, 0, 7.4, 59.6, 125, 3725)] == ["0 s", "0 s", "7 s", "1:00", "2:05", "1:02:05"]
