from pathlib import Path

import pytest

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.stages import instruct
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import CORPUS, Planted, recipe, store_bitext, store_eval_text

PAIR = Pair("deu_Latn", "eng_Latn")
ACROSS = {"answer_across": {"source": Planted(rows=8)}}


def instructed(folder: Path, held_out: dict[str, list[str]] | None = None, **corpus) -> tuple[Store, Manifest]:
    made = recipe(["de-en"], **{"instructions": ["translate", ACROSS], **corpus})
    store = Store.open(folder, made.name)
    store_bitext(store, PAIR, 6)
    store_eval_text(store, held_out or {"eng_Latn": ["Nothing like it."]})
    return store, instruct.run(made, store, PAIR)


def test_every_row_is_rendered_once_per_type_and_own_data_is_added(tmp_path: Path) -> None:
    store, manifest = instructed(tmp_path)
    rows = store.table("instructions", PAIR).to_pylist()
    kinds = [row["template"].split("/")[0] for row in rows]
    assert (kinds.count("translate"), kinds.count("answer_across")) == (6, 8)
    assert {row["corpus"] for row in rows} == {CORPUS}
    assert manifest.corpora[CORPUS]["licence"] == "CC0-1.0"
    assert manifest.numbers["rows_out"] == manifest.rows["data"] == 14
    assert sum(n for key, n in manifest.numbers.items() if key.startswith("rows translate/")) == 6


def test_what_holds_evaluation_text_is_dropped_and_counted(tmp_path: Path) -> None:
    held_out = {"eng_Latn": ["ENG_Latn given 4"], "deu_Latn": ["deu_latn, given 4"], "fra_Latn": ["eng_Latn given 2"]}
    store, manifest = instructed(tmp_path, held_out, decontaminate={"near": None})
    ledger = {row.corpus: (row.step, row.into, row.dropped, row.kept) for row in manifest.ledger}
    assert ledger["answer_across"] == ("evaluation_overlap", 8, 1, 7)
    assert ledger["translate"] == ("evaluation_overlap", 6, 0, 6)
    said = " ".join(
        turn["content"] for row in store.table("instructions", PAIR).to_pylist() for turn in row["messages"]
    )
    assert "given 4" not in said
    assert "given 2" in said


def test_what_nearly_is_a_held_out_or_listed_text_is_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("deu_Latn question 5?\neng_Latn question 5?")
    held_out = {lang: [f"{lang} given 4", f"x {lang} question 6"] for lang in PAIR}
    settings = {"near": 0.85, "lists": [str(tmp_path / "list.txt")]}
    _, manifest = instructed(tmp_path / "store", held_out, decontaminate=settings)
    assert [(row.step, row.into, row.dropped) for row in manifest.ledger if row.corpus == "answer_across"] == [
        ("evaluation_overlap", 8, 1), ("evaluation_near", 7, 1), ("list_overlap", 6, 1), ("list_near", 5, 0)
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_shards_and_another_does_not(tmp_path: Path) -> None:
    first, again, other = (instructed(tmp_path / name)[0] for name in ("first", "again", "other"))
    store_bitext(other, PAIR, 6)
    other_manifest = instruct.run(recipe(["de-en"], seed=1, instructions=["translate", ACROSS]), other, PAIR)
    manifests = [store.require("instructions", PAIR) for store in (first, again)]
    assert manifests[0].files == manifests[1].files
    assert other_manifest.files != manifests[0].files


def test_an_unchanged_recipe_is_not_run_again_and_a_changed_setting_is(tmp_path: Path) -> None:
    store, manifest = instructed(tmp_path)
    same = recipe(["de-en"], instructions=["translate", ACROSS])
    assert instruct.run(same, store, PAIR) == manifest
    for changed in ({"cross_probability": 0.1}, {"source": Planted(rows=7)}):
        settings = {"answer_across": {**ACROSS["answer_across"], **changed}}
        after = instruct.run(recipe(["de-en"], instructions=["translate", settings]), store, PAIR)
        assert after.fingerprint != manifest.fingerprint


def test_no_instruction_at_all_is_an_error_unless_the_recipe_allows_it(tmp_path: Path) -> None:
    def run(made: Recipe) -> Manifest:
        store = Store.open(tmp_path, made.name)
        store_bitext(store, PAIR, ([], []))
        store_eval_text(store, {})
        return instruct.run(made, store, PAIR)

    with pytest.raises(ValueError, match=r"instructions of deu_Latn-eng_Latn: found none in 0 rows.*allow_empty: true"):
        run(recipe(["de-en"], instructions=["translate"]))
    assert run(recipe(["de-en"], instructions=["translate"], allow_empty=True)).rows == {"data": 0, "samples": 0}
    assert run(recipe(["de-en"])).rows == {"data": 0, "samples": 0}
