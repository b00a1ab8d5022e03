import pytest

from pipelines.filters.repetition import Repetition
from pipelines.schema import bitext_batch
from pipelines.text.characters import PORTION

SENTENCE = "Die Kinder gingen am frühen Morgen in die Schule."  # 49 characters
TABLE = [  # text, repeated characters, verdict of the default
    (SENTENCE, 0, True),
    ("-----", 4, False),
    ("----------", 9, False),
    ("ha ha ha ha", 8, False),
    ("Haus Haus Haus Haus Haus", 19, False),
    ("Haus Haus und Hof", 0, True),
    ("anak-anak", 0, True),
    ("aha", 0, True),
    ("Ja, ja, ja!", 0, True),
    ("ja, ja, ja!", 0, True),  # the third one goes on otherwise
    ("ja, ja, ja, ja!", 10, False),
    ("Zimmer 1000", 2, True),
    (f"{SENTENCE} {SENTENCE}", 34, False),  # the 16-grams of the second one: 49 - 15
    ("好好好好", 3, False),
    ("高高兴兴", 0, True),
    ("大房子大房子大房子", 6, False),
    ("هههههه", 5, False),
    ("บ้านบ้านบ้าน", 8, False),
    ("", 0, True),
]


@pytest.mark.parametrize(("text", "repeated", "kept"), TABLE)
def test_score_is_the_share_of_repeated_characters(text: str, repeated: int, kept: bool) -> None:
    item = Repetition()
    scores = item.score(bitext_batch([text, "a house"], ["a house", text], "deu_Latn", "eng_Latn", "t/v1"))
    score = repeated / max(len(text), 1)
    assert scores.to_pylist() == pytest.approx([score, score])
    assert item.keep(scores).to_pylist() == [kept, kept]


def test_a_text_does_not_repeat_the_one_before() -> None:
    rows = 2 * PORTION + 1
    batch = bitext_batch(["-", "ab", SENTENCE] * rows, ["x"] * 3 * rows, "deu_Latn", "eng_Latn", "t/v1")
    assert Repetition().score(batch).to_pylist() == [0.0] * 3 * rows


def test_no_rows_give_no_scores() -> None:
    assert len(Repetition().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
