import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.filters.markup import bare
from pipelines.filters.script import NEUTRAL, UNICODE, share
from pipelines.languages import script
from pipelines.text.characters import DIGIT, DROPPED, LETTER, SPACE, SPACES, Characters, decode_column, kinds
from pipelines.text.matching import match_key
from pipelines.text.normalise import normalised, without_c1

BLOCKS = [  # code points from which a text draws: most of Unicode's scripts, marks that join, what is left out
    range(0x20, 0x7F), range(0x80, 0x250), range(0x300, 0x370), range(0x370, 0x530), range(0x590, 0x800),
    range(0x900, 0xE80), range(0x1000, 0x1200), range(0x1E00, 0x2100), range(0x3000, 0x3100), range(0xAC00, 0xAC80),
    range(0xFB00, 0xFE30), range(0x10000, 0x11800), range(0x20000, 0x20100), range(0x2F800, 0x2FA1D),
    range(0xE0000, 0xE0200), [0x0A, 0x09, 0x20, 0x20, 0xA0, 0x200B, 0x301, 0x323, 0x93C, 0x1100, 0x1161, 0x11A8],
    [ord(mark) for mark in "<a>&amp;{x}%s`:/w.[["],
]  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> pa.Array:
    """30,000 texts of up to 14 characters out of one to four BLOCKS."""
    rng = random.Random(0)
    drawn = ["", " ", "  ", "\n"]
    for _ in range(30_000):
        blocks = rng.sample(BLOCKS, rng.randint(1, 4))
        drawn.append("".join(chr(rng.choice(rng.choice(blocks))) for _ in range(rng.randint(0, 14))))
    rng.shuffle(drawn)
    return pa.array(drawn)


def test_points_and_counts_are_those_of_each_text(texts: pa.Array) -> None:
    text = decode_column(texts)
    expected = texts.to_pylist()
    found = [text.points[a:b].tolist() for a, b in zip(text.first, text.last, strict=True)]
    assert found == [list(map(ord, one)) for one in expected]
    assert text.count(text.points == ord("a")).tolist() == [one.count("a") for one in expected]
    places = np.flatnonzero(text.points == ord("a"))
    assert text.holding(places).tolist() == ["a" in one for one in expected]


def test_a_column_is_read_once_and_never_taken_for_another() -> None:
    column = pa.array(["a", "bb", "ccc"])
    assert decode_column(column) is decode_column(column)
    assert decode_column(column.slice(1)) is not decode_column(column)
    assert decode_column(column.slice(1)).first.tolist() == [0, 3]
    for _ in range(50):  # memory is used again
        word = chr(random.randrange(97, 123)) * random.randrange(1, 9)
        assert decode_column(pa.array([word])).points.tolist() == [*map(ord, word), 10]


@pytest.mark.parametrize(
    ("character", "kind"), [("a", LETTER), ("字", LETTER), ("ि", LETTER), ("𠀀", LETTER), ("٣", DIGIT), (" ", SPACE)]
)
def test_kinds(character: str, kind: int) -> None:
    assert kinds()[ord(character)] & (LETTER | DIGIT | SPACE) == kind


def test_normalised_is_what_its_definition_says(texts: pa.Array) -> None:
    plain = pa.array(map(without_c1, texts.to_pylist()), pa.string())
    plain = pc.replace_substring_regex(plain, f"{DROPPED}+", "")
    plain = pc.utf8_trim(pc.replace_substring_regex(plain, f"{SPACES}+", " "), " ")
    assert normalised(texts).equals(pc.utf8_normalize(plain, form="NFC"))


def test_match_key_is_what_its_definition_says(texts: pa.Array) -> None:
    bare = pc.replace_substring_regex(texts, r"[\p{P}\p{Z}\p{C}]+", "")
    expected = pc.utf8_normalize(pc.utf8_lower(pc.utf8_upper(bare)), form="NFC")
    assert match_key(texts).equals(expected)
    assert match_key(texts.slice(7, 90)).equals(expected.slice(7, 90))
    assert match_key(pa.chunked_array([texts.slice(0, 5), texts.slice(5)])).combine_chunks().equals(expected)


@pytest.mark.parametrize("lang", ["deu_Latn", "zho_Hans", "jpn_Jpan", "hin_Deva"])
def test_share_of_letters_in_a_script_is_what_its_definition_says(texts: pa.Array, lang: str) -> None:
    of_any = pc.replace_substring_regex(bare(texts), rf"[{NEUTRAL}\P{{L}}]+", "")
    own = "".join(rf"\p{{{name}}}" for name in UNICODE[script(lang)])
    whole = np.asarray(pc.utf8_length(of_any))
    others = np.asarray(pc.utf8_length(pc.replace_substring_regex(of_any, f"[{own}]+", "")))
    weight = {"zho_Hans": 0.35, "jpn_Jpan": 0.44}.get(lang, 1.0)
    owned = (whole - others) / weight
    assert share(texts, lang) == pytest.approx(owned / np.maximum(owned + others, 1))


def test_no_text_is_no_error() -> None:
    nothing = pa.array([], pa.string())
    assert Characters.of(nothing).first.tolist() == []
    assert match_key(nothing).to_pylist() == []
    assert share(nothing, "deu_Latn").tolist() == []
