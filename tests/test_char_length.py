import pytest

from pipelines.filters.char_length import CharLength
from pipelines.registry import build
from pipelines.schema import bitext_batch

TABLE = [  # src, tgt, score, kept under {min: 3, max: 10}
    ("Haus", "house", (4, 5), True),
    ("Ei", "an egg", (2, 6), False),
    ("Donaudampfschiff", "ship", (4, 16), False),
    ("Ei", "Donaudampfschiff", (2, 16), False),
    ("  Haus \t", "\u3000house ", (4, 5), True),
    ("بيت", "house", (3, 5), True),
    ("بَيْتٌ كَبِيرٌ", "a big house", (11, 14), False),
    ("บ้าน", "house", (4, 5), True),
    ("กี่", "how many", (3, 8), True),
    ("房", "house", (1, 5), False),
    ("三角房", "abc", (3, 3), True),
    ("", "house", (0, 5), False),
    ("", "", (0, 0), False),
    (" ", "\n", (0, 0), False),
]


@pytest.mark.parametrize(("src", "tgt", "score", "kept"), TABLE)
def test_both_sides_must_lie_within_the_bounds(src: str, tgt: str, score: tuple[int, int], kept: bool) -> None:
    item = CharLength(min=3, max=10)
    scores = item.score(bitext_batch([src, tgt], [tgt, src], "deu_Latn", "eng_Latn", "t/v1"))
    assert scores.to_pylist() == [dict(zip(("low", "high"), score, strict=True))] * 2
    assert item.keep(scores).to_pylist() == [kept, kept]


def test_a_bound_may_be_left_out() -> None:
    batch = bitext_batch(["", "a" * 2000], ["a", "a"], "deu_Latn", "eng_Latn", "t/v1")
    for item, kept in ((CharLength(min=None), [True, False]), (CharLength(max=None), [False, False])):
        assert item.score(batch).equals(CharLength().score(batch))  # bounds do not decide scores
        assert item.keep(item.score(batch)).to_pylist() == kept


def test_defaults_keep_a_word_of_two_han_characters() -> None:
    item = CharLength()
    assert item.keep(
        item.score(bitext_batch(["房", "房子"], ["house"] * 2, "zho_Hans", "eng_Latn", "t/v1"))
    ).to_pylist() == [
        False,
        True,
    ]


def test_bounds_that_nothing_meets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"found min 5 above max 4, which keeps no row. Expected: min <= max"):
        build("pipelines.filters", {"char_length": {"min": 5, "max": 4}})
