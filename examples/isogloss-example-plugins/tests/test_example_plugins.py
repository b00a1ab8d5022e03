"""Tests of the example plug-ins: values with known answers, without a network and without a trained model."""

import numpy as np
import pyarrow as pa
import pytest
from isogloss_example_plugins.evals.endings import ITEMS, Endings
from isogloss_example_plugins.filters.shouting import Shouting
from isogloss_example_plugins.objectives.parallel_line import ParallelLine
from isogloss_example_plugins.sources.phrasebook import CORPUS, Phrasebook

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.schema import BITEXT, bitext_batch, check

PAIR = Pair.parse("en-de")


@pytest.mark.parametrize(
    ("src", "tgt", "score", "is_kept"),
    [
        ("no capitals", "keine", 0.0, True),
        ("Stop", "halt", 0.25, True),
        ("ACHTUNG!", "attention", 1.0, False),
        ("Осторожно", "ОСТОРОЖНО", 1.0, False),
        ("", "12", 0.0, True),
    ],
)
def test_shouting_scores_and_verdicts(src, tgt, score, is_kept):
    scores = Shouting().score(bitext_batch([src], [tgt], PAIR.src, PAIR.tgt, "test/v1"))
    assert scores.to_pylist() == pytest.approx([score])
    assert Shouting().keep(scores).to_pylist() == [is_kept]


def test_phrasebook_yields_bitext_of_the_pair(tmp_path):
    (batch,) = Phrasebook().fetch(PAIR, tmp_path)
    check(batch, BITEXT, "phrasebook")
    assert batch.num_rows == 20
    by_language = {PAIR.src: batch["src"].to_pylist(), PAIR.tgt: batch["tgt"].to_pylist()}
    assert by_language["eng_Latn"][7] == "The bill, please."
    assert by_language["deu_Latn"][7] == "Die Rechnung, bitte."
    assert set(batch["corpus"].to_pylist()) == set(Phrasebook().provenance(PAIR, tmp_path)) == {CORPUS}


def test_phrasebook_refuses_another_pair():
    with pytest.raises(UserError, match="found .*Expected: en-de"):
        Phrasebook().check([Pair.parse("en-fr")])


class FakeModel:
    """Finds the endings of `likely` more likely than others."""

    def __init__(self, likely):
        self.likely = likely

    def loglikelihood(self, requests):
        return np.array([float(end in self.likely) for _, end in requests]), np.zeros(len(requests), bool)


@pytest.mark.parametrize(("position", "accuracy"), [(1, 1.0), (2, 0.0)])
def test_endings_counts_right_answers(tmp_path, position, accuracy):
    texts = pa.Table.from_batches(Endings().texts([PAIR], tmp_path))
    model = FakeModel({item[position] for items in ITEMS.values() for item in items})
    metrics = Endings().run(model, texts)
    keys = {"endings/eng_Latn/accuracy", "endings/deu_Latn/accuracy"}
    assert {key: metric["value"] for key, metric in metrics.items()} == dict.fromkeys(keys, accuracy)
    assert set(Endings().chance(texts)) == keys


def test_parallel_line_joins_the_sides():
    rows = [{"src": "Wasser", "tgt": "water"}]
    assert ParallelLine().lines(rows) == ["Wasser = water"]
    assert ParallelLine(separator=" → ").lines(rows) == ["Wasser → water"]
