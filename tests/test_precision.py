"""Which precision `auto` is, that a resumed training keeps its own, and that evaluation in bfloat16 finds the same."""

from typing import Any

import numpy as np
import pytest
import torch

from alignment_train.evaluation.lm import LM
from alignment_train.models.model import Model
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.training import precision
from alignment_train.training.loop import train
from alignment_train.training.precision import Precision, choose_precision, measure_speedup
from tests.support.models import SHAPES, bitext, tiny
from tests.support.trained import interrupting
from tests.test_train import CPU, PARTS, plan

OBJECTIVES = [LanguageModel.model_validate({"rows": 16})]


def test_a_precision_that_is_named_is_taken():
    assert choose_precision("float32", CPU, 640) == Precision("float32")
    assert choose_precision("bfloat16", CPU, 64) == Precision("bfloat16")


@pytest.mark.parametrize(
    ("speedup", "wanted"), [(1.7, "bfloat16"), (1.1, "bfloat16"), (1.05, "float32"), (0.4, "float32")]
)
def test_auto_is_bfloat16_where_it_is_measured_to_pay(monkeypatch, speedup: float, wanted: str):
    asked = []
    monkeypatch.setattr(precision, "measure_speedup", lambda width: asked.append(width) or speedup)
    assert choose_precision("auto", CPU, 640) == (
        wanted,
        f"bfloat16 is {speedup:.1f}x as fast on this CPU",
    )
    assert choose_precision("auto", CPU, 4096).name == wanted
    assert asked == [640, 1024]


def test_a_narrow_model_has_the_same_precision_on_every_processor(monkeypatch):
    monkeypatch.setattr(precision, "measure_speedup", lambda _: 5.0)
    assert choose_precision("auto", CPU, 256) == ("float32", "hidden size below 512")


def test_the_measurement_moves_no_random_state_and_is_made_once(monkeypatch):
    monkeypatch.setattr(precision, "SECONDS", 0.01)
    before = torch.get_rng_state()
    speedup = measure_speedup.__wrapped__(64)
    assert 0.01 < speedup < 100
    assert torch.equal(torch.get_rng_state(), before)


def run(folder: Any, name: str, stop: int = -1) -> tuple[Model, Any]:
    reporter = interrupting(folder, stop)
    model = tiny()
    what = plan(4, objectives=OBJECTIVES, checkpoint_every=2, precision=name)
    return model, train(model, what, PARTS, folder, reporter, CPU)


def test_a_resumed_training_keeps_the_precision_that_it_began_with(tmp_path):
    whole, outcome = run(tmp_path / "whole", "bfloat16")
    assert outcome.precision == "bfloat16"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", "bfloat16", stop=2)
    resumed, outcome = run(tmp_path / "broken", "float32")
    other, _ = run(tmp_path / "float32", "float32")
    assert outcome.precision == "bfloat16"
    weights = [model.lm.state_dict() for model in (whole, resumed, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    assert all(value.dtype == torch.float32 for value in weights[0].values())


def learnt(kind: str) -> Model:
    model = tiny(kind)
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=1e-2)
    objective = LanguageModel.model_validate({"rows": 16})
    for step in range(30):
        rows = [{"text": text} for text in bitext(16, 1000 + 16 * 7 * step)["tgt"].to_pylist()]
        objective.loss(model, objective.collate(rows, model, 64))[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    model.lm.eval()
    return model


@pytest.mark.parametrize("kind", SHAPES)
def test_evaluation_in_bfloat16_gives_the_figures_of_float32_within_their_noise(kind: str):
    """Nats a token, likelihoods and pooled states; a text's own noise is far above what bfloat16 moves it by."""
    table = bitext(40, 9000)
    texts = table["tgt"].to_pylist()
    requests = [(text.rpartition(" ")[0], f" {text.rpartition(' ')[2]}") for text in texts]
    found = []
    for name in ("float32", "bfloat16"):
        lm = LM(learnt(kind), 1, 64, torch.device("cpu"), precision=name)
        assert lm.model.lm.dtype == getattr(torch, name)
        nats, counts = lm.loss(texts)
        states = lm.embed(texts, [0, 1, 3], "mean")
        found.append((nats / counts, lm.loglikelihood(requests)[0], states, lm.generate(texts[:4], [], 4)))
    (loss, likelihood, states, _), (low_loss, low_likelihood, low_states, _) = found
    noise = loss.std() / np.sqrt(len(loss))
    assert abs(low_loss.mean() - loss.mean()) < max(noise / 4, 1e-3)
    assert np.abs(low_loss - loss).max() < 0.1
    assert np.abs(low_likelihood - likelihood).max() < 0.1 * max(1, np.abs(likelihood).mean())
    for layer, own in states.items():
        low = low_states[layer]
        assert low.dtype == np.float32
        cosine = (own * low).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(low, axis=1)
        assert cosine.min() > 0.999, layer


def test_a_checkpoint_says_its_precision(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "bfloat16", stop=2)
    folder = tmp_path / "step-00000002"
    assert (folder / "precision").read_text() == "bfloat16"
