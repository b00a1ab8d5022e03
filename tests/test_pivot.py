from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.schema import BITEXT, bitext_batch
from pipelines.sources import Source
from pipelines.sources.pivot import Pivot
from pipelines.sources.sample import Sample
from pipelines.stages import collect
from pipelines.storage.store import Store
from tests.support.opus_server import Mirror

DE_FR = Pair("deu_Latn", "fra_Latn")
Rows = list[tuple[str, str]]


class Halves(Source):
    """German, French, Thai and Chinese with English, a corpus at a time: {pair: {corpus: [(segment, English)]}}."""

    held: dict[str, dict[str, Rows]]

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        for corpus, rows in self.held.get(str(pair), {}).items():
            turned = pair.src == "eng_Latn"
            src, tgt = ([row[side] for row in rows] for side in ((1, 0) if turned else (0, 1)))
            yield bitext_batch(src, tgt, *pair, corpus)

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        return {
            corpus: {"version": corpus[-2:], "licence": f"{pair.src[:3]}-1.0", "url": "u", "citation": "c",
                     "files": [{"url": f"{corpus} {pair}"}]}
            for corpus in self.held.get(str(pair), {})
        }  # fmt: skip


def joined(de: dict[str, Rows], fr: dict[str, Rows], home: Path, pair: Pair = DE_FR, **settings: Any) -> Rows:
    halves = {str(Pair.parse([lang, "en"])): rows for lang, rows in zip(pair, (de, fr), strict=True)}
    source = Pivot.model_validate({"sources": [Halves.model_validate({"held": halves})], **settings})
    found = list(source.fetch(pair, home))
    assert all(batch.schema == BITEXT for batch in found)
    corpora = source.provenance(pair, home)
    out = []
    for batch in found:
        assert set(batch["src_lang"].to_pylist()) <= {pair.src}
        assert set(batch["tgt_lang"].to_pylist()) <= {pair.tgt}
        assert set(batch["corpus"].to_pylist()) <= set(corpora)
        out += zip(batch["src"].to_pylist(), batch["tgt"].to_pylist(), strict=True)
    return out


@pytest.mark.parametrize(
    ("pair", "one", "other", "expected"),
    [
        # case, punctuation and spaces of the pivot side do not matter, the order is that of the first side
        ("de-fr", [("Haus", "House."), ("Baum", "tree")], [("arbre", "A"), ("arbre", "Tree"), ("maison", "house")],
         [("Haus", "maison"), ("Baum", "arbre")]),
        # what the other side does not translate has no row
        ("de-fr", [("Haus", "house")], [("arbre", "tree")], []),
        # neither have empty segments and pivot segments of punctuation alone
        ("de-fr", [("", "house"), ("—", "..."), ("a", "")], [("maison", "house"), ("…", "!"), ("b", "")], []),
        # of several translations the most frequent is taken, of equals the first
        ("de-fr", [("Gut", "OK"), ("Okay", "OK"), ("Okay", "ok")], [("Bon", "OK"), ("Bien", "OK")], [("Okay", "Bon")]),
        # other scripts; English sorts before Chinese and Thai
        ("th-zh", [("บ้าน", "house"), ("ต้นไม้", "tree")], [("树", "Tree"), ("房子", "House")],
         [("บ้าน", "房子"), ("ต้นไม้", "树")]),
    ],
)  # fmt: skip
def test_segments_with_the_same_translation_are_rows(
    tmp_path: Path, pair: str, one: Rows, other: Rows, expected: Rows
) -> None:
    assert joined({"A/v1": one}, {"A/v1": other}, tmp_path, Pair.parse(pair)) == expected


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, [("a", "x")]),
        (2, [("a", "x"), ("a", "y")]),
        (3, [("a", "x"), ("a", "y"), ("b", "x")]),
        (9, [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "y")]),
    ],
)
def test_one_pivot_segment_gives_so_many_rows_at_most(tmp_path: Path, most: int, expected: Rows) -> None:
    german, french = [(text, "OK") for text in "abcaab"], [(text, "OK") for text in "xyx"]
    assert joined({"A/v1": german}, {"A/v1": french}, tmp_path, most=most) == expected


def test_corpora_are_not_mixed_and_rows_name_theirs_with_both_versions(tmp_path: Path) -> None:
    de = {"A/v1": [("Haus", "house")], "B/v1": [("Baum", "tree")], "C/v1": [("Kuh", "cow")]}
    fr = {"A/v1": [("arbre", "tree"), ("maison", "house")], "B/v2": [("arbre", "tree")]}
    halves = {"deu_Latn-eng_Latn": de, "eng_Latn-fra_Latn": fr}
    source = Pivot.model_validate({"sources": [Halves.model_validate({"held": halves})]})
    rows = pa.Table.from_batches(list(source.fetch(DE_FR, tmp_path)))
    assert rows.select(["src", "tgt", "corpus"]).to_pylist() == [
        {"src": "Haus", "tgt": "maison", "corpus": "pivot(A)/v1"},
        {"src": "Baum", "tgt": "arbre", "corpus": "pivot(B)/v1+v2"},
    ]
    assert source.provenance(DE_FR, tmp_path) == {
        "pivot(A)/v1": {
            "version": "v1", "licence": "deu-1.0 and eng-1.0", "url": "u", "citation": "c Joined through eng_Latn.",
            "files": [{"url": "A/v1 deu_Latn-eng_Latn"}, {"url": "A/v1 eng_Latn-fra_Latn"}],
        },
        "pivot(B)/v1+v2": {
            "version": "v1 and v2", "licence": "deu-1.0 and eng-1.0", "url": "u",
            "citation": "c Joined through eng_Latn.",
            "files": [{"url": "B/v1 deu_Latn-eng_Latn"}, {"url": "B/v2 eng_Latn-fra_Latn"}],
        },
    }  # fmt: skip


