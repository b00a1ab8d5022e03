import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipelines.config import Recipe
from pipelines.filters import Filter
from pipelines.filters.char_length import CharLength
from pipelines.filters.markup import Markup
from pipelines.languages import Pair
from pipelines.schema import BITEXT, bitext_batch
from pipelines.stages import clean
from pipelines.storage.ledger import REJECTED, Samples, rebatch
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import CORPUS, recipe, store_bitext

DE = Pair("deu_Latn", "eng_Latn")
ROWS = {  # src -> tgt, and the filter that drops it
    "Das ist ein Haus.": ("This is a house.", None),
    "Ei": ("This is an egg.", "char_length"),
    "Das ist ein langer Satz über nichts als Häuser.": ("House", "length_ratio"),
    "Дом у реки": ("House at the river", "script"),
    "OpenStreetMap": ("OpenStreetMap", "identical"),
    "Ein <b>Haus</b>": ("One <b>house</b>", "markup"),
    "Der Hund schläft.": ("The dog sleeps.", None),
}
FILTERS = [{"char_length": {"min": 3}}, "length_ratio", "script", "identical", {"markup": {"max": 0.3}}]


def cleaned(
    folder: Path, filters: list[Any] = FILTERS, rows: dict[str, Any] = ROWS, **corpus: Any
) -> tuple[Store, Manifest, Recipe]:
    made = recipe([str(DE)], filters=filters, **corpus)
    store = Store.open(folder, made.name)
    store_bitext(store, DE, (list(rows), [tgt for tgt, _ in rows.values()]), asset="raw_bitext")
    return store, clean.run(made, store, DE), made


def test_each_row_is_kept_or_set_aside_with_the_first_filter_that_drops_it(tmp_path: Path) -> None:
    store, manifest, _ = cleaned(tmp_path)
    kept, dropped = store.table("clean_bitext", DE), store.table("clean_bitext", DE, "rejected")
    assert kept["src"].to_pylist() == [src for src, (_, reason) in ROWS.items() if reason is None]
    assert {row["src"]: row["reason"] for row in dropped.to_pylist()} == {
        src: reason for src, (_, reason) in ROWS.items() if reason
    }
    assert manifest.rows == {"rejected": 5, "data": 2, "scores": 7, "samples": 7}
    assert manifest.numbers == {"rows_in": 7, "rows_out": 2, "notes": []}
    assert dropped.schema.equals(REJECTED)


def test_kept_rows_carry_every_score_and_rejected_ones_the_one_that_dropped_them(tmp_path: Path) -> None:
    store, _, _ = cleaned(tmp_path)
    kept = store.table("clean_bitext", DE)
    assert kept.schema.names == [
        *BITEXT.names,
        *(f"score_{name}" for name in ("char_length", "length_ratio", "script", "identical", "markup")),
    ]
    assert kept["score_char_length"].to_pylist() == [{"low": 16, "high": 17}, {"low": 15, "high": 17}]
    assert kept["score_markup"].to_pylist() == [0.0, 0.0]
    scores = {row["reason"]: row["score"] for row in store.table("clean_bitext", DE, "rejected").to_pylist()}
    assert scores == {
        "char_length": 2.0,
        "length_ratio": 47 / 5,
        "script": 0.0,
        "identical": 1.0,
        "markup": pytest.approx(7 / 15),
    }


def test_the_ledger_passes_rows_from_filter_to_filter(tmp_path: Path) -> None:
    _, manifest, _ = cleaned(tmp_path)
    assert [(row.step, row.corpus, row.into, row.dropped, row.kept) for row in manifest.ledger] == [
        ("normalise", CORPUS, 7, 0, 7),
        ("char_length", CORPUS, 7, 1, 6),
        ("length_ratio", CORPUS, 6, 1, 5),
        ("script", CORPUS, 5, 1, 4),
        ("identical", CORPUS, 4, 1, 3),
        ("markup", CORPUS, 3, 1, 2),
    ]
    assert manifest.corpora[CORPUS]["licence"] == "CC0-1.0"


def test_samples_show_rows_of_every_reason(tmp_path: Path) -> None:
    _, manifest, _ = cleaned(tmp_path)
    assert sorted(row["src"] for row in manifest.samples["kept"]) == ["Das ist ein Haus.", "Der Hund schläft."]
    assert {row["reason"] for row in manifest.samples["dropped"]} == {reason for _, reason in ROWS.values() if reason}
    assert {"src", "tgt", "reason", "score"} == set(manifest.samples["dropped"][0])


