from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import Recipe
from pipelines.evals import Eval
from pipelines.languages import Pair
from pipelines.schema import BITEXT, EVAL_TEXT, bitext_batch
from pipelines.sources import Source
from pipelines.stages import collect
from pipelines.storage.store import Store

PAIR = Pair.parse("en-de")


class FakeSource(Source):
    src: list[str] = ["eins", "zwei"]
    tgt: list[str] = ["one", "two"]
    corpus: str = "fake/v1"
    release: int = 1
    swapped: bool = False

    def pin(self, pair: Pair, home: Path) -> Any:
        return self.release

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        codes = tuple(reversed(pair)) if self.swapped else pair
        for src, tgt in zip(self.src, self.tgt, strict=True):
            yield bitext_batch([src], [tgt], codes[0], codes[1], self.corpus)

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        known = {"version": "v1", "licence": "CC0-1.0", "url": "", "citation": ""}
        return {"fake/v1": known, "unused/v1": known}


class FakeEval(Eval):
    items: list[str] = ["a", "b"]

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        rows = [
            {"eval": "fake", "item": item, "pair": str(pair), "lang": code, "text": f"{item} {code}"}
            for pair in pairs
            for item in self.items
            for code in pair
        ]
        yield pa.RecordBatch.from_pylist(rows, EVAL_TEXT)

    def run(self, lm: Any, texts: pa.Table) -> dict[str, Any]:
        return {}

    def provenance(self, pairs: list[Pair], home: Path) -> dict[str, dict[str, Any]]:
        return {"heldout/v1": {"version": "v1", "licence": "CC0-1.0", "url": "", "citation": ""}}


def _recipe(*sources: Source, evals: tuple[Eval, ...] = (), **corpus: Any) -> Recipe:
    raw = {"name": "t", "corpus": {"pairs": ["en-de"], "sources": list(sources), **corpus}, "eval": list(evals)}
    return Recipe.model_validate(raw)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", "t")


def test_rows_of_all_sources_follow_each_other_and_are_counted(store: Store) -> None:
    other = FakeSource(src=["", "vier\ufffd\ufffd"], tgt=["three", "four"])
    manifest = collect.run(_recipe(FakeSource(), other), store, PAIR)
    table = store.table("raw_bitext", PAIR)
    assert table.schema == BITEXT
    assert table["src"].to_pylist() == ["eins", "zwei", "", "vier\ufffd\ufffd"]
    assert table["tgt"].to_pylist() == ["one", "two", "three", "four"]
    assert [row.model_dump() for row in manifest.ledger] == [
        {"step": "collect", "corpus": "fake/v1", "into": 4, "dropped": 0, "kept": 4, "changed": 0}
    ]
    assert manifest.numbers == {"rows_in": 4, "rows_out": 4, "empty_segments": 1, "replacement_characters": 2}
    assert sorted(row["tgt"] for row in manifest.samples["kept"]) == ["four", "one", "three", "two"]
    assert list(manifest.corpora) == ["fake/v1"]
    assert manifest.corpora["fake/v1"]["licence"] == "CC0-1.0"


def test_the_sample_source_is_collected_the_same_twice(tmp_path: Path) -> None:
    raw = {"name": "t", "corpus": {"pairs": ["en-hi"], "sources": [{"sample": {"rows": 400}}]}}
    recipe = Recipe.model_validate(raw)
    (pair,) = recipe.corpus.pairs
    first, second = (collect.run(recipe, Store.open(tmp_path / name, "t"), pair) for name in "ab")
    assert first.rows["data"] == 100
    assert first.files == second.files
    assert first.samples == second.samples
    assert len(first.samples["kept"]) == 10


def test_nothing_is_written_again_until_settings_or_pin_change(store: Store) -> None:
    first = collect.run(_recipe(FakeSource()), store, PAIR)
    assert collect.run(_recipe(FakeSource()), store, PAIR) == first
    pinned = collect.run(_recipe(FakeSource(release=2)), store, PAIR)
    assert pinned.fingerprint != first.fingerprint
    assert pinned.files == first.files
    changed = collect.run(_recipe(FakeSource(tgt=["one", "2"])), store, PAIR)
    assert changed.fingerprint != first.fingerprint
    assert store.table("raw_bitext", PAIR)["tgt"].to_pylist() == ["one", "2"]


def test_no_row_is_an_error_unless_allowed(store: Store) -> None:
    empty = FakeSource(src=[], tgt=[])
    with pytest.raises(ValueError, match="deu_Latn-eng_Latn: found no row in test_collect.*set corpus.allow_empty"):
        collect.run(_recipe(empty), store, PAIR)
    assert store.manifest("raw_bitext", PAIR) is None
    manifest = collect.run(_recipe(empty, allow_empty=True), store, PAIR)
    assert manifest.rows == {"data": 0}
    assert store.table("raw_bitext", PAIR).schema == BITEXT


def test_a_batch_of_another_pair_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match=r"column 'src_lang' holds eng_Latn\. Allowed: deu_Latn\. Swap the sides"):
        collect.run(_recipe(FakeSource(swapped=True)), store, PAIR)