def table(source: Source, pair: Pair, home: Path) -> pa.Table:
    return pa.Table.from_batches(list(source.fetch(pair, home)), BITEXT)


def test_through_english_the_sample_gives_its_own_german_french_pairs(tmp_path: Path) -> None:
    sample = Sample(rows=3_000)
    pivot = Pivot.model_validate({"sources": [sample]})
    rows = table(pivot, DE_FR, tmp_path)
    found = set(zip(rows["src"].to_pylist(), rows["tgt"].to_pylist(), strict=True))
    true = table(sample, DE_FR, tmp_path)
    truth = set(zip(true["src"].to_pylist(), true["tgt"].to_pylist(), strict=True))
    told: dict[str, set[str]] = {}
    for lang in DE_FR:
        half = table(sample, Pair.parse([lang, "en"]), tmp_path)
        own, english = ("src", "tgt") if lang < "eng_Latn" else ("tgt", "src")
        for text, said in zip(half[own].to_pylist(), half[english].to_pylist(), strict=True):
            told.setdefault(text, set()).add(said)
    several = Counter(said for texts in told.values() for said in texts)
    clear = {(de, fr) for de, fr in truth if all(several[said] == 2 for said in told[de] | told[fr])}
    assert len(clear) > 1_000
    assert clear <= found
    ambiguous = found - truth
    assert all(any(several[said] > 2 for said in told[de]) for de, fr in ambiguous)
    assert set(rows["corpus"].to_pylist()) == {"pivot(sample)/v1"}


def test_the_same_input_gives_the_same_rows(tmp_path: Path) -> None:
    pivot = Pivot.model_validate({"sources": [Sample(rows=2_000, seed=3)], "most": 2})
    assert table(pivot, DE_FR, tmp_path) == table(pivot, DE_FR, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pair_with_the_pivot_language_has_no_rows_and_alone_is_refused(tmp_path: Path) -> None:
    sample = {"sample": {"rows": 400}}
    pivot = Pivot.model_validate({"sources": [sample]})
    assert list(pivot.fetch(Pair.parse("en-de"), tmp_path)) == []
    pivot.check([Pair.parse("en-de"), DE_FR])
    with pytest.raises(ValueError, match="every pair of the recipe has it: deu_Latn-eng_Latn. Needed: a pair of two"):
        pivot.check([Pair.parse("en-de")])
    german = Pivot.model_validate({"sources": [sample], "language": "de"})
    assert table(german, Pair.parse("en-fr"), tmp_path).num_rows > 300


def test_inner_sources_are_checked_and_written_out_as_in_a_recipe() -> None:
    corpus = {"pairs": ["de-fr"], "sources": [{"pivot": {"sources": [{"sample": {"rows": 40}}], "language": "en"}}]}
    recipe = Recipe.model_validate({"name": "x", "corpus": corpus})
    [written] = recipe.resolved()["corpus"]["sources"]
    assert written["pivot"]["sources"][0]["sample"]["rows"] == 40
    assert written["pivot"]["language"] == "eng_Latn"
    again = Recipe.model_validate({"name": "x", "corpus": {"pairs": ["de-fr"], "sources": [written]}})
    assert again == recipe
    with pytest.raises(ValueError, match="no language 'jpn_Jpan'"):
        Recipe.model_validate({"name": "x", "corpus": {**corpus, "pairs": ["de-ja"]}})


def test_settings_and_source_of_what_is_inside_decide_the_dataset(tmp_path: Path) -> None:
    def made(name: str, **sample: Any) -> str:
        corpus = {"pairs": ["de-fr"], "sources": [{"pivot": {"sources": [{"sample": {"rows": 400, **sample}}]}}]}
        recipe = Recipe.model_validate({"name": "x", "corpus": corpus})
        return collect.run(recipe, Store.open(tmp_path / name, "x"), DE_FR).fingerprint

    first = made("a")
    assert made("b") == first
    assert made("c", seed=1) != first


def test_corpora_of_a_server_are_joined_and_a_refresh_moves_just_the_pairs_concerned(
    opus_server: Mirror, tmp_path: Path
) -> None:
    english = b"House\nTree\nOK\n"
    opus_server.add("Docs/v1", "de-en", b"Haus\nBaum\nGut\n", english)
    opus_server.add("Docs/v1", "en-fr", english, b"maison\narbre\nbon\n")
    opus_server.add("Docs/v1", "en-es", english, "casa\nárbol\nbueno\n".encode())
    pivot = Pivot.model_validate({"sources": [{"opus": {"corpora": ["Docs"]}}]})
    fr_es = Pair.parse("es-fr")
    for pair in (DE_FR, fr_es):
        pivot.prepare(pair, tmp_path)
    assert table(pivot, DE_FR, tmp_path)["tgt"].to_pylist() == ["maison", "arbre", "bon"]
    before = pivot.pin(DE_FR, tmp_path)
    opus_server.add("Docs/v2", "de-en", b"Haus\nBaum\n", b"House\nTree\n")
    assert pivot.refresh([DE_FR, fr_es], tmp_path) == [DE_FR]
    assert pivot.pin(DE_FR, tmp_path) != before
    assert table(pivot, DE_FR, tmp_path)["corpus"].to_pylist() == ["pivot(Docs)/v2+v1"] * 2
    assert list(pivot.provenance(DE_FR, tmp_path)) == ["pivot(Docs)/v2+v1"]