def test_without_filters_every_row_stays(tmp_path: Path) -> None:
    store, manifest, _ = cleaned(tmp_path, filters=[])
    assert store.table("clean_bitext", DE)["src"].to_pylist() == list(ROWS)
    assert manifest.rows == {"rejected": 0, "data": 7, "samples": 7}
    assert store.table("clean_bitext", DE, "rejected").schema.equals(REJECTED)


def test_nothing_left_is_an_error_unless_allowed(tmp_path: Path) -> None:
    strict = [{"char_length": {"min": 500}}]
    with pytest.raises(
        ValueError,
        match=r"clean_bitext of deu_Latn-eng_Latn: none of 7 rows is left; char_length dropped 7 of planted/v1. A",
    ):
        cleaned(tmp_path / "a", filters=strict)
    assert not (tmp_path / "a" / "clean_bitext" / str(DE)).exists()
    store, manifest, _ = cleaned(tmp_path / "b", filters=strict, allow_empty=True)
    assert manifest.rows == {"rejected": 7, "data": 0, "scores": 7, "samples": 7}
    assert store.table("clean_bitext", DE).schema.names[-1] == "score_char_length"


def test_the_stage_runs_again_only_when_its_filters_change(tmp_path: Path) -> None:
    store, first, made = cleaned(tmp_path)
    same = clean.run(made, store, DE)
    assert same == first
    prints = {first.fingerprint}
    for filters in (FILTERS[:-1], [*FILTERS[:-1], {"markup": {"max": 0.35}}], FILTERS[::-1]):
        changed = clean.run(recipe([str(DE)], filters=filters), store, DE)
        prints.add(changed.fingerprint)
    assert len(prints) == 4


def test_the_same_recipe_gives_the_same_hashes(tmp_path: Path) -> None:
    first, second = (cleaned(tmp_path / name)[1] for name in "ab")
    assert first.files == second.files
    assert first.samples == second.samples


def test_a_bound_moves_and_a_filter_comes_without_scoring_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, first, _ = cleaned(tmp_path)
    asked: list[str] = []
    for item in (CharLength, Markup):
        real = item.score
        monkeypatch.setattr(item, "score", lambda self, *rest, real=real: asked.append(self.name) or real(self, *rest))
    moved = clean.run(recipe([str(DE)], filters=[{"char_length": {"min": 2}}, *FILTERS[1:]]), store, DE)
    assert asked == []
    assert [row.dropped for row in moved.ledger[1:3]] == [0, 2]  # it was 1 and 1
    again = clean.run(recipe([str(DE)], filters=FILTERS), store, DE)
    assert asked == []
    assert again.files == first.files
    clean.run(recipe([str(DE)], filters=FILTERS[:-1]), store, DE)
    assert asked == []
    clean.run(recipe([str(DE)], filters=FILTERS), store, DE)
    assert asked == ["markup"]


class Expensive(Filter):
    """Characters of the target, of rows that the filters before it keep."""

    min: float | None = 10
    is_expensive = True
    seen: ClassVar[list[str]] = []

    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        self.seen.extend(batch["src"].to_pylist())
        return pa.array([float(len(text)) for text in batch["tgt"].to_pylist()], pa.float64())


def test_an_expensive_filter_scores_only_rows_that_the_filters_before_it_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Expensive, "seen", seen := [])
    chain = [*FILTERS[:3], Expensive(), *FILTERS[3:]]
    store, *_ = cleaned(tmp_path, filters=chain)
    rows = [src for src, (_, reason) in ROWS.items() if reason not in ("char_length", "length_ratio", "script")]
    assert seen == rows
    scores = dict(zip(ROWS, store.table("clean_bitext", DE, "scores")["test_clean"].to_pylist(), strict=True))
    assert scores == {src: float(len(tgt)) if src in rows else None for src, (tgt, _) in ROWS.items()}
    assert store.table("clean_bitext", DE).column_names == [*BITEXT.names, *(f"score_{f}" for f in (
        "char_length", "length_ratio", "script", "test_clean", "identical", "markup"))]  # fmt: skip
    plain = cleaned(tmp_path / "plain")[0].table("clean_bitext", DE)
    assert store.table("clean_bitext", DE).select(plain.column_names).equals(plain)
    seen.clear()
    later = clean.run(recipe([str(DE)], filters=[*chain[:3], Expensive(min=12), *FILTERS[3:4]]), store, DE)
    assert seen == []  # neither its own bound nor a later filter decides which rows it scores
    assert later.rows["data"] == 3
    earlier = clean.run(recipe([str(DE)], filters=[{"char_length": {"min": 2}}, *chain[1:]]), store, DE)
    assert seen == rows  # "Ei" is now dropped by length_ratio
    assert earlier.ledger[1].dropped == 0
    seen.clear()
    clean.run(
        recipe([str(DE)], filters=[{"char_length": {"min": 0, "max": 1}}, *chain[1:]], allow_empty=True), store, DE
    )
    assert seen == []


