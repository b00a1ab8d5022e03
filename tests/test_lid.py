import importlib.util
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.filters.lid import CUT, Heliport, Lid, _posterior, _short, apart
from pipelines.languages import Pair
from pipelines.schema import bitext_batch

ENGLISH = "The children went to school early in the morning."
TEXTS = {
    "deu_Latn": "Die Kinder gingen am frühen Morgen in die Schule.",
    "rus_Cyrl": "Дети рано утром пошли в школу.",
    "arb_Arab": "ذهب الأطفال إلى المدرسة في الصباح الباكر.",
    "tha_Thai": "เด็ก ๆ ไปโรงเรียนแต่เช้าตรู่เพื่อเรียนหนังสือ",
    "zho_Hans": "孩子们一大早就去学校上课了。",
    "zho_Hant": "孩子們一大早就去學校上課了。",
    "jpn_Jpan": "子どもたちは朝早く学校へ行きました。",
    "hin_Deva": "बच्चे सुबह-सुबह स्कूल गए।",
    "hrv_Latn": "Djeca su rano ujutro otišla u školu.",
    "ind_Latn": "Anak-anak pergi ke sekolah pada pagi hari.",
    "nob_Latn": "Barna gikk til skolen tidlig om morgenen.",
    "pes_Arab": "بچه‌ها صبح زود به مدرسه رفتند.",
    "swh_Latn": "Watoto walikwenda shuleni asubuhi na mapema.",
    "zul_Latn": "Izingane ziye esikoleni ekuseni kakhulu namuhla.",
}
IN_LID176 = [lang for lang in TEXTS if lang not in ("zul_Latn", "hrv_Latn", "swh_Latn")]
HAUSA = "Yara sun tafi makaranta da safe domin su yi karatu."


def scores(item: Lid, lang: str, texts: list[str]) -> list[float]:
    return item.score(bitext_batch(texts, [ENGLISH] * len(texts), lang, "eng_Latn", "t/v1")).to_pylist()


@pytest.fixture(scope="module")
def both() -> Lid:
    pytest.importorskip("heliport", reason="the extra isogloss[heliport] is not installed")
    return Lid()


@pytest.mark.parametrize("lang", TEXTS)
def test_the_language_scores_1_and_others_nothing_like_it(both: Lid, lang: str) -> None:
    found = scores(both, lang, [TEXTS[lang], "Bambini, andiamo tutti al mare domani mattina!", ""])
    assert found[0] == 1.0
    assert max(found[1:]) < 0.2
    assert both.keep(both.score(bitext_batch([TEXTS[lang]], [ENGLISH], lang, "eng_Latn", "t/v1"))).to_pylist() == [True]


def test_the_worse_side_decides(both: Lid) -> None:
    rows = [(ENGLISH, TEXTS["deu_Latn"]), (TEXTS["deu_Latn"], TEXTS["deu_Latn"]), (ENGLISH, ENGLISH)]
    src, tgt = ([row[side] for row in rows] for side in (1, 0))
    good, *bad = both.score(bitext_batch(src, tgt, "deu_Latn", "eng_Latn", "t/v1")).to_pylist()
    assert good == 1.0
    assert max(bad) < 0.2


@pytest.mark.parametrize("lang", IN_LID176)
def test_fasttext_alone_gives_probabilities(lang: str) -> None:
    item = Lid(identifiers=["fasttext"])
    good, bad = scores(item, lang, [TEXTS[lang], "Bambini, andiamo tutti al mare domani mattina!"])
    assert 0.5 <= good <= 1.0
    assert bad < 0.2


def test_capitals_are_read_as_small_letters() -> None:
    item = Lid(identifiers=["fasttext"])
    small, capital = scores(item, "deu_Latn", [TEXTS["deu_Latn"].lower(), TEXTS["deu_Latn"].upper()])
    assert capital == small > 0.9


def test_markup_and_line_breaks_do_not_count() -> None:
    item = Lid(identifiers=["fasttext"])
    plain, marked = scores(
        item, "rus_Cyrl", ["Дети в школе", "<gui>Дети</gui>\n\nв :class:`SchoolBuildingFactory` школе"]
    )
    assert marked == pytest.approx(plain, abs=0.1)


@pytest.mark.parametrize("identifiers", [["fasttext"], ["heliport", "fasttext"]])
def test_a_language_that_nobody_knows_is_judged_by_what_it_is_not(identifiers: list[str]) -> None:
    if "heliport" in identifiers:
        pytest.importorskip("heliport")
    item = Lid.model_validate({"identifiers": identifiers})
    texts = [HAUSA, ENGLISH, ENGLISH.upper(), "Дети рано утром", "", "123"]
    assert scores(item, "hau_Latn", texts) == pytest.approx([1, 0, 0, 0, 0, 0], abs=0.02)


