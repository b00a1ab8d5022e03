from pathlib import Path
from typing import Any

import pytest

from pipelines import decontaminate
from pipelines.languages import Pair
from pipelines.store import Manifest, Store, StoreError
from tests.planted import CORPUS, recipe, store_bitext, store_eval_text

ZH = Pair("eng_Latn", "zho_Hans")
ROWS = (
    ["The house.", "the HOUSE", "A dog", "Some cat", "大房子", "A river"],
    ["房子。", "一个房子", "狗 !", "猫", "The tree", "..."],
)
HELD_OUT = {
    "eng_Latn": ["The house!", "The tree"],
    "zho_Hans": ["狗", "大房子", "…", ""],
    "deu_Latn": ["Some cat", "A river"],
}


def decontaminated(
    folder: Path, rows: Any = ROWS, held: dict[str, list[str]] = HELD_OUT, **corpus: Any
) -> tuple[Store, Manifest]:
    made = recipe([str(ZH)], **corpus)
    store = Store.open(folder, made.name)
    store_eval_text(store, held)
    store_bitext(store, ZH, rows, asset="deduped_bitext")
    return store, decontaminate.run(made, store, ZH)


def test_rows_that_hold_a_text_of_the_evals_in_its_language_are_set_aside(tmp_path: Path) -> None:
    store, manifest = decontaminated(tmp_path)
    assert store.table("decontaminated_bitext", ZH)["src"].to_pylist() == ["Some cat", "大房子", "A river"]
    dropped = store.table("decontaminated_bitext", ZH, "rejected")
    assert dropped["src"].to_pylist() == ["The house.", "the HOUSE", "A dog"]
    assert set(dropped["reason"].to_pylist()) == {"evaluation_overlap"}
    assert dropped["score"].to_pylist() == [None] * 3
    assert [(row.step, row.corpus, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("evaluation_overlap", CORPUS, 6, 3, 3)
    ]
    assert manifest.numbers == {"rows_in": 6, "rows_out": 3, "eval_texts": 4}
    assert manifest.corpora[CORPUS]["version"] == "v1"


def test_without_held_out_texts_every_row_stays(tmp_path: Path) -> None:
    store, manifest = decontaminated(tmp_path, held={})
    assert manifest.rows == {"data": 6, "rejected": 0}
    assert store.table("decontaminated_bitext", ZH)["score_x"].to_pylist() == [0.5] * 6


def test_new_held_out_texts_are_a_reason_to_run_again(tmp_path: Path) -> None:
    store, first = decontaminated(tmp_path)
    made = recipe([str(ZH)])
    assert decontaminate.run(made, store, ZH) == first
    store_eval_text(store, {"eng_Latn": ["Some cat"]})
    second = decontaminate.run(made, store, ZH)
    assert second.fingerprint != first.fingerprint
    assert second.rows == {"data": 5, "rejected": 1}


def test_the_held_out_texts_must_be_there(tmp_path: Path) -> None:
    made = recipe([str(ZH)])
    store = Store.open(tmp_path, made.name)
    store_bitext(store, ZH, ROWS, asset="deduped_bitext")
    with pytest.raises(StoreError, match="no eval_text in it"):
        decontaminate.run(made, store, ZH)


def test_nothing_left_is_an_error_unless_allowed(tmp_path: Path) -> None:
    rows = (["The house"], ["房子"])
    with pytest.raises(ValueError, match="none of 1 rows is left; evaluation_overlap dropped 1 of planted/v1"):
        decontaminated(tmp_path / "a", rows)
    assert decontaminated(tmp_path / "b", rows, allow_empty=True)[1].rows == {"data": 0, "rejected": 1}
