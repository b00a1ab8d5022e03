import pytest

from pipelines.filters.punctuation_mismatch import PunctuationMismatch
from pipelines.schema import bitext_batch

TABLE = [  # src, tgt, languages, shared and all kinds of marks, verdict of the default
    ("Das Haus", "the house", "deu_Latn eng_Latn", (0, 0), True),
    ("Das Haus.", "the house.", "deu_Latn eng_Latn", (1, 1), True),
    ("Das Haus.", "the house", "deu_Latn eng_Latn", (0, 1), True),
    ("Das Haus?", "The house.", "deu_Latn eng_Latn", (0, 2), True),
    ("Das Haus (alt): ja!", "The house.", "deu_Latn eng_Latn", (0, 4), False),
    ("Das „alte Haus.“", 'The "old house".', "deu_Latn eng_Latn", (1, 1), True),
    ("z. B. Dr. Haus", "Dr. House, e.g.", "deu_Latn eng_Latn", (0, 1), True),
    ("um 8:30", "at 8.30", "deu_Latn eng_Latn", (0, 0), True),
    ("٨:٣٠", "8.30", "arb_Arab eng_Latn", (0, 0), True),
    ("Antwort: ja", "answer: yes", "deu_Latn eng_Latn", (1, 1), True),
    ("Was??", "What?", "deu_Latn eng_Latn", (1, 1), True),
    ("ما هذا؟", "What is this?", "arb_Arab eng_Latn", (1, 1), True),
    ("هذا بيت؛ كبير۔", "this is a house; big.", "urd_Arab eng_Latn", (2, 2), True),
    ("यह घर है।", "This is a house.", "hin_Deva eng_Latn", (1, 1), True),
    ("这是什么？（房子）", "What is this? (a house)", "zho_Hans eng_Latn", (2, 2), True),
    ("大房子。", "a big house.", "zho_Hans eng_Latn", (1, 1), True),
    ("นี่คือบ้าน", "This is a house.", "tha_Thai eng_Latn", (0, 0), True),
    ("This is a house.", "ນີ້ແມ່ນເຮືອນ", "eng_Latn lao_Laoo", (0, 0), True),
    ("Τι είναι;", "What is it?", "ell_Grek eng_Latn", (1, 1), True),
    ("ቤት ነው፡፡", "It is a house.", "amh_Ethi eng_Latn", (1, 1), True),
    ("ቤት ነው::", "It is a house.", "amh_Ethi eng_Latn", (1, 1), True),
    ("Սա տուն է:", "It is a house.", "hye_Armn eng_Latn", (1, 1), True),
    ("这是房子……", "This is a house...", "zho_Hans eng_Latn", (1, 1), True),
    ("", "a house.", "deu_Latn eng_Latn", (0, 1), True),
    ("", "", "deu_Latn eng_Latn", (0, 0), True),
    (")", "」", "deu_Latn eng_Latn", (0, 0), True),
]


@pytest.mark.parametrize(("src", "tgt", "codes", "found", "kept"), TABLE)
def test_score_is_the_smoothed_share_of_equal_marks(
    src: str, tgt: str, codes: str, found: tuple[int, int], kept: bool
) -> None:
    item = PunctuationMismatch()
    src_lang, tgt_lang = codes.split()
    scores = item.score(bitext_batch([src, src], [tgt, tgt], src_lang, tgt_lang, "t/v1"))
    score = (1 + found[0]) / (1 + found[1])
    assert scores.to_pylist() == [score, score]
    assert item.keep(scores).to_pylist() == [kept, kept]


def test_no_rows_give_no_scores() -> None:
    assert len(PunctuationMismatch().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1"))) == 0