def test_what_both_identifiers_know_is_in_no_language_that_neither_knows(both: Lid) -> None:
    known = {
        "deu_Latn": "Die Kinder gehen am frühen Morgen gemeinsam zur Schule und singen dabei.",
        "fra_Latn": "Les enfants vont à l'école ensemble tôt le matin en chantant des chansons.",
    }
    texts = [HAUSA, *known.values(), "Menü", f"{HAUSA} {HAUSA}"]
    assert scores(both, "hau_Latn", texts) == [1, 0, 0, 1, 1]  # of a short text it is not asked
    assert scores(both, "xho_Latn", texts[1:3]) == [0, 0]
    assert [score > 0.5 for lang, text in known.items() for score in scores(both, lang, [text])] == [1, 1]


SHORT = [  # language beside English, text, kept with the short-text policy, kept without
    ("deu_Latn", "Menü", True, False),
    ("deu_Latn", "Abbrechen", True, True),
    ("deu_Latn", "Save as", False, False),
    ("deu_Latn", "Open file", False, False),
    ("deu_Latn", "Сохранить", False, False),
    ("deu_Latn", "Guardar como archivo", False, False),
    ("deu_Latn", "Fahrkartenautomat, Save the file and open the new settings window now", False, False),
    ("spa_Latn", "Cancelar", True, False),
    ("spa_Latn", "Settings", False, False),
    ("swh_Latn", "Settings", False, False),
    ("arb_Arab", "إلغاء", True, True),
    ("arb_Arab", "Cancel", False, False),
    ("tha_Thai", "บันทึก", True, True),
    ("zho_Hans", "设置", True, True),
    ("zho_Hans", "ありがとう", False, False),
    ("zho_Hans", "東京タワーへ行く", False, False),
    ("zho_Hans", "Save", False, False),
    ("zho_Hans", "", False, False),
    ("yor_Latn", "Cancel", False, False),
]


@pytest.mark.parametrize(("lang", "text", "kept", "without"), SHORT)
def test_a_short_side_is_judged_by_what_it_may_be(both: Lid, lang: str, text: str, kept: bool, without: bool) -> None:
    strict = Lid.model_validate({"short": {"below": 0}})
    assert [scores(item, lang, [text])[0] >= 0.5 for item in (both, strict)] == [kept, without]


def test_length_is_counted_in_letters_as_many_as_in_english(both: Lid) -> None:
    # `Menü` has four letters; the two of 设置 stand for six, and neither signs nor markup count.
    for below, kept in ((4, False), (5, True)):
        item = Lid.model_validate({"short": {"below": below}})
        assert [score >= 0.5 for score in scores(item, "deu_Latn", ["Menü", "<b>Menü</b> …"])] == [kept, kept]
    texts = pa.array(["设置", "设 置!", "", "设置文件"])
    assert _short(texts, "zho_Hans", 6).to_pylist() == [True, True, True, False]
    assert _short(texts, "eng_Latn", 3).to_pylist() == [True, True, True, False]


def test_the_policy_never_lowers_a_score(both: Lid) -> None:
    texts = ["Status", "Radio", "Cancel", "Menü", "Öffnen", "…!?", TEXTS["deu_Latn"]]
    strict = scores(Lid.model_validate({"short": {"below": 0}}), "deu_Latn", texts)
    assert all(a >= b for a, b in zip(scores(both, "deu_Latn", texts), strict, strict=True))


@pytest.mark.parametrize(
    ("likely", "third", "score"),
    [
        ((-3.0, -inf, -inf), 0.001, 1.0),  # nothing else in sight
        ((-3.0, -3.0, -inf), 0.001, 0.5),  # as likely as the other side's language
        ((-6.0, -inf, -3.0), 0.001, 0.5),  # a third a thousand times as likely, and a thousand times rarer
        ((-6.0, -6.0, -3.0), 0.001, 1 / 3),
        ((-inf, -3.0, -3.0), 0.001, 0.0),
        ((-inf, -inf, -inf), 0.1, 0.0),
    ],
)
def test_plausibility_is_bayes_rule(likely: tuple[float, float, float], third: float, score: float) -> None:
    assert _posterior(np.array([likely]), third).to_pylist() == pytest.approx([score])


