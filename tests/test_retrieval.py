from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.config import Recipe
from pipelines.evals.retrieval import Retrieval, Side, by_item, cosine_gap, cosines, credits, parallel
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.results.verdict import verdict
from pipelines.schema import bitext_batch
from pipelines.statistics import BootstrappedMetric, without
from tests.support.bitext_fixtures import Planted, recipe
from tests.support.fake_lm import Unasked
from tests.support.fake_metrics import result

DE, FR = Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "fra_Latn")


def retrieval(rows: int = 20, **settings: Any) -> Retrieval:
    plugin = build("pipelines.evals", {"retrieval": {"source": Planted(rows=rows), **settings}})
    assert isinstance(plugin, Retrieval)
    return plugin


def held_out(item: Retrieval, *pairs: Pair) -> pa.Table:
    return pa.Table.from_batches(list(item.texts(list(pairs), Path("unused"))))


@dataclass
class Planting(Unasked):
    """A model that puts sentence k of every language at unit vector k; layer 0 knows nothing, layer 1 half of them."""

    num_layers: int = 2
    trained_layer: int = 2
    asked: list[list[str]] = field(default_factory=list)

    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        self.asked.append(texts)
        numbers = np.array([int(text.rstrip(".").split()[-1]) for text in texts])
        whole = np.eye(64, dtype=np.float32)[numbers]
        half = whole.copy()
        if texts[0].startswith("eng"):
            half[numbers >= 10] = 0
        return {layer: {0: np.ones_like(whole), 1: half, 2: whole}[layer] for layer in layers}


def test_recall_is_that_of_the_planted_alignment_at_every_layer() -> None:
    item = retrieval()
    metrics = item.run(Planting(), held_out(item, DE))
    at = {layer: metrics[f"retrieval/{DE}/recall@1/layer={layer}"]["value"] for layer in range(3)}
    # Layer 1: ten of twenty English sentences are a zero vector. From German, ten are found and ten tie with all
    # twenty; from English, ten are found and ten zero vectors tie with all twenty.
    assert at == pytest.approx({0: 1 / 20, 1: (10 + 10 / 20) / 20, 2: 1.0})
    assert metrics[f"retrieval/{DE}/recall@1"] == metrics[f"retrieval/{DE}/recall@1/layer=2"]
    sides = {"recall@1_from_src", "recall@1_from_tgt"}
    per_pair = {"recall@1", "recall@1_centered", *sides, "margin", "mexa", "cosine_gap"}
    guards = {f"{lang}/{guard}" for lang in DE.languages for guard in ("effective_rank", "uniformity")}
    known = {f"retrieval/{DE}/{name}" for name in per_pair} | {f"representation/{name}" for name in guards}
    known |= {"representation/all/variance_ratio", "representation/all/language_probe"}
    assert set(metrics) == known | {f"{key}/layer={layer}" for key in known for layer in range(3)}


class Collapsed(Planting):
    """The same, with every sentence at one place in layer 2."""

    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        found = super().embed(texts, layers, pooling)
        return {layer: np.ones_like(states) if layer == 2 else states for layer, states in found.items()}


def test_the_verdict_names_a_collapse_by_what_retrieval_measures() -> None:
    item = retrieval()
    texts = held_out(item, DE)
    base, aligned = item.run(Planting(), texts), item.run(Collapsed(), texts)
    assert verdict(result({"base": base, "aligned": aligned})).guards == ["collapsed representation"]
    assert verdict(result({"base": base, "aligned": base})).guards == []


def test_figures_of_a_pair_know_the_texts_of_their_items() -> None:
    item = retrieval()
    texts = held_out(item, DE)
    some = texts["text"].to_pylist()[:1]
    for name, metric in item.run(Planting(), texts).items():
        if name.startswith("retrieval/"):
            assert isinstance(metric, BootstrappedMetric)
            count, rest = without(metric, set(some))
            assert count == 1, name
            assert rest is not None
            assert rest["n"] == 19


