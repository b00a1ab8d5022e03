import pytest

from pipelines.filters.script import UNICODE, Script, in_own_scripts, only_in, same_letters
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
    ("zho_Hans", "歡迎", 0.0, False),
    ("zho_Hant", "欢迎", 0.0, False),
    ("zho_Hans", "大房子", 1.0, True),
    ("zho_Hant", "大房子", 1.0, True),
    ("zho_Hans", "這是什麼顏色？", 0.0, False),
    ("zho_Hant", "这是什么颜色？", 0.0, False),
    ("zho_Hans", "這是什么颜色？", 1.0, True),
    ("yue_Hant", "佢哋喺邊度食飯？", 1.0, True),
    ("jpn_Jpan", "歡迎", 1.0, True),
    ("srp_Latn", "Danas je lepo", 1.0, True),
    ("srp_Latn", "Данас је лепо", 0.0, False),
    ("srp_Cyrl", "Danas je lepo", 0.0, False),
    ("grc_Grek", "ἐν ἀρχῇ ὁ οἶκος", 1.0, True),
    ("got_Goth", "𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂", 1.0, True),
    ("akk_Xsux", "𒀀𒈾", 1.0, True),
    ("syc_Syrc", "ܐܒܘܢ", 1.0, True),
    ("cop_Copt", "ⲡⲉⲛⲉⲓⲱⲧ", 1.0, True),
    ("mni_Mtei", "ꯃꯤꯑꯣꯏ", 1.0, True),
    ("jav_Java", "ꦲꦤꦕ", 1.0, True),
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
        ValueError,
        match=r"lzh_Seal: found script Seal, whose letters are unknown. Expected: Adlm, .* Fix: write the language "
        r"with the script of your data, such as lzh-Latn, or remove",
    ):
        Script().check([Pair("eng_Latn", "lzh_Seal")])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("Hans", "Hant", True), ("Hang", "Kore", True), ("Jpan", "Hani", True), ("Latn", "Latf", True),
     ("Latn", "Cyrl", False), ("Arab", "Hebr", False), ("Hang", "Hans", False), ("Zzzz", "Zzzz", True)],
)  # fmt: skip
def test_scripts_of_the_same_letters_are_known(one: str, other: str, same: bool) -> None:
    assert same_letters(one, other) == same_letters(other, one) == same


def test_what_is_simplified_alone_is_not_traditional() -> None:
    assert {*"国们这说"} <= {*only_in("Hans")}
    assert {*"國們這說"} <= {*only_in("Hant")}
    assert {*only_in("Hans")}.isdisjoint(only_in("Hant"))
    assert {*"后里台大人乾著"}.isdisjoint(only_in("Hans") + only_in("Hant"))


def test_rows_in_another_script_of_their_language_are_left_out() -> None:
    src = ["One.", "Two.", "Three.", "4", "NATO NATO"]
    batch = bitext_batch(src, ["Jedan.", "Два.", "Три three.", "4", "НАТО"], "eng_Latn", "srp_Latn", "t/v1")
    beside = {"srp_Latn": ["srp_Cyrl", "hbs_Latn"], "eng_Latn": []}
    assert in_own_scripts(batch, beside.__getitem__)["src"].to_pylist() == ["One.", "Three.", "4"]
    assert in_own_scripts(batch, lambda lang: ()) is batch
    assert in_own_scripts(batch.slice(0, 0), beside.__getitem__).num_rows == 0