def test_a_corpus_without_provenance_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="rows of stray/v1 come without provenance"):
        collect.run(_recipe(FakeSource(corpus="stray/v1")), store, PAIR)


def test_progress_counts_rows(store: Store) -> None:
    notes: list[str] = []
    collect.run(_recipe(FakeSource()), store, PAIR, lambda done, total=0, note="": notes.append(note))
    assert notes == ["1 rows", "2 rows"]


def test_texts_of_all_evals_are_kept(store: Store) -> None:
    manifest = collect.run_evals(_recipe(FakeSource(), evals=(FakeEval(),)), store)
    assert store.table("eval_text").select(["item", "lang", "text"]).to_pylist() == [
        {"item": item, "lang": code, "text": f"{item} {code}"} for item in "ab" for code in PAIR
    ]
    assert manifest.numbers == {"rows_out": 4, "texts/fake": 4}
    assert list(manifest.corpora) == ["heldout/v1"]
    assert collect.run_evals(_recipe(FakeSource(), evals=(FakeEval(),)), store) == manifest
    assert collect.run_evals(_recipe(FakeSource(), evals=(FakeEval(items=["c"]),)), store).rows == {"data": 2}


def test_no_eval_leaves_an_empty_part_and_an_empty_eval_is_an_error(store: Store) -> None:
    assert collect.run_evals(_recipe(FakeSource()), store).rows == {"data": 0}
    assert store.table("eval_text").schema == EVAL_TEXT
    with pytest.raises(ValueError, match="eval 'test_collect': found no text for deu_Latn-eng_Latn"):
        collect.run_evals(_recipe(FakeSource(), evals=(FakeEval(items=[]),)), store)


def test_offline_sources_have_nothing_to_refresh(store: Store) -> None:
    assert collect.refresh(_recipe(FakeSource()), store) == []


class Licensed(FakeSource):
    licence: str = "CC0-1.0"
    read: int | None = None

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        files = [{"url": "x", "rows_read": self.read}] if self.read else [{"url": "x"}]
        known = {"version": "v1", "licence": self.licence, "url": "x", "citation": "", "files": files}
        return {self.corpus: known}


def test_corpora_whose_licence_is_not_allowed_give_no_row_and_are_counted(store: Store) -> None:
    free = Licensed(corpus="free/v1", licence="cc-by-4.0")
    closed = Licensed(corpus="closed/v1", licence="CC-BY-NC-4.0", src=["drei", ""], tgt=["three", "four"])
    recipe = _recipe(free, closed, licences=["CC-BY-[0-9]*", "CC0-*"])
    manifest = collect.run(recipe, store, PAIR)
    assert store.table("raw_bitext", PAIR)["src"].to_pylist() == ["eins", "zwei"]
    assert [(row.step, row.corpus, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("collect", "free/v1", 2, 0, 2),
        ("licence", "free/v1", 2, 0, 2),
        ("collect", "closed/v1", 2, 0, 2),
        ("licence", "closed/v1", 2, 2, 0),
    ]
    assert manifest.numbers == {
        "rows_in": 4, "rows_out": 2, "empty_segments": 0, "replacement_characters": 0,
        "licences_refused": {"closed/v1": "CC-BY-NC-4.0"},
    }  # fmt: skip
    assert list(manifest.corpora) == ["free/v1"]
    assert [row["src"] for row in manifest.samples["kept"]] in (["eins", "zwei"], ["zwei", "eins"])
    everything = collect.run(_recipe(free, closed), store, PAIR)
    assert everything.rows == {"data": 4}
    assert everything.fingerprint != manifest.fingerprint


def test_where_no_licence_is_allowed_the_corpora_and_their_licences_are_named(store: Store) -> None:
    sources = Licensed(corpus="a/v1", licence="MPL-2.0"), Licensed(corpus="b/v1", licence="CC0-1.0; PSF-2.0")
    text = (
        r"corpus\.licences, deu_Latn-eng_Latn: found a/v1: MPL-2\.0; b/v1: CC0-1\.0; PSF-2\.0\. Allowed: CC0-\*\. "
        r"Nothing is left: allow a licence"
    )
    with pytest.raises(ValueError, match=text):
        collect.run(_recipe(*sources, licences=["CC0-*"]), store, PAIR)
    manifest = collect.run(_recipe(*sources, licences=["CC0-*"], allow_empty=True), store, PAIR)
    assert manifest.rows == {"data": 0}
    assert manifest.corpora == {}


def test_an_empty_list_of_licences_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        _recipe(FakeSource(), licences=[])


def test_rows_that_a_source_read_and_did_not_draw_are_in_the_ledger(store: Store) -> None:
    manifest = collect.run(_recipe(Licensed(corpus="a/v1", read=10), Licensed(corpus="a/v1")), store, PAIR)
    assert [(row.step, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("collect", 12, 0, 12),
        ("cap", 12, 8, 4),
    ]
    assert (manifest.numbers["rows_in"], manifest.numbers["rows_out"]) == (12, 4)