def test_every_figure_of_a_pair_is_that_of_its_formula() -> None:
    item = retrieval()
    metrics = item.run(Planting(), held_out(item, DE))

    def at(layer: int, *names: str) -> list[float]:
        return [metrics[f"retrieval/{DE}/{name}/layer={layer}"]["value"] for name in names]

    assert at(2, "margin", "mexa", "cosine_gap") == pytest.approx([1, 1, 1])
    assert at(0, "margin", "mexa", "cosine_gap") == pytest.approx([1 / 20, 0, 0]), "all alike: nothing is found"
    assert at(1, "mexa", "cosine_gap") == pytest.approx([0.5, 0.5])
    # German asks: ten are found, ten tie with twenty; English asks: ten zero vectors tie with twenty.
    assert at(1, "recall@1_from_src", "recall@1_from_tgt") == pytest.approx([0.525, 0.525])


def test_directions_are_kept_apart() -> None:
    src = np.array([[1, 0], [0, 1]], np.float32)
    figures = by_item(cosines(src, np.array([[1, 0], [2, 1]], np.float32)))
    means = {name: values.mean() for name, values in figures.items()}
    assert (means["recall@1_from_src"], means["recall@1_from_tgt"], means["recall@1"]) == (1, 0.5, 0.75)


def test_the_cosine_gap_is_translations_less_all_others() -> None:
    rng = np.random.default_rng(0)
    cosine = cosines(rng.normal(size=(9, 4)), rng.normal(size=(9, 4)))
    others = cosine[~np.eye(9, dtype=bool)]
    assert cosine_gap(cosine).mean() == pytest.approx(np.diag(cosine).mean() - others.mean())
    assert cosine_gap(np.array([[0.7]])).tolist() == [0.7]


def test_centering_finds_what_a_common_direction_hides() -> None:
    class Anisotropic(Planting):
        """All states near one direction, which is another in each language."""

        def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
            offset = np.zeros(64, np.float32)
            offset[60:] = {"deu": [3e4, 4e4, 0, 0], "eng": [3e4, 0, 0, 4e4]}[texts[0][:3]]
            return {n: rows + offset for n, rows in super().embed(texts, layers, pooling).items()}

    item = retrieval()
    metrics = item.run(Anisotropic(), held_out(item, DE))
    names = ("recall@1", "recall@1_centered")
    raw, centered = (metrics[f"retrieval/{DE}/{name}/layer=2"]["value"] for name in names)
    assert raw < 0.2
    assert centered == 1
    assert metrics[f"retrieval/{DE}/recall@1_centered/layer=0"]["value"] == pytest.approx(1 / 20)
    assert metrics[f"retrieval/{DE}/recall@1_centered"] == metrics[f"retrieval/{DE}/recall@1_centered/layer=2"]
    assert item.chance(held_out(item, DE))[f"retrieval/{DE}/recall@1_centered"] == 1 / 20


def test_a_collapsed_model_shows_in_the_guards_where_its_cosines_rise() -> None:
    class Collapsed(Planting):
        def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
            return {layer: rows + 50 for layer, rows in super().embed(texts, layers, pooling).items()}

    item = retrieval()
    sound, collapsed = (item.run(model, held_out(item, DE, FR)) for model in (Planting(), Collapsed()))
    for lang in ("deu_Latn", "eng_Latn", "fra_Latn"):
        rank, spread = f"representation/{lang}/effective_rank", f"representation/{lang}/uniformity"
        assert (sound[rank]["value"], sound[spread]["value"]) == pytest.approx((20, -4))
        assert collapsed[rank]["value"] < 1.2
        assert collapsed[spread]["value"] > -0.01
    assert collapsed[f"retrieval/{DE}/recall@1"]["value"] == 1, "retrieval alone does not see it"
    assert collapsed[f"retrieval/{DE}/cosine_gap"]["value"] < 0.01
    assert sound["representation/all/language_probe"]["value"] == pytest.approx(1 / 3), "the states say no language"
    assert sound["representation/all/variance_ratio"]["value"] == pytest.approx(0)
    assert item.chance(held_out(item, DE, FR))["representation/all/language_probe"] == 1 / 3


