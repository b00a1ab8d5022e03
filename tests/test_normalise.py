import pyarrow as pa
import pytest

from pipelines.normalise import normalised

CASES = {
    "Das ist ein Haus.": "Das ist ein Haus.",
    "": "",
    " zwei  Worte ": "zwei Worte",
    "a\u00a0b\u3000c\td\u2028e\x85f": "a b c d e f",  # no-break, ideographic, tab, line separator, next line
    "ko\u0308nnen": "können",  # composed
    "\u1100\u1161\u11a8": "각",  # Hangul from its letters
    "\u0958": "\u0915\u093c",  # a composition that NFC excludes
    "ff\u0000\u0007\u001bx": "ffx",
    "\ufeffSil\u00adben\u200b": "Silben",
    "\u200fשלום\u200e": "שלום",
    "می\u200cخواهم": "می\u200cخواهم",  # Persian is spelt with it
    "क्\u200dष": "क्\u200dष",
    "e\u200b\u0301": "é",  # what stood between goes before the two are joined
    "\u00a0\u00a0": "",
    "你好，世界": "你好，世界",
}


@pytest.mark.parametrize(("text", "expected"), CASES.items())
def test_one_spelling(text: str, expected: str) -> None:
    assert normalised(pa.array([text, "x"])).to_pylist() == [expected, "x"]


def test_twice_is_once() -> None:
    once = normalised(pa.array(list(CASES)))
    assert normalised(once).equals(once)
    assert once.to_pylist() == list(CASES.values())


def test_no_text_is_no_error() -> None:
    assert normalised(pa.array([], pa.string())).to_pylist() == []