def test_fasttext_alone_forgives_less() -> None:
    item = Lid(identifiers=["fasttext"])
    strict = Lid.model_validate({"identifiers": ["fasttext"], "short": {"below": 0}})
    texts = ["Öffnen", "Save as", "Guardar como archivo", "Сохранить", ""]
    assert scores(strict, "deu_Latn", texts) == pytest.approx([0.13, 0, 0, 0, 0.08], abs=0.01)
    assert scores(item, "deu_Latn", texts) == pytest.approx([0.44, 0, 0, 0, 0.08], abs=0.01)


def test_words_of_both_sides_are_in_neither_language(both: Lid) -> None:
    names = "World Health Organization, Centers for Disease Control and Prevention, Johns Hopkins University"
    rows = [
        (f"Izingane ziye esikoleni ekuseni kakhulu namuhla: {names}", f"The children met early today: {names}"),
        (f"Die Kinder gingen am Morgen: {names}", f"The children met early today: {names}"),  # in another language
        (f"The girls of our street all met early: {names}", f"The children met early today: {names}"),
        (names, names),
        (f"Lezo: {names}", f"These: {names}"),  # too little is left
    ]
    src, tgt = zip(*rows, strict=True)
    found = both.score(bitext_batch(list(src), list(tgt), "zul_Latn", "eng_Latn", "t/v1")).to_pylist()
    assert [score >= 0.5 for score in found] == [True, False, False, False, False]


def test_words_are_taken_apart_in_every_script() -> None:
    texts = pa.array(["हिन्दी में WHO ने i-Geiger की रिपोर्ट प्रकाशित की है", "nothing shared", "not asked WHO"])
    rest, told = apart(texts, pa.array(["WHO, Geiger", "x", "WHO"]), pa.array([True, True, False]))
    assert rest.to_pylist() == ["हिन्दी में ने i की रिपोर्ट प्रकाशित की है"]
    assert told.to_pylist() == [True, False, False]


def test_chinese_without_kana_is_not_taken_for_japanese(both: Lid) -> None:
    tool = both.open().heliport
    assert tool is not None
    texts = ["利文斯顿队表现“非凡” - 分析", "特朗普说卡瓦诺“遭受到民主党的卑鄙和愤怒”"]  # NTREX-128
    assert tool.answers(pa.array(texts)).to_pylist() == ["jpn"] * len(texts)
    assert scores(Lid.model_validate({"short": {"below": 0}}), "zho_Hans", texts) == [1.0] * len(texts)
    assert scores(both, "zho_Hans", [TEXTS["jpn_Jpan"]])[0] < 0.5


def test_a_text_is_read_on_where_its_beginning_says_nothing(both: Lid) -> None:
    begun = "Bambini, andiamo tutti al mare domani mattina! " * 3
    assert len(begun) > CUT
    assert scores(both, "deu_Latn", [begun + " ".join([TEXTS["deu_Latn"]] * 12), begun]) == [
        1.0,
        pytest.approx(0, abs=0.2),
    ]
    assert scores(both, "deu_Latn", [TEXTS["deu_Latn"] * 2 + begun]) == [1.0]


def test_no_text_makes_it_fail(both: Lid) -> None:
    texts = ["", " ", "\u0000", "\ud7ff", "🙂", "a\u0301" * 50, "x" * 100_000, "ـ", "123", "<b></b>", "\u200b"]
    for lang in ("deu_Latn", "zho_Hans", "hau_Latn", "arb_Arab"):
        found = scores(both, lang, texts)
        assert len(found) == len(texts)
        assert all(0 <= score <= 1 for score in found)
    assert both.score(bitext_batch([], [], "deu_Latn", "eng_Latn", "t/v1")).to_pylist() == []


def test_two_threads_may_share_the_identifiers(both: Lid) -> None:
    tools = both.open()
    batches = [bitext_batch([text] * 50, [ENGLISH] * 50, lang, "eng_Latn", "t/v1") for lang, text in TEXTS.items()]
    with ThreadPoolExecutor(2) as pool:
        assert [found.to_pylist() for found in pool.map(lambda batch: both.score(batch, tools), batches)] == [
            [1.0] * 50
        ] * len(batches)


def test_languages_that_nobody_knows_are_told_before_work_starts(both: Lid) -> None:
    pairs = [Pair("eng_Latn", lang) for lang in ("hau_Latn", "swh_Latn", "wol_Latn", "zul_Latn")]
    [sentence] = both.notes(pairs)
    assert sentence.startswith(
        "lid: no identifier at hand knows Hausa (hau_Latn), Wolof (wol_Latn). Such a side is only"
    )
    assert both.notes([Pair("deu_Latn", "eng_Latn")]) == []
    assert "Zulu (zul_Latn)" in Lid(identifiers=["fasttext"]).notes(pairs)[0]


