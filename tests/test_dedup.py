from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import dedup
from pipelines.languages import Pair
from pipelines.ledger import BATCH_ROWS
from pipelines.matching import match_key
from pipelines.store import Manifest, Store
from tests.planted import CORPUS, recipe, store_bitext

DE = Pair("deu_Latn", "eng_Latn")


def deduped(folder: Path, rows: Any, **corpus: Any) -> tuple[Store, Manifest]:
    made = recipe([str(DE)], **corpus)
    store = Store.open(folder, made.name)
    store_bitext(store, DE, rows, asset="clean_bitext")
    return store, dedup.run(made, store, DE)


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
        "data", "dataset_dict.json", "manifest.json", "rejected"
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
    assert manifest.rows == {"data": BATCH_ROWS + 5, "rejected": rows - BATCH_ROWS - 5}
    assert pc.sum(store.table("deduped_bitext", DE, "rejected").num_rows).as_py() == rows - BATCH_ROWS - 5


def test_the_same_input_gives_the_same_hashes_and_is_done_once(tmp_path: Path) -> None:
    rows = ([f"Satz {n % 40}" for n in range(100)], ["x"] * 100)
    (store, first), (_, second) = (deduped(tmp_path / name, rows) for name in "ab")
    assert first.files == second.files
    assert dedup.run(recipe([str(DE)]), store, DE) == first


def test_no_row_at_all_is_an_error_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"deduped_bitext of deu_Latn-eng_Latn: none of 0 rows is left. Allowed"):
        deduped(tmp_path / "a", ([], []))
    store, manifest = deduped(tmp_path / "b", ([], []), allow_empty=True)
    assert manifest.rows == {"data": 0, "rejected": 0}
    assert store.table("deduped_bitext", DE).schema.names[-1] == "score_x"
