import pytest

from pipelines.filters.script import UNICODE, Script
from pipelines.languages import Pair
from pipelines.schema import bitext_batch

TABLE = [  # language, text, score beside a good English side, verdict of the default
    ("deu_Latn", "Das Haus", 1.0, True),
    ("deu_Latn", "Дом", 0.0, False),
    ("rus_Cyrl", "большой дом", 1.0, True),
    ("rus_Cyrl", "дом дом home", 0.6, True),
    ("arb_Arab", "بَيْتٌ كبير", 1.0, True),
    ("arb_Arab", "a house", 0.0, False),
    ("tha_Thai", "บ้านหลังใหญ่", 1.0, True),
    ("tha_Thai", "บ้าน house", 3 / 8, False),
    ("hin_Deva", "बड़ा घर है।", 1.0, True),
    ("zho_Hans", "欢迎访问OpenStreetMap", (4 / 0.35) / (4 / 0.35 + 13), True),
    ("zho_Hans", "下载 the whole big file", (2 / 0.35) / (2 / 0.35 + 15), False),
    ("zho_Hant", "歡迎", 1.0, True),
    ("zho_Hans", "ありがとう", 0.0, False),
    ("jpn_Jpan", "東京タワーへ行く", 1.0, True),
    ("kor_Kore", "서울 大學校", 1.0, True),
    ("amh_Ethi", "ትልቅ ቤት", 1.0, True),
    ("zho_Hans", "``os.path.join`` 函数", 1.0, True),
    ("rus_Cyrl", '<link xref="shell-introduction">дом</link>', 1.0, True),
    ("deu_Latn", "12.10.2024", 0.0, False),
    ("deu_Latn", "…!?", 0.0, False),
    ("deu_Latn", "", 0.0, False),
]


@pytest.mark.parametrize(("lang", "text", "score", "kept"), TABLE)
def test_score_is_the_share_of_letters_in_the_script(lang: str, text: str, score: float, kept: bool) -> None:
    item = Script()
    there = item.score(bitext_batch(["The house"], [text], "eng_Latn", lang, "t/v1"))
    back = item.score(bitext_batch([text], ["The house"], lang, "eng_Latn", "t/v1"))
    assert there.to_pylist() == back.to_pylist() == pytest.approx([score])
    assert item.keep(there).to_pylist() == [kept]


def test_every_script_is_one_that_the_regular_expressions_know() -> None:
    for code in UNICODE:
        assert Script().score(bitext_batch(["a"], ["1"], "eng_Latn", f"xxx_{code}", "t/v1")).to_pylist() == [0.0]


def test_an_unknown_script_is_refused_before_work_starts() -> None:
    with pytest.raises(
        ValueError, match=r"got_Goth: script Goth is not known. Allowed: Arab, .* leave this filter out"
    ):
        Script().check([Pair("eng_Latn", "got_Goth")])
