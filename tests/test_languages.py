import pytest

from pipelines import languages
from pipelines.languages import Pair


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("en", "eng_Latn"), ("deu", "deu_Latn"), ("eng_Latn", "eng_Latn"), ("sw", "swh_Latn"), ("swh", "swh_Latn"),
        ("no", "nob_Latn"), ("nb", "nob_Latn"), ("nn", "nno_Latn"), ("zh", "zho_Hans"), ("zh-Hant", "zho_Hant"),
        ("zh_TW", "zho_Hant"), ("zh_CN", "zho_Hans"), ("pt_BR", "por_Latn"), ("ar", "arb_Arab"), ("fa", "pes_Arab"),
        ("ms", "zsm_Latn"), ("sr", "srp_Cyrl"), ("sr-Latn", "srp_Latn"), ("ja", "jpn_Jpan"), ("ko", "kor_Hang"),
        ("hi", "hin_Deva"), ("my", "mya_Mymr"), ("th", "tha_Thai"), ("yue", "yue_Hant"), ("fil", "tgl_Latn"),
        ("uz", "uzn_Latn"), ("az", "azj_Latn"), ("ku", "kmr_Latn"), ("ger", "deu_Latn"), ("chi", "zho_Hans"),
        ("EN", "eng_Latn"), (" de ", "deu_Latn"), ("ko-KR", "kor_Hang"),
    ],
)  # fmt: skip
def test_what_people_write_becomes_our_code(written: str, code: str) -> None:
    assert languages.parse(written) == code


def test_a_bare_code_gets_the_script_that_flores_has() -> None:
    flores = [
        "als_Latn", "amh_Ethi", "acm_Arab", "asm_Beng", "azb_Arab", "ben_Beng", "bod_Tibt", "ckb_Arab",
        "crh_Latn", "dzo_Tibt", "ell_Grek", "fuv_Latn", "gaz_Latn", "guj_Gujr", "hau_Latn", "heb_Hebr",
        "hye_Armn", "jpn_Jpan", "kan_Knda", "kas_Arab", "kat_Geor", "kaz_Cyrl", "khk_Cyrl", "khm_Khmr",
        "kmr_Latn", "knc_Latn", "kor_Hang", "lao_Laoo", "mal_Mlym", "mni_Beng", "mya_Mymr", "npi_Deva",
        "ory_Orya", "pan_Guru", "pbt_Arab", "pes_Arab", "prs_Arab", "sat_Olck", "shn_Mymr", "sin_Sinh",
        "snd_Arab", "srp_Cyrl", "tam_Taml", "taq_Latn", "tel_Telu", "tgk_Cyrl", "tha_Thai", "tir_Ethi",
        "tuk_Latn", "tzm_Tfng", "uig_Arab", "urd_Arab", "uzn_Latn", "wol_Latn", "ydd_Hebr", "yue_Hant",
        "zho_Hans", "zsm_Latn",
    ]  # fmt: skip
    assert [languages.parse(languages.iso(code)) for code in flores] == flores
    assert [languages.parse(code) for code in flores] == flores


@pytest.mark.parametrize("code", ["xx", "english", "", "und", "mul", "qaa", "e", "x-b", "zxx", "123"])
def test_what_is_no_language_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match=r"not a known language\. Allowed: ISO 639 or BCP 47 codes"):
        languages.parse(code)


def test_a_boolean_from_yaml_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"language False: found bool\. Allowed: a text such as 'en'\. Quote it"):
        languages.parse(False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "printed"),
    [
        ("en-sw", "eng_Latn-swh_Latn"), ("sw-en", "eng_Latn-swh_Latn"), ("eng_Latn-deu_Latn", "deu_Latn-eng_Latn"),
        (["en", "zh-Hant"], "eng_Latn-zho_Hant"), ("en-zh_TW", "eng_Latn-zho_Hant"),
        (("no", "en"), "eng_Latn-nob_Latn"),
        ("en-zh-Hant", "eng_Latn-zho_Hant"), (Pair("deu_Latn", "eng_Latn"), "deu_Latn-eng_Latn"),
    ],
)  # fmt: skip
def test_a_pair_is_sorted_and_prints_alike(spec: object, printed: str) -> None:
    assert str(Pair.parse(spec)) == printed
    assert Pair.parse(printed) == Pair.parse(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("en", "found 1 languages. Allowed: two"),
        (["en", "de", "fr"], "found 3 languages. Allowed: two"),
        ("en-eng", "both sides are eng_Latn. Allowed: two different languages"),
        ("en-xx", "language 'xx': not a known language"),
        (3, "found 1 languages. Allowed: two"),
    ],
)
def test_what_is_no_pair_is_refused(spec: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pair.parse(spec)


def test_one_code_may_be_several_of_a_server_and_several_labels_of_an_identifier() -> None:
    assert languages.opus_codes("zho_Hans")[:2] == ("zh", "zh_CN")
    assert languages.opus_codes("por_Latn")[:2] == ("pt", "pt_BR")
    assert languages.opus_codes("deu_Latn") == ("de",)
    assert {"hrv", "hbs", "hr"} <= languages.identifier_labels("hrv_Latn")
    assert {"zsm", "msa", "ms"} <= languages.identifier_labels("zsm_Latn")
    assert {"cmn", "zho", "zh"} <= languages.identifier_labels("zho_Hans")


def test_names_are_english_and_own() -> None:
    assert languages.name("swh_Latn") == "Swahili"
    assert languages.name("zho_Hant") == "Chinese (Traditional)"
    assert languages.autonym("deu_Latn") == "Deutsch"
    assert [languages.alpha2(code) for code in ("deu_Latn", "swh_Latn", "pcm_Latn")] == ["de", "sw", "pcm"]


def test_the_pivot_is_the_most_common_language_and_english_among_equals() -> None:
    pairs = [Pair.parse(spec) for spec in ("en-de", "de-fr", "de-sw")]
    assert languages.pivot(pairs) == "deu_Latn"
    assert languages.pivot([Pair.parse("en-de"), Pair.parse("de-fr"), Pair.parse("en-sw")]) == "eng_Latn"
    assert languages.pivot([Pair.parse("en-sw")]) == "eng_Latn"
    assert languages.pivot([Pair.parse("de-fr")]) == languages.pivot([Pair.parse("fr-de")])


@pytest.mark.parametrize("code", ["zho_Hans", "yue_Hant", "jpn_Jpan", "tha_Thai", "lao_Laoo", "khm_Khmr", "mya_Mymr"])
def test_scripts_without_spaces_are_known(code: str) -> None:
    assert languages.spaceless(code)


@pytest.mark.parametrize("code", ["eng_Latn", "kor_Hang", "amh_Ethi", "vie_Latn", "arb_Arab", "hin_Deva", "zho_Latn"])
def test_scripts_with_spaces_are_not_taken_for_such_without(code: str) -> None:
    assert not languages.spaceless(code)