PER = [  # settings of char_length's `per`, corpus of the rows, bounds that hold
    ({}, "GNOME/v3", (4, 20)),
    ({"de": {"min": 6}}, "GNOME/v3", (6, 20)),
    ({"de": {"min": 6}, "en": {"min": 8, "max": 9}}, "GNOME/v3", (8, 9)),
    ({"de": {"min": 6}, "en-de": {"min": 5}}, "GNOME/v3", (5, 20)),
    ({"en-de": {"min": 5}, "GNOME": {"min": 3, "max": None}}, "GNOME/v3", (3, None)),
    ({"GNOME/v3": {"min": 2}, "GNOME": {"min": 3, "max": 7}}, "GNOME/v3", (2, 7)),
    ({"GNOME/v3": {"min": 2}}, "GNOME/v4", (4, 20)),
    ({"GNOME": {"min": 2}}, "KDE/v1", (4, 20)),
]


@pytest.mark.parametrize(("per", "corpus", "bounds"), PER)
def test_a_corpus_goes_before_a_pair_before_a_language(per: dict, corpus: str, bounds: tuple) -> None:
    found = CharLength.model_validate({"min": 4, "max": 20, "per": per}).bounds(DE, corpus)
    assert (found.min, found.max) == bounds


def test_bounds_per_corpus_hold_for_its_rows_alone(tmp_path: Path) -> None:
    made = recipe([str(DE)], filters=[{"char_length": {"min": 5, "per": {"b": {"min": 3}, "c/v1": {"min": 9}}}}])
    store = Store.open(tmp_path, made.name)
    with store.writing("raw_bitext", DE) as out:
        for corpus in ("a/v1", "b/v1", "c/v1"):
            out.write(bitext_batch(["Haus", "Häuser"], ["house", "houses"], *DE, corpus))
        out.commit("raw", {})
    manifest = clean.run(made, store, DE)
    kept = store.table("clean_bitext", DE)
    assert list(zip(kept["corpus"].to_pylist(), kept["src"].to_pylist(), strict=True)) == [
        ("a/v1", "Häuser"), ("b/v1", "Haus"), ("b/v1", "Häuser")
    ]  # fmt: skip
    assert [(row.corpus, row.dropped) for row in manifest.ledger[3:]] == [("a/v1", 1), ("b/v1", 0), ("c/v1", 2)]
    assert store.table("clean_bitext", DE, "rejected")["score"].to_pylist() == [4, 4, 6]


def test_a_key_that_names_nothing_in_the_recipe_is_refused() -> None:
    def made(key: str) -> Recipe:
        return recipe([str(DE)], filters=[{"char_length": {"per": {key: {"min": 9, "max": 9}}}}])

    assert made("GNOME").corpus.filters[0].per  # the source does not say beforehand which corpora it has
    with pytest.raises(ValueError, match=r"per: found 'en-fr'. Expected: a language \(deu_Latn, eng_Latn\), a pair"):
        made("en-fr")
    with pytest.raises(ValueError, match=r"per, deu_Latn-eng_Latn : found min 9 above max 5"):
        recipe([str(DE)], filters=[{"char_length": {"max": 5, "per": {"de": {"min": 9}}}}])


def test_texts_are_normalised_first_and_the_changed_ones_counted(tmp_path: Path) -> None:
    rows = {"Das\u00a0ist  ein Ha\u0308uschen. ": ("It is a\u200b hut.", None), "Der Hund.": ("The dog.", None)}
    store, manifest, _ = cleaned(tmp_path, rows=rows)
    assert store.table("clean_bitext", DE)["src"].to_pylist() == ["Das ist ein Häuschen.", "Der Hund."]
    assert store.table("clean_bitext", DE)["tgt"].to_pylist() == ["It is a hut.", "The dog."]
    step = manifest.ledger[0]
    assert (step.step, step.into, step.changed, step.dropped) == ("normalise", 2, 1, 0)


