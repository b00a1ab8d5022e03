from collections import Counter

import pyarrow as pa
import pytest

from pipelines import languages
from pipelines.filters.script import share
from pipelines.languages import Pair

FLORES = (
    "ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab "
    "arb_Latn ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn "
    "ban_Latn bel_Cyrl bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn "
    "ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek "
    "eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn "
    "gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn "
    "hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda "
    "kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl "
    "kmb_Latn kmr_Latn kon_Latn kor_Hang lao_Laoo lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn "
    "lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl "
    "plt_Latn mlt_Latn mni_Beng khk_Cyrl mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn "
    "nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pes_Arab pol_Latn por_Latn prs_Arab "
    "pbt_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn "
    "slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn "
    "swh_Latn szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn "
    "tsn_Latn tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn "
    "vec_Latn vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn "
)


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
        ("grc", "grc_Grek"), ("non", "non_Latn"), ("got", "got_Goth"), ("ang", "ang_Latn"), ("chu", "chu_Cyrl"),
        ("cu", "chu_Cyrl"), ("cop", "cop_Copt"), ("syc", "syc_Syrc"), ("lzh", "lzh_Hant"), ("ota", "ota_Arab"),
        ("pi", "pli_Latn"), ("sa", "san_Deva"), ("orv", "orv_Cyrl"), ("sga", "sga_Latn"), ("hbo", "hbo_Hebr"),
        ("la", "lat_Latn"), ("gez", "gez_Ethi"), ("kaw", "kaw_Bali"), ("grc-Latn", "grc_Latn"),
        ("akk-Latn", "akk_Latn"),
        ("arc-Hebr", "arc_Hebr"), ("aii", "aii_Syrc"), ("kca", "kca_Cyrl"), ("lrc", "lrc_Arab"), ("hif", "hif_Latn"),
        ("sh", "hbs_Latn"), ("mo", "ron_Latn"), ("mo-Cyrl", "ron_Cyrl"), ("pnb", "pnb_Arab"), ("pa-Arab", "pan_Arab"),
        ("sr-ME", "srp_Latn"), ("uz-Cyrl", "uzn_Cyrl"), ("cnr", "cnr_Latn"), ("prs", "prs_Arab"),
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


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("akk", "found Akkadian, which is written in several scripts.* Write akk-Xsux or akk-Latn"),
        ("arc", "found Aramaic, which is written in several scripts.* Write arc-Syrc or arc-Hebr or arc-Armi"),
        ("egy", "found Ancient Egyptian, .* Write egy-Egyp or egy-Latn"),
    ],
)
def test_a_language_of_several_scripts_is_asked_for_its_script(code: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"language '{code}': {message}, as your data are"):
        languages.parse(code)


@pytest.mark.parametrize(
    ("code", "codes"),
    [
        ("srp_Cyrl", ("sr", "sh")), ("srp_Latn", ("sr_Latn", "sr_latn", "sr", "sh")), ("hbs_Latn", ("sh", "hbs", "sr")),
        ("zho_Hans", ("zh", "zh_CN", "zh_cn")), ("zho_Hant", ("zh_TW", "zh_tw", "zh_Hant", "zh")),
        ("uzn_Latn", ("uz",)), ("uzn_Cyrl", ("uz_Cyrl", "uz")), ("azj_Cyrl", ("az_Cyrl", "az")),
        ("azb_Arab", ("azb", "az")), ("ron_Latn", ("ro", "mo")), ("ron_Cyrl", ("ro_Cyrl", "ro", "mo")),
        ("pan_Guru", ("pa",)), ("pan_Arab", ("pnb", "pa")), ("ckb_Arab", ("ckb", "ku")), ("kmr_Latn", ("kmr", "ku")),
        ("bos_Cyrl", ("bs_Cyrl", "bs")), ("kaz_Latn", ("kk_Latn", "kk")), ("deu_Latn", ("de",)),
        ("hin_Latn", ("hi_Latn", "hi")), ("prs_Arab", ("prs",)),
    ],
)  # fmt: skip
def test_codes_of_opus_that_hold_several_scripts_serve_each(code: str, codes: tuple[str, ...]) -> None:
    assert languages.opus_codes(code) == codes


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("srp_Latn", {"srp_Cyrl", "hbs_Cyrl"}), ("zho_Hant", {"zho_Hans"}), ("zho_Hans", {"zho_Hant"}),
        ("uzn_Cyrl", {"uzn_Latn", "uzn_Arab"}), ("ckb_Arab", {"kmr_Latn"}), ("hin_Latn", {"hin_Deva"}),
        ("deu_Latn", set()), ("hin_Deva", set()), ("por_Latn", set()), ("eng_Latn", set()),
    ],
)  # fmt: skip
def test_what_else_a_code_of_opus_holds_is_known(code: str, others: set[str]) -> None:
    found = {other for own in languages.opus_codes(code) for other in languages.in_other_scripts(code, own)}
    assert found == others


