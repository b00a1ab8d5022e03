import json
import math

import pytest
import torch
from torch import nn

from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.training.gradients import PerObjectiveGradients
from tests.support.models import tiny
from tests.test_train import PARTS, plan, run


def test_norms_cosines_and_the_sum_are_those_of_the_gradients():
    one, other, unused = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    apart = PerObjectiveGradients([one, other, unused], separate=True)
    with apart.collect("a"):
        (3 * one[0] + 4 * other[1]).backward()
    with apart.collect("b"):
        (2 * one[0]).backward()
    with apart.collect("a"):
        (3 * one[0]).backward()
    with apart.collect("still"):
        (0 * one[0]).backward()
    found = apart.merge()
    assert found == pytest.approx(
        {
            "gradient_norm/a": math.hypot(6, 4),
            "gradient_norm/b": 2,
            "gradient_norm/still": 0,
            "gradient_cosine/a/b": 6 / math.hypot(6, 4),
        }
    )
    assert one.grad is not None
    assert other.grad is not None
    assert (one.grad.tolist(), other.grad.tolist(), unused.grad) == ([8, 0], [0, 4], None)


def test_the_log_has_what_autograd_gives_for_each_objective_alone(tmp_path):
    objectives = [
        Contrastive.model_validate({"rows": 12, "layer": 2}),
        LanguageModel.model_validate({"rows": 8, "weight": 0.5}),
    ]
    what = plan(4, objectives=objectives, gradients_every=3, accumulation=2)
    run(tmp_path / "both", what)
    lines = [json.loads(line) for line in (tmp_path / "both" / "log.jsonl").open()]
    named = {"gradient_norm/contrastive", "gradient_norm/language_model", "gradient_cosine/contrastive/language_model"}
    assert [named <= set(line) for line in lines] == [True, False, False, True]

    alone = []
    for objective in objectives:  # the first step of each, without the other, is from the same weights
        folder = tmp_path / objective.name
        run(folder, plan(1, objectives=[objective], accumulation=2))
        alone.append(json.loads((folder / "log.jsonl").read_text()))
    one, other = (line["gradient_norm"] for line in alone)
    first = lines[0]
    assert one > 0.01
    assert other > 0.01
    assert first["gradient_norm/contrastive"] == pytest.approx(one, rel=1e-4)
    assert first["gradient_norm/language_model"] == pytest.approx(other, rel=1e-4)
    cosine = first["gradient_cosine/contrastive/language_model"]
    whole = math.sqrt(one**2 + other**2 + 2 * cosine * one * other)
    assert first["gradient_norm"] == pytest.approx(whole, rel=1e-4)


def test_measuring_leaves_the_weights_as_they_are(tmp_path):
    objectives = plan().objectives[:2]  # of two, the order of the sum does not matter
    found = [run(tmp_path / str(every), plan(3, objectives=objectives, gradients_every=every))[0] for every in (0, 1)]
    before = dict(tiny().lm.named_parameters())
    for (name, one), other in zip(found[0].lm.named_parameters(), found[1].lm.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, before[name])
    assert PARTS["bitext"].num_rows == 120
