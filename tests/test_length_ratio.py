import math

import pyarrow as pa
import pytest

from pipelines.filters.length_ratio import LengthRatio
from pipelines.schema import bitext_batch

TABLE = [  # language, text in it, English text, score, verdict of the default
    ("deu_Latn", "Das Haus.", "The house", 1.0, True),
    ("deu_Latn", "Ja", "Yes it is", 4.5, False),
    ("rus_Cyrl", "большой дом", "a big house", 1.0, True),
    ("arb_Arab", "البيت", "this house", 2.0, True),
    ("arb_Arab", "بيت", "a house of stone", 16 / 3, False),
    ("tha_Thai", "บ้าน", "house of", 2.0, True),
    ("tha_Thai", "บ้าน", "the house of my mother", 5.5, False),
    ("zho_Hans", "我今天去学校。", "I am going to school", 1.0, True),
    ("zho_Hans", "今天我去北京大学看我的老朋友和老师。", "I go.", 18 / 0.35 / 5, False),
    ("jpn_Jpan", "私は今日学校へ行きます", "I am going to school today", 26 * 0.44 / 11, True),
    ("kor_Kore", "저는 오늘 학교에", "I am going to school today", 26 * 0.55 / 9, True),
    ("deu_Latn", "", "house", math.inf, False),
    ("deu_Latn", "", " ", math.nan, False),
]


@pytest.mark.parametrize(("lang", "text", "english", "score", "kept"), TABLE)
def test_lengths_are_compared_by_what_a_character_of_the_script_says(
    lang: str, text: str, english: str, score: float, kept: bool
) -> None:
    item = LengthRatio()
    there = item.score(bitext_batch([english], [text], "eng_Latn", lang, "t/v1"))
    back = item.score(bitext_batch([text], [english], lang, "eng_Latn", "t/v1"))
    assert [*there.to_pylist(), *back.to_pylist()] == pytest.approx([score, score], nan_ok=True)
    assert item.keep(there).to_pylist() == [kept]


def test_a_batch_of_several_pairs_is_refused() -> None:
    mixed = pa.concat_batches(
        [bitext_batch(["a"], ["b"], "deu_Latn", lang, "t/v1") for lang in ("eng_Latn", "fra_Latn")]
    )
    with pytest.raises(
        ValueError, match=r"found the languages \['deu_Latn'\] and \['eng_Latn', 'fra_Latn'\]. Expected"
    ):
        LengthRatio().score(mixed)


def test_an_empty_batch_has_no_scores() -> None:
    assert LengthRatio().score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1")).to_pylist() == []