NAMES = [  # language, alone, beside the same language in other scripts, in German, its own name
    ("srp_Cyrl", "Serbian", "Serbian (Cyrillic)", "Serbisch (Kyrillisch)", "српски"),
    ("srp_Latn", "Serbian (Latin)", "Serbian (Latin)", "Serbisch (Lateinisch)", "srpski"),
    ("uzn_Latn", "Uzbek", "Uzbek (Latin)", "Usbekisch (Lateinisch)", "o‘zbek"),
    ("uzn_Cyrl", "Uzbek (Cyrillic)", "Uzbek (Cyrillic)", "Usbekisch (Kyrillisch)", "ўзбекча"),
    ("zho_Hans", "Chinese", "Chinese (Simplified)", "Chinesisch (Vereinfacht)", "中文"),
    ("zho_Hant", "Chinese (Traditional)", "Chinese (Traditional)", "Chinesisch (Traditionell)", "中文"),
    ("pan_Guru", "Punjabi", "Punjabi (Gurmukhi)", "Punjabi (Gurmukhi)", "ਪੰਜਾਬੀ"),
    ("pan_Arab", "Punjabi (Shahmukhi)", "Punjabi (Shahmukhi)", "Punjabi (Arabisch)", "پنجابی"),
    ("hbs_Latn", "Serbo-Croatian", "Serbo-Croatian (Latin)", "Serbo-Kroatisch (Lateinisch)", "srpskohrvatski"),
    ("hbs_Cyrl", "Serbo-Croatian (Cyrillic)", "Serbo-Croatian (Cyrillic)", "Serbo-Kroatisch (Kyrillisch)", None),
    ("kaz_Cyrl", "Kazakh", "Kazakh (Cyrillic)", "Kasachisch (Kyrillisch)", "қазақ тілі"),
    ("hin_Latn", "Hindi (Latin)", "Hindi (Latin)", "Hindi (Lateinisch)", "Hindi (Latin)"),
]


@pytest.mark.parametrize(("code", "alone", "beside", "german", "own"), NAMES)
def test_names_say_the_script_where_there_are_several(
    code: str, alone: str, beside: str, german: str, own: str | None
) -> None:
    among = (*(row[0] for row in NAMES), "hin_Deva", "kaz_Latn")
    assert languages.name(code) == languages.name(code, ("eng_Latn", code)) == alone
    assert languages.name(code, among) == beside
    assert languages.name_in(code, "deu_Latn", among) == german
    assert own is None or languages.autonym(code) == own


@pytest.mark.parametrize(
    ("code", "english", "own"),
    [
        ("swh_Latn", "Swahili", "Kiswahili"), ("deu_Latn", "German", "Deutsch"), ("prs_Arab", "Dari", "دری"),
        ("pes_Arab", "Persian", "فارسی"), ("cnr_Latn", "Montenegrin", None), ("hrv_Latn", "Croatian", "hrvatski"),
        ("ron_Latn", "Romanian", "română"), ("luo_Latn", "Luo", "Dholuo"), ("grc_Grek", "Ancient Greek", None),
        ("nob_Latn", "Norwegian", None), ("azb_Arab", "South Azerbaijani", None), ("tgl_Latn", "Filipino", None),
    ],
)  # fmt: skip
def test_names_are_english_and_own(code: str, english: str, own: str | None) -> None:
    assert languages.name(code) == english
    assert own is None or languages.autonym(code) == own


def test_alpha2_is_of_the_language_and_not_of_one_that_langcodes_puts_in_its_place() -> None:
    codes = ("deu_Latn", "swh_Latn", "pcm_Latn", "prs_Arab", "hbs_Latn", "cnr_Latn", "tgl_Latn", "zho_Hant", "nob_Latn")
    assert [languages.alpha2(code) for code in codes] == ["de", "sw", "pcm", "prs", "sh", "cnr", "tl", "zh", "no"]


def test_no_two_languages_have_one_name_and_own_names_are_in_the_script_of_the_language() -> None:
    """All of FLORES-200, and the languages of the tables in the scripts beside the usual one."""
    codes = {*FLORES.split(), *(code for shared in languages.SHARED.values() for code in shared)}
    names = Counter(languages.name(code) for code in codes)
    assert [name for name, count in names.items() if count > 1] == []
    for code in sorted(codes):
        own, english = languages.autonym(code), languages.name(code)
        assert share(pa.array([own]), code)[0] > 0.99 or own.split(" (")[0] == english.split(" (")[0], code


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
