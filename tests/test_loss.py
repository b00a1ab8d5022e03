from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import statistics
from pipelines.evals.loss import Loss
from pipelines.languages import Pair
from tests.support.bitext_fixtures import Planted
from tests.support.fake_lm import Unasked

PAIRS = [Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "fra_Latn")]


class Counting(Unasked):
    """A model that needs 2 nats for every token of German and 3 for others; a text of number k has k tokens."""

    num_layers, trained_layer = 2, 1

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(texts)
        tokens = np.array([int(text.rstrip(".").split()[-1]) for text in texts], np.int64)
        return tokens * (2.0 if texts[0].startswith("deu") else 3.0), tokens


def item() -> Loss:
    return Loss.model_validate({"source": Planted(rows=30)})


def held_out() -> pa.Table:
    return pa.Table.from_batches(list(item().texts(PAIRS, Path("unused"))))


def test_nats_per_token_of_each_language_over_distinct_texts() -> None:
    model = Counting()
    metrics = item().run(model, held_out())
    assert metrics == {
        "loss/deu_Latn/nats_per_token": {"value": 2.0, "low": 2.0, "high": 2.0, "n": 29},
        "loss/eng_Latn/nats_per_token": {"value": 3.0, "low": 3.0, "high": 3.0, "n": 29},
        "loss/fra_Latn/nats_per_token": {"value": 3.0, "low": 3.0, "high": 3.0, "n": 29},
    }
    assert [len(texts) for texts in model.asked] == [30, 30, 30]  # English is in both pairs, and asked once


def test_a_diverged_model_is_an_error() -> None:
    class Diverged(Counting):
        def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            return np.full(len(texts), np.nan), np.ones(len(texts), np.int64)

    with pytest.raises(ValueError, match="loss, deu_Latn: the loss is NaN or infinite"):
        item().run(Diverged(), held_out())


def test_a_long_text_weighs_by_its_tokens() -> None:
    metric = statistics.ratio(np.array([10.0, 1.0]), np.array([10, 1 / 3]))
    assert metric["value"] == pytest.approx(11 / (10 + 1 / 3))


def test_the_interval_is_that_of_the_normal_theory_for_many_items() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, size=4_000)
    metric = statistics.mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (metric["low"], metric["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert statistics.mean(values) == metric


def test_a_figure_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="a figure of no items"):
        statistics.mean(np.array([]))
