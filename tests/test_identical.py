import pytest

from pipelines.filters.identical import LONGEST, Identical
from pipelines.schema import bitext_batch

TABLE = [  # src, tgt, score, verdict of the default
    ("Das ist ein Haus.", "Das ist ein Haus.", 1.0, False),
    ("OpenStreetMap 2024", "openstreetmap, 2025!", 1.0, False),
    ("abcdefghij", "abcdefghix", 0.9, True),
    ("Das ist ein großes Haus.", "This is a big house.", 0.47, True),
    ("ab", "cd", 0.0, True),
    ("هذا بيت كبير", "هذا بيتٌ كبير؟", 0.95, False),
    ("هذا بيت", "This is a house", 0.0, True),
    ("บ้านหลังใหญ่", "บ้านหลังใหญ่", 1.0, False),
    ("บ้านหลังใหญ่", "大房子", 0.0, True),
    ("大房子。", "大房子", 1.0, False),
    ("大房子", "a big house", 0.0, True),
    ("cafe\u0301", "caf\u00e9", 1.0, False),
    ("12.10.", "13:30", 1.0, False),
    ("", "Haus", 0.0, True),
    ("", "", 1.0, False),
]


@pytest.mark.parametrize(("src", "tgt", "score", "kept"), TABLE)
def test_score_is_the_similarity_of_what_is_language(src: str, tgt: str, score: float, kept: bool) -> None:
    item = Identical()
    scores = item.score(bitext_batch([src, tgt], [tgt, src], "deu_Latn", "eng_Latn", "t/v1"))
    assert scores.to_pylist() == pytest.approx([score, score], abs=0.01)
    assert item.keep(scores).to_pylist() == [kept, kept]


HALF = "".join(chr(0x4E00 + n * 37 % 20_000) for n in range(LONGEST))  # no two characters alike
OTHER = "".join(chr(0xAC00 + n * 37 % 11_000) for n in range(LONGEST))
LONG = [  # sides of more than LONGEST characters, score
    (HALF * 250, HALF * 250, 1.0),  # 1,000,000 characters: compared in whole, it took 23 s
    (HALF * 250, OTHER * 250, 0.0),
    (HALF * 2, HALF + OTHER, 0.5),
    (HALF * 2, HALF * 6, 0.5),  # as the lengths allow
    (HALF * 2, HALF[:LONGEST], 2 / 3),
    (HALF * 2, "", 0.0),
]


@pytest.mark.parametrize(("src", "tgt", "score"), LONG)
def test_of_long_sides_the_ends_are_compared(src: str, tgt: str, score: float) -> None:
    batch = bitext_batch([src, tgt], [tgt, src], "zho_Hans", "kor_Hang", "t/v1")
    assert Identical().score(batch).to_pylist() == pytest.approx([score, score], abs=0.001)
