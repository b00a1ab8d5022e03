import random

import pytest

from pipelines.filters.similarity import Similarity
from pipelines.schema import bitext_batch
from pipelines.text.characters import PORTION

TABLE = [  # src, tgt, score, verdict of the default
    ("abcdef", "abcdef", 1, False),
    ("abcdef", "ABCDEF", 1, False),
    ("abcdef", "abcdeg", 2 / 6, True),
    ("abcdef", "uvwxyz", 0, True),
    ("abcdefghij", "abcdef", 3 / 10, True),
    ("ok", "ok", 1, False),
    ("ok", "no", 0, True),
    ("12.10.", "12.10.", 1, False),
    ("هذا بيت كبير في القرية", "هذا بيت كبير في المدينة", 16 / 23, True),
    ("บ้านหลังใหญ่", "บ้านหลังใหญ่", 1, False),
    ("บ้านหลังใหญ่", "大房子", 0, True),
    ("大房子在村子里", "大房子在村子里", 1, False),
    ("", "Haus", 0, True),
    ("", "", 1, False),
    ("The train leaves at noon on Monday.", "The train leaves at Mittag on Monday.", 28 / 37, False),
    ("El tren a Zúrich sale el lunes al mediodía.", "O trem para Zurique sai na segunda ao meio-dia.", 3 / 47, True),
]


@pytest.mark.parametrize(("src", "tgt", "score", "kept"), TABLE)
def test_score_is_the_share_of_common_4_grams(src: str, tgt: str, score: float, kept: bool) -> None:
    item = Similarity()
    scores = item.score(bitext_batch([src, tgt], [tgt, src], "deu_Latn", "eng_Latn", "t/v1"))
    assert scores.to_pylist() == pytest.approx([score, score])
    assert item.keep(scores).to_pylist() == [kept, kept]


def four_grams(text: str) -> set[str]:
    return {f"{text.lower()}   "[i : i + 4] for i in range(len(text))}


def test_scores_equal_those_of_sets_whatever_stands_in_the_rows_around() -> None:
    rng = random.Random(0)
    words = ["haus", "maus", "Zürich", "村子", "в", "บ้าน", "12", " ", "  "]
    src, tgt = ([" ".join(rng.choices(words, k=rng.randrange(9))) for _ in range(2 * PORTION + 3)] for _ in range(2))
    expected = []
    for a, b in zip(map(four_grams, src), map(four_grams, tgt), strict=True):
        expected.append(len(a & b) / max(len(a), len(b)) if a or b else 1)
    assert Similarity().score(bitext_batch(src, tgt, "deu_Latn", "eng_Latn", "t/v1")).to_pylist() == expected


def test_no_rows_give_no_scores() -> None:
    assert len(Similarity().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
