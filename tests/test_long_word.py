import pytest

from pipelines.filters.long_word import LongWord
from pipelines.schema import bitext_batch

TABLE = [  # text, language, characters of its longest word, verdict of the default
    ("das große Haus", "deu_Latn", 5, True),
    ("Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz", "deu_Latn", 63, False),
    ("kurz " + "x" * 40, "deu_Latn", 40, True),
    ("x" * 41 + " kurz", "deu_Latn", 41, False),
    ("صرّحوزيرالخارجيةالأمريكيمايكبومبيوبمجلسالأمن", "arb_Arab", 44, False),
    ("siehe https://example.org/" + "x" * 50, "deu_Latn", 5, True),
    ('<a href="' + "x" * 50 + '">Haus</a>', "deu_Latn", 4, True),
    ("孩子们" * 30, "zho_Hans", 0, True),
    ("บ้านหลังใหญ่" * 10, "tha_Thai", 0, True),
    ("အိမ်ကြီး" * 10, "mya_Mymr", 0, True),
    ("", "deu_Latn", 0, True),
]


@pytest.mark.parametrize(("text", "lang", "length", "kept"), TABLE)
def test_score_is_the_longest_word_of_the_sides(text: str, lang: str, length: int, kept: bool) -> None:
    item = LongWord()
    scores = item.score(bitext_batch([text, text], ["", "a house"], lang, "eng_Latn", "t/v1"))
    assert scores.to_pylist() == [length, max(length, 5)]
    assert item.keep(scores).to_pylist() == [kept, kept]


def test_the_other_side_counts_beside_a_script_without_words() -> None:
    batch = bitext_batch(["a house", "x" * 50], ["孩子们" * 30] * 2, "eng_Latn", "zho_Hans", "t/v1")
    assert LongWord().score(batch).to_pylist() == [5, 50]


def test_no_rows_give_no_scores() -> None:
    assert len(LongWord().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