UNKNOWN = "ha xh rw wo bm pcm ny tn ss ve nd bem fuv fuc hmn shi sm to ty dz"
KNOWN = """
af am ar arz az be bg bn bs ca ckb cs da de din dv ee el es et fa fi fj fo fr gu hr id ig is kmr kr lg ln lv mg mi mn
mey ms my nb nn nso nus om prs ps pt sn so sq sr sr_Latn sw th ti tl ug uz yi yo yue zh zh-Hant zu
"""


def test_just_these_languages_are_known_to_nobody(both: Lid) -> None:
    for code in UNKNOWN.split():
        assert len(both.notes([Pair.parse(["en", code])])) == 1, code
    for code in KNOWN.split():
        assert both.notes([Pair.parse(["en", code])]) == [], code


def test_alemannic_is_not_taken_for_albanian() -> None:
    item = Lid(identifiers=["fasttext"])
    assert "als" not in item.open().known
    assert scores(item, "als_Latn", ["D'Chind sind hüt am Morge früeh i d'Schuel gange."])[0] < 0.2


def test_heliport_that_is_not_installed_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install isogloss\[heliport\].*identifiers: \[fasttext\]"):
        Heliport()


def test_a_missing_model_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    item = Lid(identifiers=["fasttext"], model=tmp_path / "glotlid.bin")
    with pytest.raises(ValueError, match=r"lid.model: no file .*glotlid.bin. Allowed: a fastText model"):
        item.notes([Pair("deu_Latn", "eng_Latn")])
    (tmp_path / "glotlid.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"glotlid.bin is no fastText model"):
        item.notes([Pair("deu_Latn", "eng_Latn")])


def test_any_fasttext_model_may_be_named(tmp_path: Path) -> None:
    shipped = Lid().files()[0]
    own = tmp_path / "own.ftz"
    shutil.copy(shipped, own)
    item = Lid(identifiers=["fasttext"], model=own)
    assert item.files() == [own]
    assert json.loads(json.dumps(item.settings())) == {
        "lid": {
            "min": 0.5,
            "max": None,
            "per": {},
            "identifiers": ["fasttext"],
            "model": str(own),
            "short": {"below": 40},
        }
    }
    assert scores(item, "deu_Latn", [TEXTS["deu_Latn"]]) == scores(
        Lid(identifiers=["fasttext"]), "deu_Latn", [TEXTS["deu_Latn"]]
    )


def test_the_cache_of_fasttext_langdetect_is_used_where_it_holds_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = Lid().files()[0]
    monkeypatch.setenv("FTLANG_CACHE", str(tmp_path))
    assert Lid().files() == [shipped]
    shutil.copy(shipped, tmp_path)
    assert Lid().files() == [tmp_path / "lid.176.ftz"]


def test_an_unknown_identifier_is_refused() -> None:
    with pytest.raises(ValueError, match="heliport"):
        Lid.model_validate({"identifiers": ["cld3"]})


FORK = """
import multiprocessing
from pipelines.filters.lid import Lid
from tests.test_lid import scores

def refusal(_):
    try:
        scores(Lid(), "deu_Latn", ["Ein Haus."])
    except RuntimeError as error:
        return str(error)
    return "no error"

assert Lid().open().heliport is not None
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(refusal, (0,)))
"""


@pytest.mark.usefixtures("both")
def test_a_forked_child_is_refused_rather_than_left_hanging() -> None:
    # In a process of its own: a worker of pytest has signal handlers of other tests, and a child with them may not end.
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", FORK], cwd=root, capture_output=True, text=True, timeout=300, check=True
    )
    assert "Start worker processes by spawn" in ran.stdout


