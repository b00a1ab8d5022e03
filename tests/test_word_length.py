import pytest

from pipelines.filters.word_length import WordLength
from pipelines.schema import bitext_batch

TABLE = [  # src, language, words
    ("das große Haus", "deu_Latn", 3),
    ("  das\tgroße\u3000Haus\n", "deu_Latn", 3),
    ("Haus", "deu_Latn", 1),
    ("큰 집", "kor_Hang", 2),
    ("بيت كبير", "arb_Arab", 2),
    ("बड़ा घर", "hin_Deva", 2),
    ("ትልቅ ቤት ነው።", "amh_Ethi", 3),
    ("孩子们去学校", "zho_Hans", 3),
    ("孩子们 去学校", "zho_Hans", 3),
    ("子どもは学校へ行く。", "jpn_Jpan", 4),
    ("บ้านหลังใหญ่", "tha_Thai", 12 / 5.5),
    ("房", "zho_Hans", 1),
    ("", "deu_Latn", 0),
    ("", "zho_Hans", 0),
    (" ", "tha_Thai", 0),
]


@pytest.mark.parametrize(("text", "lang", "count"), TABLE)
def test_score_is_the_words_of_both_sides(text: str, lang: str, count: float) -> None:
    item = WordLength(min=2, max=3)
    scores = item.score(bitext_batch([text, text], ["a house", "a " * 9], lang, "eng_Latn", "t/v1"))
    assert scores.to_pylist() == [
        {"low": pytest.approx(min(count, 2)), "high": pytest.approx(max(count, 2))},
        {"low": pytest.approx(min(count, 9)), "high": 9},
    ]
    assert item.keep(scores).to_pylist() == [2 <= count <= 3, False]


def test_defaults_keep_one_word_and_drop_none_and_endless_lists() -> None:
    texts = ["房", "", "字" * 300, "字" * 302]
    batch = bitext_batch(texts, ["house"] * 4, "zho_Hans", "eng_Latn", "t/v1")
    assert WordLength().keep(WordLength().score(batch)).to_pylist() == [True, False, True, False]


def test_no_rows_give_no_scores() -> None:
    assert len(WordLength().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
