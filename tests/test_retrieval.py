from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import Recipe
from pipelines.evals.retrieval import Retrieval, credits
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.schema import bitext_batch
from tests.planted import Planted, recipe

DE, FR = Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "fra_Latn")


def retrieval(rows: int = 20, **settings: Any) -> Retrieval:
    plugin = build("pipelines.evals", {"retrieval": {"source": Planted(rows=rows), **settings}})
    assert isinstance(plugin, Retrieval)
    return plugin


def held_out(item: Retrieval, *pairs: Pair) -> pa.Table:
    return pa.Table.from_batches(list(item.texts(list(pairs), Path("unused"))))


@dataclass
class Planting:
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

    def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("retrieval asks for no loss")

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("retrieval asks for none")

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        raise AssertionError("retrieval asks for none")


def test_recall_is_that_of_the_planted_alignment_at_every_layer() -> None:
    item = retrieval()
    metrics = item.run(Planting(), held_out(item, DE))
    at = {layer: metrics[f"retrieval/{DE}/recall@1/layer={layer}"]["value"] for layer in range(3)}
    # Layer 1: ten of twenty English sentences are a zero vector. From German, ten are found and ten tie with all
    # twenty; from English, ten are found and ten zero vectors tie with all twenty.
    assert at == pytest.approx({0: 1 / 20, 1: (10 + 10 / 20) / 20, 2: 1.0})
    assert metrics[f"retrieval/{DE}/recall@1"] == metrics[f"retrieval/{DE}/recall@1/layer=2"]
    assert len(metrics) == 4


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
    assert item.chance(rows) == {f"retrieval/{DE}/recall@1": 1 / 2}


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