OTHER_SCRIPT = {  # languages in a script that no label at hand was trained on
    "azj_Cyrl": "Мән дүнән базардан үч кило алма алдым вә евә ҝетдим.",
    "kaz_Latn": "Men keşe bazardan üş kilogramm alma jäne eki nan satıp aldım.",
    "hin_Latn": "Mere pitaji ek shikshak hain aur meri maa aspatal mein kaam karti hain.",
    "zsm_Arab": "ساي ممبلي تيڬ کيلو ايڤل دان دوا روتي دي ڤاسر سمالم",
    "tgk_Latn": "Man diruz az bozor se kilo seb xaridam va ba xona raftam.",
    "uig_Cyrl": "Һәммә адәм тугулушидинла әркин, иззәт-һөрмәт вә һоқуқта баппаравәр болуп тугулған.",
    "uig_Latn": "Hemme adem tughulushidinla erkin, izzet-hörmet we hoquqta bapbarawer bolup tughulghan.",
    "kmr_Arab": "ئه‌ز دوهى چوومه‌ بازارێ و سێ كيلو سێڤ كڕين.",
    "ron_Cyrl": "Тоате фиинцеле умане се наск либере ши егале ын демнитате ши ын дрептурь.",
    "grc_Grek": "ἐν ἀρχῇ ὁ οἶκος ἦν παρὰ τὴν θάλατταν.",
}
IN_SCRIPT = {  # languages in a script that a label was trained on, though it is not the usual one of the language
    "uzn_Cyrl": "Мен кеча бозордан уч килограмм олма ва иккита нон сотиб олдим.",
    "pan_Arab": "میں کل بازار گیا تے تن کلو سیب لے کے آیا، میرے ابا جی استاد نیں۔",
    "pnb_Arab": "میں کل بازار گیا تے تن کلو سیب لے کے آیا، میرے ابا جی استاد نیں۔",
    "srp_Latn": "Danas je vreme veoma lepo, deca se igraju u bašti.",
    "srp_Cyrl": "Данас је време веома лепо, деца се играју у башти.",
    "bos_Cyrl": "Јучер сам купио три килограма јабука и два хљеба на пијаци.",
    "hbs_Latn": "Jučer sam kupio tri kilograma jabuka i dva hljeba na pijaci.",
    "zho_Hant": "孩子們一大早就去學校上課了。",
}


@pytest.mark.parametrize("lang", OTHER_SCRIPT)
def test_a_language_in_a_script_that_nobody_knows_is_judged_by_what_it_is_not(both: Lid, lang: str) -> None:
    assert both.open().labels_of(lang) == frozenset()
    texts = [OTHER_SCRIPT[lang], ENGLISH, TEXTS["tha_Thai"], "", "123"]
    assert scores(both, lang, texts) == [1, 0, 0, 0, 0]
    (note,) = both.notes([Pair.parse(["en", lang])])
    assert f"({lang})" in note
    assert (f"Of {lang} they know another script." in note) == (lang != "grc_Grek")


@pytest.mark.parametrize("lang", IN_SCRIPT)
def test_a_label_serves_the_scripts_that_it_was_trained_on(both: Lid, lang: str) -> None:
    assert scores(both, lang, [IN_SCRIPT[lang], ENGLISH])[0] >= 0.5 > scores(both, lang, [ENGLISH])[0]
    assert both.notes([Pair.parse(["en", lang])]) == []


@pytest.mark.parametrize(
    ("lang", "labels"),
    [
        ("uzn_Cyrl", {"uzn"}), ("uzn_Latn", {"uz"}), ("pan_Guru", {"pan", "pa"}), ("pan_Arab", {"pnb"}),
        ("srp_Cyrl", {"hbs", "sr"}), ("srp_Latn", {"hbs", "sr", "sh", "hr", "bs"}), ("azj_Arab", {"azb"}),
        ("gom_Deva", {"gom"}), ("gom_Latn", {"gom"}), ("kor_Kore", {"kor", "ko"}), ("zho_Hant", {"cmn", "zh"}),
        ("deu_Latn", {"deu", "de"}), ("deu_Hebr", set()), ("iku_Cans", {"iku"}), ("mni_Mtei", set()),
    ],
)  # fmt: skip
def test_labels_go_by_language_and_script(both: Lid, lang: str, labels: set[str]) -> None:
    assert both.open().labels_of(lang) == labels


def test_one_language_in_two_scripts_is_not_foreign_to_itself(both: Lid) -> None:
    rows = [(IN_SCRIPT["srp_Cyrl"], IN_SCRIPT["srp_Latn"]), (IN_SCRIPT["srp_Cyrl"], ENGLISH)]
    batch = bitext_batch([row[0] for row in rows], [row[1] for row in rows], "srp_Cyrl", "srp_Latn", "t/v1")
    good, bad = both.score(batch).to_pylist()
    assert good > 0.5 > bad
    hindi = bitext_batch([TEXTS["hin_Deva"]], [OTHER_SCRIPT["hin_Latn"]], "hin_Deva", "hin_Latn", "t/v1")
    assert both.score(hindi).to_pylist() == [1.0]


def test_fasttext_alone_knows_no_uzbek_in_cyrillic_letters() -> None:
    item = Lid(identifiers=["fasttext"])
    assert scores(item, "uzn_Cyrl", [IN_SCRIPT["uzn_Cyrl"], ENGLISH]) == pytest.approx([1, 0], abs=0.02)
    assert (
        "Uzbek (Cyrillic) (uzn_Cyrl). Of uzn_Cyrl they know another script."
        in item.notes([Pair.parse(["en", "uz-Cyrl"])])[0]
    )