def test_ten_rows_of_every_step_and_corpus_can_be_looked_at(tmp_path: Path) -> None:
    made = recipe([str(DE)], filters=[{"char_length": {"min": 4}}, "length_ratio"])
    store = Store.open(tmp_path, made.name)
    with store.writing("raw_bitext", DE) as out:
        for corpus in ("a/v1", "b/v1"):
            out.write(bitext_batch([f"x{n % 10}" for n in range(50)], ["y"] * 50, *DE, corpus))
            out.write(bitext_batch(["Haus" * 9] * 3, ["house"] * 3, *DE, corpus))
            out.write(bitext_batch([f"Haus {n}" for n in range(20)], ["house"] * 20, *DE, corpus))
        out.commit("raw", {})
    clean.run(made, store, DE)
    shown = store.table("clean_bitext", DE, "samples")
    counts = shown.group_by(["step", "corpus"]).aggregate([("src", "count")]).to_pylist()
    assert {(row["step"], row["corpus"]): row["src_count"] for row in counts} == {
        ("char_length", "a/v1"): 10, ("char_length", "b/v1"): 10, ("length_ratio", "a/v1"): 3,
        ("length_ratio", "b/v1"): 3, ("kept", "a/v1"): 10, ("kept", "b/v1"): 10,
    }  # fmt: skip
    assert {row["score"] for row in shown.to_pylist() if row["step"] == "length_ratio"} == {36 / 5}


class Rare(Filter):
    """How often the first word of the source is the first word of one: learned from the rows."""

    min: float | None = 2
    fits = True

    def fit(self, batches: Any, folder: Path) -> list[str]:
        counts = Counter(text.split()[0] for batch in batches for text in batch["src"].to_pylist())
        (folder / "words.json").write_text(json.dumps(counts, sort_keys=True))
        return [f"{self.name}: {len(counts)} words"]

    def reopen(self, folder: Path) -> Any:
        return json.loads((folder / "words.json").read_text())

    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        return pa.array([float(loaded.get(text.split()[0], 0)) for text in batch["src"].to_pylist()])


def test_a_filter_may_learn_from_the_rows_first(tmp_path: Path) -> None:
    store, first, _ = cleaned(tmp_path, filters=[Rare()])
    scores = {row["src"]: row["score_test_clean"] for row in store.table("clean_bitext", DE).to_pylist()}
    assert scores == {"Das ist ein Haus.": 2, "Das ist ein langer Satz über nichts als Häuser.": 2}
    assert "fit/test_clean/words.json" in first.files
    assert first.numbers["notes"] == ["test_clean: 6 words"]
    moved = clean.run(recipe([str(DE)], filters=[Rare(min=1)]), store, DE)
    assert moved.rows["data"] == 7
    assert moved.numbers["notes"] == first.numbers["notes"]
    assert moved.files["fit/test_clean/words.json"] == first.files["fit/test_clean/words.json"]


def test_notes_of_filters_are_told_beforehand_and_kept(tmp_path: Path) -> None:
    pair = Pair("eng_Latn", "hau_Latn")
    made = recipe([str(pair)], filters=[{"lid": {"identifiers": ["fasttext"]}}])
    assert "Hausa (hau_Latn)" in made.notes()[0]
    store = Store.open(tmp_path, made.name)
    rows = (["The children went to school in the morning."], ["Yara sun tafi makaranta da safe."])
    store_bitext(store, pair, rows, asset="raw_bitext")
    manifest = clean.run(made, store, pair)
    assert manifest.numbers["notes"] == made.notes()
    assert store.table("clean_bitext", pair)["score_lid"].to_pylist() == [pytest.approx(1.0, abs=0.1)]


def test_batches_are_cut_anew_whatever_their_size() -> None:
    def batch(*numbers: int):
        return bitext_batch([str(n) for n in numbers], [""] * len(numbers), *DE, CORPUS)

    cuts = [[batch(*range(25))], [batch(n) for n in range(25)], [batch(*range(9)), batch(), batch(*range(9, 25))]]
    for batches in cuts:
        made = list(rebatch(batches, 10))
        assert [b.num_rows for b in made] == [10, 10, 5]
        assert [n for b in made for n in b["src"].to_pylist()] == [str(n) for n in range(25)]
    assert [b.num_rows for b in rebatch([batch(*range(20))], 10)] == [10, 10]
    assert [b.num_rows for b in rebatch([batch(), batch()], 10)] == [0]
    assert list(rebatch([], 10)) == []


def test_samples_are_spread_over_all_rows_and_kinds() -> None:
    samples = Samples()
    for start in range(0, 10_000, 100):
        samples.see("kept", bitext_batch([str(n) for n in range(start, start + 100)], [""] * 100, *DE, CORPUS))
    places = sorted(int(row["src"]) for row in samples.of("kept"))
    assert len(set(places)) == 10
    assert places[0] < 5_000 < places[-1]
    samples.see("long", bitext_batch(["a" * 1000] * 2, ["b"] * 2, *DE, CORPUS))
    both = samples.of("kept", "long")
    assert [len(row["src"]) for row in both].count(301) == 2
    assert len(both) == 10
    assert math.isclose(len(samples.of("none")), 0)
