"""What comes from outside reaches terminals and cards only through `printable`."""

import ast
import io
from pathlib import Path

import pytest

import alignment_train
import assets
import pipelines
from pipelines.errors import printable, quoted
from pipelines.progress import Progress
from pipelines.report.data_card import cell
from tests.support.terminal import without_control_sequences

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "window title": "\x1b]0;owned\x07",
    "clear the screen": "\x1b[2J\x1b[H",
    "C1 escape": "\x9b31mred",
    "backspace over a name": "evil\x08\x08\x08\x08good",
    "carriage return over a line": "a\rerror: nothing",
    "right-to-left override": "gpj\u202eexe.png",
    "isolate": "\u2066x\u2069",
    "marks": "a\u200e\u200f\u061cb",
    "line separator": "a\u2028error: b\u2029c",
    "lone surrogate": "a\ud800b",
    "null": "a\0b",
    "delete": "a\x7fb",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_a_terminal_obeys_is_replaced(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert "\ufffd" in shown
    shown.encode()  # a lone surrogate could not be written
    assert not set(shown) & set("\x1b\x9b\x07\x08\r\0\x7f\u202e\u2066\u2069\u200e\u200f\u061c\u2028\u2029")
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text", ["naïve — 中文 हिन्दी 👩\u200d👩 می\u200cخواهم\tx\ny", "العربية", "🏴\U000e0067\U000e007f"]
)
def test_other_text_is_left_alone(text: str) -> None:
    assert printable(text) == text


def test_a_quoted_name_is_one_short_line() -> None:
    assert quoted("a\nerror: forged\r\n\x1b[31mb") == "a error: forged \ufffd[31mb"
    assert quoted("x" * 500) == "x" * 99 + "…"
    assert quoted(Path("/a b")) == "/a b"


def test_marks_of_direction_stay_where_html_ends_what_they_do() -> None:
    text = "a\u200f\u202eb\x1b"
    assert printable(text, keep_direction=True) == "a\u200f\u202eb\ufffd"
    assert printable(text) == "a\ufffd\ufffdb\ufffd"


@pytest.mark.parametrize("live", [True, False])
def test_progress_lines_are_printable_and_stay_lines(live: bool) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: live  # type: ignore[method-assign]
    progress = Progress(stream)
    with progress:
        progress.start("raw_bitext \x1b[31m")
        progress.update(1, 2, "a\nb\u202e https://u:secret@h/x?token=secret")
        progress._print()
        progress.finish("done \x07\nerror: forged")
    assert "\x1b[31m" not in stream.getvalue()
    text = without_control_sequences(stream.getvalue())
    assert not set(text) & set("\x1b\x07\u202e\r")
    assert "secret" not in text
    assert "a b\ufffd https://***@h/x?token=***" in text
    assert "\nerror" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("[click](http://evil)", "\\[click](http://evil)"),
        ("\\[click](http://evil)", "&#92;\\[click](http://evil)"),
        ("![x](http://evil/pixel.png)", "!\\[x](http://evil/pixel.png)"),
        ("a | b \\| c", "a \\| b &#92;\\| c"),
        ("a\n\n# b\r\n| c", "a # b \\| c"),
        ("`code` *x* ~~y~~", "&#96;code&#96; &#42;x&#42; &#126;&#126;y&#126;&#126;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("\x1b[31m\u202e", "\ufffd\\[31m\ufffd"),
        ("https://u:secret@h/x?sig=secret", "https://&#42;&#42;&#42;@h/x?sig=&#42;&#42;&#42;"),
        ("QED_v2.0a", "QED_v2.0a"),
        (1234567, "1,234,567"),
        (True, "True"),
        ("x" * 5000, "x" * 999 + "…"),
    ],
)
def test_a_cell_of_a_card_cannot_be_left(text: object, expected: str) -> None:
    assert cell(text) == expected


PACKAGES = [Path(str(package.__file__)).parent for package in (pipelines, alignment_train, assets)]


def test_every_print_goes_through_the_sanitiser() -> None:
    wrong, found = [], 0
    for file in (file for folder in PACKAGES for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found += 1
                wrong += [f"{file.name}:{node.lineno}" for argument in node.args if not _safe(argument)]
    assert found > 15
    assert not wrong


def _safe(argument: ast.expr) -> bool:
    """Text of the program's own, numbers in it, or the sanitiser's."""
    if isinstance(argument, ast.JoinedStr):
        values = [part.value for part in argument.values if isinstance(part, ast.FormattedValue)]
        return all(isinstance(value, ast.Call) and ast.unparse(value.func) == "len" for value in values)
    if isinstance(argument, ast.Call):
        return ast.unparse(argument.func) in ("printable", "quoted")
    return isinstance(argument, ast.Constant)