def test_languages_are_asked_about_each_other_where_the_pairs_share_sentences() -> None:
    item = retrieval()
    metrics = item.run(Planting(), held_out(item, DE, FR))
    shared = {key for key in metrics if key.endswith("/shared")}
    pairs = ("deu_Latn-eng_Latn", "deu_Latn-fra_Latn", "eng_Latn-fra_Latn")
    assert shared == {f"retrieval/{pair}/recall@1_from_{way}/shared" for pair in pairs for way in ("src", "tgt")}
    assert metrics["retrieval/deu_Latn-fra_Latn/recall@1_from_src/shared"] == {
        "value": 1.0, "low": 1.0, "high": 1.0, "n": 20
    }  # fmt: skip


def test_only_sentences_that_every_pair_has_are_shared() -> None:
    def pair(name: str, src: list[int], tgt: list[int]) -> tuple[str, Side, Side]:
        first, second = name.split("-")
        left, right = tuple(f"{first}{n}" for n in src), tuple(f"{second}{n}" for n in tgt)
        return name, Side(first, left, {}), Side(second, right, {})

    one, two = pair("de-en", [1, 2, 3, 4], [1, 2, 3, 4]), pair("en-fr", [4, 2, 3, 9], [4, 2, 3, 9])
    assert parallel([one, two]) == (
        {"en": ("en2", "en3", "en4"), "de": ("de2", "de3", "de4"), "fr": ("fr2", "fr3", "fr4")}, True
    )  # fmt: skip
    few = pair("en-fr", [4, 7, 8, 9], [4, 7, 8, 9])
    texts, shared = parallel([one, few])
    assert not shared
    assert texts["en"] == one[2].texts, "those of the first pair"
    assert not parallel([one])[1]
    assert not parallel([one, pair("ja-zh", [1, 2, 3, 4], [1, 2, 3, 4])])[1], "no language in common"


def test_a_text_passes_the_model_once_where_pairs_have_it_in_part() -> None:
    item, model = retrieval(), Planting()
    texts = held_out(item, DE, FR)
    gone = pc.and_(pc.equal(texts["pair"], str(FR)), pc.equal(texts["item"], "3"))
    metrics = item.run(model, texts.filter(pc.invert(gone)))
    assert sorted(map(len, model.asked)) == [19, 20, 20]
    assert metrics[f"retrieval/{FR}/recall@1"]["n"] == 19
    assert metrics["retrieval/deu_Latn-fra_Latn/recall@1_from_src/shared"]["n"] == 19


def test_baselines_are_of_characters_and_of_random_weights() -> None:
    item = retrieval()
    texts = held_out(item, DE)
    model = Planting()
    found = item.baselines(texts, lambda: model)
    keys = {key for key in item.chance(texts) if key.startswith("retrieval/")}
    assert set(found) == {"ngrams", "random"}
    assert set(found["random"]) == keys
    assert set(found["ngrams"]) == keys - {f"retrieval/{DE}/recall@1_centered"}, "trigrams are no states"
    assert found["random"][f"retrieval/{DE}/recall@1"]["value"] == 1
    assert found["ngrams"][f"retrieval/{DE}/recall@1"]["value"] > 0.9, "the planted sentences share their numbers"
    assert set(item.baselines(texts, None)) == {"ngrams"}
    assert retrieval(lexical=False).baselines(texts, lambda: model) == {}


def test_the_interval_holds_the_figure_and_counts_the_items() -> None:
    item = retrieval()
    metric = item.run(Planting(), held_out(item, DE))[f"retrieval/{DE}/recall@1/layer=1"]
    assert metric["low"] < metric["value"] < metric["high"]
    assert (metric["low"], metric["high"]) == pytest.approx((0.335, 0.715), abs=0.06)
    assert metric["n"] == 20
    sure = item.run(Planting(), held_out(item, DE))[f"retrieval/{DE}/recall@1/layer=2"]
    assert (sure["low"], sure["high"]) == (1.0, 1.0)


