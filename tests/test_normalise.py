import pyarrow as pa
import pytest

from pipelines.text.matching import match_key
from pipelines.text.normalise import has_c1, normalised, without_c1

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
    "I don\x92t, the baker\x92s": "I don’t, the baker’s",  # windows-1252 read as Latin-1
    "1990\x961995 \x97 5 \x80 \x84so\x93 \x8aest\x9c": "1990–1995 — 5 € „so“ Šestœ",
    "a\x81b\x8d c\x8f\x90d\x9d": "a b c d",  # of no meaning there either
    "Well\x85 I \x93think\x94\x85so": "Well… I “think”…so",
    "Well\x85": "Well…",
    "\x85and then": "…and then",
    "why \x85 not": "why … not",
    "seven\x85eight\x85\x85nine": "seven eight nine",  # as a line break it stands between words
    "走吧\x85\x85": "走吧……",
    "a\x1cb\x1dc\x1ed\x1fe": "a b c d e",  # what parts files, groups, records and units
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


def test_c1_controls_are_those_of_windows_1252() -> None:
    for code in range(0x80, 0xA0):
        try:
            expected = bytes([code]).decode("cp1252")
        except UnicodeDecodeError:
            expected = " "
        assert without_c1(f"a\x92 {chr(code)} b") == f"a’ {expected} b"
        assert has_c1(f"ä{chr(code)}中")
    for text in ("", "plain", "ä\u2028中\u2018\xa0é", "😀"):
        assert without_c1(text) == text
        assert not has_c1(text)


MARKS = [  # combining marks in a row -> the same in canonical order, a joiner after every 30
    ("\u0301\u0327" * 15, "\u0327" * 15 + "\u0301" * 15),
    ("\u0316" * 31, "\u0316" * 30 + "\u034f\u0316"),
    ("\u0301\u0327" * 31, ("\u0327" * 15 + "\u0301" * 15 + "\u034f") * 2 + "\u0327\u0301"),
    ("\u0344" * 20, "\u0308\u0301" * 15 + "\u034f" + "\u0308\u0301" * 5),  # each one becomes two
]


@pytest.mark.parametrize(("marks", "expected"), MARKS)
def test_many_marks_are_ordered_in_parts(marks: str, expected: str) -> None:
    once = normalised(pa.array([f"q{marks}y", "e\u0301", ""]))
    assert once.to_pylist() == [f"q{expected}y", "é", ""]
    assert normalised(once).equals(once)
    assert match_key(once).to_pylist() == match_key(pa.array([f"Q{marks}Y", "É", "."])).to_pylist()


def test_a_megabyte_of_marks_is_normalised() -> None:  # in one run it takes hours
    [text] = normalised(pa.array(["x" + "\u0301\u0327" * 500_000])).to_pylist()
    assert len(text) == 1 + 1_000_000 + 33_333
