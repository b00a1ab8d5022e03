from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.config import CorpusConfig
from pipelines.languages import Pair
from pipelines.schema import bitext_batch
from pipelines.stages import dedup
from pipelines.storage.ledger import BATCH_ROWS
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.matching import match_key
from tests.support.bitext_fixtures import CORPUS, recipe, store_bitext

DE = Pair("deu_Latn", "eng_Latn")


def deduped(
    folder: Path, rows: Any, pair: Pair = DE, near: float | None = None, **corpus: Any
) -> tuple[Store, Manifest]:
    """Compared for equality alone, unless `near` says otherwise."""
    made = recipe([str(pair)], **{**corpus, "dedup": {"near": near, **corpus.get("dedup", {})}})
    store = Store.open(folder, made.name)
    store_bitext(store, pair, rows, asset="clean_bitext")
    return store, dedup.run(made, store, pair)


def scored(
    folder: Path, rows: list[tuple[str, str, str, float]], pair: Pair = DE, **settings: Any
) -> tuple[Store, Manifest]:
    """Deduplicate (src, tgt, corpus, quality)."""
    made = recipe([str(pair)], dedup=settings)
    store = Store.open(folder, made.name)
    with store.writing("clean_bitext", pair) as out:
        for src, tgt, corpus, quality in rows:
            batch = bitext_batch([src], [tgt], *pair, corpus)
            out.write(batch.append_column("score_q", pa.array([quality], pa.float64())))
        out.commit("clean", {})
    return store, dedup.run(made, store, pair)


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the recipe rank rows by the column `score_q`."""
    monkeypatch.setattr(CorpusConfig, "quality_column", property(lambda self: "score_q"))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Das Haus.", "das  haus"),
        ("STRASSE", "Strasse!"),
        ("caf\u00e9", "cafe\u0301"),
        ("ΟΔΟΣ", "οδος"),
        ("بيت كبير", "بيت كبير؟"),
        ("می\u200cخواهم", "میخواهم"),
        ("บ้าน หลัง", "บ้านหลัง"),
        ("大房子。", "大房子"),
        ("«Дом»", "дом"),
        ("...", ""),
    ],
)
def test_texts_that_differ_in_form_only_have_one_key(text: str, same: str) -> None:
    first, second = match_key(pa.array([text, same])).to_pylist()
    assert first == second


@pytest.mark.parametrize(
    ("text", "other"), [("2 + 2", "2 - 2"), ("10 €", "10 $"), ("บ้าน", "บาน"), ("مَن", "مِن"), ("a", "b")]
)
def test_texts_that_differ_in_more_have_two(text: str, other: str) -> None:
    first, second = match_key(pa.array([text, other])).to_pylist()
    assert first != second


def test_the_first_of_equal_rows_stays_and_order_is_kept(tmp_path: Path) -> None:
    src = ["Haus", "Hund", "haus!", "Haus", "Katze", "HUND", "Haus"]
    tgt = ["house", "dog", "House.", "home", "cat", "dog", "house"]
    store, manifest = deduped(tmp_path, (src, tgt))
    kept, dropped = store.table("deduped_bitext", DE), store.table("deduped_bitext", DE, "rejected")
    assert kept.select(["src", "tgt"]).to_pydict() == {
        "src": ["Haus", "Hund", "Haus", "Katze"],
        "tgt": ["house", "dog", "home", "cat"],
    }
    assert kept["score_x"].to_pylist() == [0.5] * 4
    assert dropped["src"].to_pylist() == ["haus!", "HUND", "Haus"]
    assert set(dropped["reason"].to_pylist()) == {"duplicate"}
    assert dropped["score"].to_pylist() == [None] * 3
    assert [(row.step, row.corpus, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("duplicate", CORPUS, 7, 3, 4)
    ]
    assert manifest.numbers == {"rows_in": 7, "rows_out": 4}
    assert len(manifest.samples["dropped"]) == 3
    assert sorted(path.name for path in store.folder("deduped_bitext", DE).iterdir()) == [
        "data", "dataset_dict.json", "manifest.json", "rejected", "samples"
    ]  # fmt: skip


def test_the_border_between_the_sides_counts(tmp_path: Path) -> None:
    store, _ = deduped(tmp_path, (["ab", "a", "2:ab", "1"], ["c", "bc", "", "2ab"]))
    assert store.table("deduped_bitext", DE).num_rows == 4


def test_rows_of_several_batches_are_matched_with_each_other(tmp_path: Path) -> None:
    rows = 2 * BATCH_ROWS + 7
    texts = [f"Satz {n % (BATCH_ROWS + 5)}" for n in range(rows)]
    store, manifest = deduped(tmp_path, (texts, texts))
    kept = store.table("deduped_bitext", DE)
    assert kept["src"].to_pylist() == [f"Satz {n}" for n in range(BATCH_ROWS + 5)]
    assert (manifest.rows["data"], manifest.rows["rejected"]) == (BATCH_ROWS + 5, rows - BATCH_ROWS - 5)
    assert pc.sum(store.table("deduped_bitext", DE, "rejected").num_rows).as_py() == rows - BATCH_ROWS - 5


def test_the_same_input_gives_the_same_hashes_and_is_done_once(tmp_path: Path) -> None:
    rows = ([f"Satz {n % 40}" for n in range(100)], ["x"] * 100)
    (store, first), (_, second) = (deduped(tmp_path / name, rows) for name in "ab")
    assert first.files == second.files
    assert dedup.run(recipe([str(DE)], dedup={"near": None}), store, DE) == first


def test_no_row_at_all_is_an_error_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"deduped_bitext of deu_Latn-eng_Latn: none of 0 rows is left. Allowed"):
        deduped(tmp_path / "a", ([], []))
    store, manifest = deduped(tmp_path / "b", ([], []), allow_empty=True)
    assert (manifest.rows["data"], manifest.rows["rejected"]) == (0, 0)
    assert deduped(tmp_path / "c", ([], []), near=0.8, allow_empty=True)[1].rows["data"] == 0
    assert store.table("deduped_bitext", DE).schema.names[-1] == "score_x"


LONG = "The committee met on Tuesday morning and agreed to repair the old bridge before winter"
SENTENCES = {
    "deu_Latn": ("Der Ausschuss hat am Dienstag beschlossen, die alte Brücke zu reparieren.", "."),
    "rus_Cyrl": ("Комитет решил во вторник отремонтировать старый мост ещё до начала зимы.", "ы"),
    "arb_Arab": ("قررت اللجنة يوم الثلاثاء إصلاح الجسر القديم قبل حلول فصل الشتاء القادم", "ن"),
    "tha_Thai": ("คณะกรรมการตัดสินใจเมื่อวันอังคารว่าจะซ่อมแซมสะพานเก่าก่อนฤดูหนาว", "ๆ"),
    "zho_Hans": ("委员会在星期二早上开会并同意在冬天到来之前修好那座旧桥以方便村民", "们"),
}


@pytest.mark.parametrize("lang", SENTENCES)
def test_near_duplicates_go_with_their_similarity(tmp_path: Path, lang: str) -> None:
    pair = Pair(*sorted((lang, "eng_Latn")))
    text, end = SENTENCES[lang]
    texts, english = [text, text + end + "x", text[::-1], text], [LONG, LONG + " 2", LONG.upper()[::-1], LONG + "!"]
    columns = (texts, english) if pair.src == lang else (english, texts)
    store, manifest = deduped(tmp_path, columns, pair, near=0.8)
    assert store.table("deduped_bitext", pair).num_rows == 2
    dropped = store.table("deduped_bitext", pair, "rejected").sort_by("reason")
    assert dropped["reason"].to_pylist() == ["duplicate", "near_duplicate"]
    first, second = dropped["score"].to_pylist()
    assert first is None
    assert 0.9 < second < 1
    assert [(row.step, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("duplicate", 4, 1, 3),
        ("near_duplicate", 3, 1, 2),
    ]
    shown = store.table("deduped_bitext", pair, "samples").to_pylist()
    assert {row["step"]: row["score"] for row in shown if row["step"] != "kept"} == {
        "duplicate": None,
        "near_duplicate": second,
    }


def test_near_is_on_unless_switched_off(tmp_path: Path) -> None:
    assert recipe([str(DE)]).corpus.dedup.near == 0.8
    rows = ([LONG, LONG + " 2"], [LONG, LONG + " 2"])
    assert deduped(tmp_path / "a", rows, near=0.8)[1].rows["data"] == 1
    assert deduped(tmp_path / "b", rows, near=None)[1].rows["data"] == 2
    assert deduped(tmp_path / "c", rows, near=0.99)[1].rows["data"] == 2


@pytest.mark.usefixtures("quality")
@pytest.mark.parametrize("near", [None, 0.8])
def test_the_best_copy_stays_whatever_its_corpus(tmp_path: Path, near: float | None) -> None:
    rows = [
        ("Haus", "house", "a/v1", 0.2),
        ("haus", "House", "b/v1", 0.9),
        ("Hund", "dog", "a/v1", 0.5),
        ("HAUS", "house!", "a/v1", 0.4),
        ("Hund!", "dog", "b/v1", 0.5),
    ]
    store, manifest = scored(tmp_path, rows, near=near)
    kept = store.table("deduped_bitext", DE)
    assert kept["src"].to_pylist() == ["haus", "Hund"]
    assert kept["score_q"].to_pylist() == [0.9, 0.5]
    assert {row.corpus: row.dropped for row in manifest.ledger if row.step == "duplicate"} == {"a/v1": 2, "b/v1": 1}


@pytest.mark.usefixtures("quality")
def test_the_best_of_near_copies_stays_whatever_its_corpus(tmp_path: Path) -> None:
    rows = [
        (LONG + end, LONG + end, corpus, q)
        for end, corpus, q in ((" 1", "a/v1", 0.2), (" 22", "b/v1", 0.9), (" 3", "a/v1", 0.5))
    ]
    store, manifest = scored(tmp_path, rows)
    assert store.table("deduped_bitext", DE)["src"].to_pylist() == [LONG + " 22"]
    assert [row.dropped for row in manifest.ledger if row.step == "near_duplicate"] == [2, 0]


def test_without_a_quality_column_the_first_stays(tmp_path: Path) -> None:
    store, _ = scored(tmp_path, [("Haus", "house", "a/v1", 0.2), ("haus", "House", "b/v1", 0.9)])
    assert store.table("deduped_bitext", DE)["corpus"].to_pylist() == ["a/v1"]


ROWS = (["Haus", "haus", "Heim", "Hund", "Hund"], ["house", "home", "home", "dog", "dog"])


@pytest.mark.parametrize(
    ("on", "kept", "steps"),
    [
        (["pair"], [0, 1, 2, 3], [("duplicate", 1)]),
        (["src"], [0, 2, 3], [("duplicate_src", 2)]),
        (["tgt"], [0, 1, 3], [("duplicate_tgt", 2)]),
        (["pair", "src"], [0, 2, 3], [("duplicate", 1), ("duplicate_src", 1)]),
        (["src", "tgt"], [0, 2, 3], [("duplicate_src", 2), ("duplicate_tgt", 0)]),
        (["tgt", "src"], [0, 3], [("duplicate_tgt", 2), ("duplicate_src", 1)]),
    ],
)
def test_one_side_alone_may_decide(tmp_path: Path, on: list[str], kept: list[int], steps: list) -> None:
    store, manifest = deduped(tmp_path, ROWS, dedup={"on": on})
    assert store.table("deduped_bitext", DE)["tgt"].to_pylist() == [ROWS[1][row] for row in kept]
    assert [(row.step, row.dropped) for row in manifest.ledger] == steps


def test_near_follows_every_side_asked_for(tmp_path: Path) -> None:
    other = "Ein ganz anderer Satz, der mit der Brücke gar nichts zu tun hat und lange genug ist"
    rows = ([LONG, LONG + " 2", other, other[::-1]], [other, other[::-1], LONG, LONG + " 3"])
    _, manifest = deduped(tmp_path / "a", rows, dedup={"on": ["pair", "src", "tgt"], "near": 0.8})
    assert {row.step: row.dropped for row in manifest.ledger} == {
        "duplicate": 0, "duplicate_src": 0, "duplicate_tgt": 0,
        "near_duplicate": 0, "near_duplicate_src": 1, "near_duplicate_tgt": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on": []}, "at least 1 item"),
        ({"on": ["src", "src"]}, "found src, src. Expected: pair, src and tgt, each once"),
        ({"on": ["source"]}, "'pair', 'src' or 'tgt'"),
        ({"near": 0.3}, "greater than or equal to 0.5"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe([str(DE)], dedup=settings)


def test_settings_are_a_reason_to_run_again(tmp_path: Path) -> None:
    store, first = deduped(tmp_path, ROWS)
    for settings in ({"near": 0.8}, {"near": 0.7}, {"near": None, "on": ["src"]}):
        assert dedup.run(recipe([str(DE)], dedup=settings), store, DE).fingerprint != first.fingerprint
