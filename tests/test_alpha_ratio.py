import pytest

from pipelines.filters.alpha_ratio import AlphaRatio
from pipelines.schema import bitext_batch

TABLE = [  # text, score beside a side of letters, verdict of the default
    ("Das Haus", 1.0, True),
    ("Haus Nr. 7.", 6 / 9, True),
    ("12.10.2020", 0.0, False),
    ("R0 = 3.77 (95 %)", 1 / 12, False),
    ("Haus 12345", 4 / 9, True),
    ("Haus 1234567", 4 / 11, False),
    ("بيت كبير", 1.0, True),
    ("हिन्दी में", 1.0, True),
    ("บ้านหลังใหญ่", 1.0, True),
    ("大房子！", 3 / 4, True),
    ("२०२०", 0.0, False),
    ("☎ ☎ ☎", 0.0, False),
    ("", 0.0, False),
]


@pytest.mark.parametrize(("text", "score", "kept"), TABLE)
def test_score_is_the_share_of_letters_on_the_worse_side(text: str, score: float, kept: bool) -> None:
    item = AlphaRatio()
    scores = item.score(bitext_batch(["house", text], [text, "house"], "deu_Latn", "eng_Latn", "t/v1"))
    assert scores.to_pylist() == pytest.approx([score, score])
    assert item.keep(scores).to_pylist() == [kept, kept]


def test_no_rows_give_no_scores() -> None:
    assert len(AlphaRatio().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
