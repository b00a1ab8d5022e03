import importlib.util
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from pipelines.filters.lid import Heliport, Lid
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


def test_languages_that_nobody_knows_are_told_before_work_starts(both: Lid) -> None:
    pairs = [Pair("eng_Latn", lang) for lang in ("hau_Latn", "swh_Latn", "wol_Latn", "zul_Latn")]
    [sentence] = both.notes(pairs)
    assert sentence.startswith(
        "lid: no identifier at hand knows Hausa (hau_Latn), Wolof (wol_Latn). Such a side is only"
    )
    assert both.notes([Pair("deu_Latn", "eng_Latn")]) == []
    assert "Zulu (zul_Latn)" in Lid(identifiers=["fasttext"]).notes(pairs)[0]


UNKNOWN = "ha xh rw wo bm pcm ny tn ss ve nd bem fuv fuc hmn mey shi sm to ty dz"
KNOWN = """
af am ar az be bg bn bs ca ckb cs da de din dv ee el es et fa fi fj fo fr gu hr id ig is kmr kr lg ln lv mg mi mn ms my
nb nn nso nus om prs ps pt sn so sq sr sr_Latn sw th ti tl ug uz yi yo yue zh zh-Hant zu
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
        "lid": {"min": 0.5, "max": None, "identifiers": ["fasttext"], "model": str(own)}
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


def test_a_forked_child_is_refused_rather_than_left_hanging(both: Lid) -> None:
    tool = both.open().heliport
    assert tool is not None
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "Start worker processes by spawn" in pool.apply(_refusal, (0,))


def _refusal(_: int) -> str:
    try:
        scores(Lid(), "deu_Latn", ["Ein Haus."])
    except RuntimeError as error:
        return str(error)
    return "no error"