@pytest.mark.parametrize(("layer", "means"), [("trained", 2), ("middle", 1), (0, 0), (-1, 2), (-3, 0)])
def test_the_layer_of_the_headline_is_the_recipes(layer: Any, means: int) -> None:
    item = retrieval(layer=layer)
    metrics = item.run(Planting(), held_out(item, DE))
    assert metrics[f"retrieval/{DE}/recall@1"] == metrics[f"retrieval/{DE}/recall@1/layer={means}"]


def test_a_layer_the_model_lacks_is_refused() -> None:
    item = retrieval(layer=3)
    with pytest.raises(ValueError, match=r"eval.retrieval.layer: found 3. Allowed.*: 0 to 2, and -1 to -3"):
        item.run(Planting(), held_out(item, DE))


def test_collapsed_embeddings_score_chance_and_diverged_ones_are_an_error() -> None:
    same = np.tile(np.array([0.3, -0.7, 0.1], np.float32), (50, 1))
    assert credits(same, same).mean() == pytest.approx(1 / 50)
    with pytest.raises(ValueError, match="NaN or infinity.*training diverged"):
        credits(same, np.full_like(same, np.nan))


def test_both_directions_count() -> None:
    src = np.array([[1, 0], [0, 1], [0.9, 0.1]], np.float32)
    tgt = np.array([[1, 0], [0, 1], [0.1, 0.9]], np.float32)
    assert credits(src, tgt).tolist() == [[1, 1, 0], [1, 1, 0]]
    asymmetric = credits(np.array([[1, 0], [0, 1]], np.float32), np.array([[1, 0], [2, 1]], np.float32))
    assert asymmetric.tolist() == [[1, 1], [1, 0]]


def test_texts_are_the_same_pivot_sentences_in_every_pair() -> None:
    item = retrieval(rows=50)
    few = item.model_copy(update={"rows": 7})
    rows = held_out(few, DE, FR).to_pylist()
    english = {
        pair: [row["text"] for row in rows if (row["pair"], row["lang"]) == (str(pair), "eng_Latn")]
        for pair in (DE, FR)
    }
    assert len(english[DE]) == 7
    assert english[DE] == english[FR]
    numbers = {(row["pair"], row["item"]): set() for row in rows}
    for row in rows:
        numbers[row["pair"], row["item"]].add(row["text"].split()[-1])
    assert {len(found) for found in numbers.values()} == {1}


def test_a_language_that_two_pairs_share_is_embedded_once() -> None:
    item, model = retrieval(), Planting()
    item.run(model, held_out(item, DE, FR))
    assert sorted(texts[0].split()[0] for texts in model.asked) == ["deu_Latn", "eng_Latn", "fra_Latn"]


def test_repeated_sentences_are_left_out_on_either_side() -> None:
    class Repeating(Planted):
        def fetch(self, pair, home):
            yield bitext_batch(["a", "A.", "b", "c"], ["x", "y", "z", "Z!"], *pair, "planted/v1")

    item = retrieval().model_copy(update={"source": Repeating()})
    rows = held_out(item, DE)
    assert rows.num_rows == 4
    chance = item.chance(rows)
    assert chance[f"retrieval/{DE}/recall@1"] == chance[f"retrieval/{DE}/margin"] == 1 / 2
    assert chance[f"retrieval/{DE}/mexa"] == 1 / 3


def test_a_pair_the_source_lacks_is_refused_with_the_recipe() -> None:
    corpus = recipe(["en-de"]).corpus
    with pytest.raises(ValueError, match=r"source 'sample', pair eng_Latn-jpn_Jpan: no language 'jpn_Jpan'"):
        Recipe.model_validate(
            {
                "name": "x",
                "corpus": {"pairs": ["en-ja"], "sources": corpus.sources},
                "eval": [{"retrieval": {"source": {"sample": {"split": "heldout"}}}}],
            }
        )


def test_settings_name_the_source_so_that_a_resolved_recipe_can_be_read_back() -> None:
    item = build("pipelines.evals", {"retrieval": {"source": {"sample": {"split": "heldout"}}, "pooling": "last"}})
    assert build("pipelines.evals", item.settings()) == item
