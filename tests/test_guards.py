import json
import re

import pytest
import torch
import torch.nn.functional as F

from alignment_train.config import TrainConfig
from alignment_train.losses import effective_rank
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.settings import Guards, Optimiser
from alignment_train.training.guards import WINDOW, TrainingAborted, TrainingMonitor
from tests.support.models import tiny
from tests.test_train import plan, run, weights


class Rising(LanguageModel):
    """Language modelling that unlearns: the value is that of the loss, the gradient points the other way."""

    def loss(self, model, batch, held=None):
        loss, more = super().loss(model, batch, held)
        return 2 * loss.detach() - loss, more


class Collapsing(Contrastive):
    """Draws all states to each other."""

    def loss(self, model, batch, held=None):
        states = F.normalize(self.states(model, batch), dim=-1)
        return 1 - (states @ states.T).mean(), {}


class Greedy(Contrastive):
    """Asks for memory that no machine has."""

    def loss(self, model, batch, held=None):
        return torch.empty(1 << 50).sum(), {}


class Full(LanguageModel):
    """What a GPU says."""

    def loss(self, model, batch, held=None):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")


def watch(**guards) -> TrainingMonitor:
    return TrainingMonitor(Guards.model_validate(guards), tiny(), {})


def stopped_at(one: TrainingMonitor, losses: list[dict[str, float]], message: str) -> int | None:
    """The place of the value at which it stops."""
    for place, found in enumerate(losses):
        try:
            one.check_losses(found, 1.0)
        except TrainingAborted as reason:
            return place if re.search(message, str(reason)) else None
    return None


def test_a_loss_that_rises_stops_the_run_and_leaves_the_last_checkpoint(tmp_path):
    optimiser = Optimiser.model_validate({"learning_rate": 0.03, "schedule": "constant"})
    what = plan(80, objectives=[Rising.model_validate({"rows": 8})], checkpoint_every=15, optimiser=optimiser)
    with pytest.raises(ValueError, match=r"step \d+: the loss of test_guards diverges: found .* Expected: ") as error:
        run(tmp_path, what)
    text = str(error.value)
    assert text.endswith(".")
    assert "lower train.optimiser.learning_rate" in text
    now, start, most = (float(re.search(rf"{w} ([\d.]+)", text)[1]) for w in ("found", "after", "most"))  # type: ignore
    assert now > most == pytest.approx(2 * start, abs=0.002)
    step = int(re.search(r"step (\d+)", text)[1])  # type: ignore
    assert (tmp_path / f"step-{step // 15 * 15:08}").exists()
    assert f"step-{step // 15 * 15:08}." in text


def test_divergence_is_of_means_over_twenty_steps_and_counts_from_one_nat_where_a_loss_begins_at_none():
    one = watch()
    for i in range(400):  # one batch in five has four times the loss of the others: noise
        one.check_losses({"a": 8.0 if i % 5 == 0 else 2.0}, 1.0)
    two = watch()
    for _ in range(WINDOW):
        two.check_losses({"retain": 0.0}, 1.0)
    for _ in range(100):
        two.check_losses({"retain": 0.99}, 1.0)
    message = r"retain diverges: found 1\.\d+ as .* Expected: at most 1.000 \(train.guards"
    assert stopped_at(two, [{"retain": 1.1}] * WINDOW, message) is not None
    three = watch(divergence=None)
    for i in range(100):
        three.check_losses({"a": float(i)}, 1.0)


def test_a_resumed_watch_judges_as_one_that_was_never_stopped():
    values = [1.0] * (2 * WINDOW) + [5.0] * WINDOW
    for cut in (0, 7, WINDOW, 2 * WINDOW + 3):
        one, other = watch(), watch()
        for value in values[:cut]:
            one.check_losses({"a": value}, 1.0)
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        assert stopped_at(other, [{"a": value} for value in values[cut:]], "a diverges") == 2 * WINDOW + 5 - cut


def test_states_that_fall_together_stop_the_run(tmp_path):
    collapsing = Collapsing.model_validate({"rows": 16, "layer": 2})
    guards = Guards.model_validate({"every": 5, "collapse": 0.5})
    with pytest.raises(ValueError, match=r"step \d+: the states that test_guards trains collapse: found") as error:
        run(tmp_path, plan(80, objectives=[collapsing], guards=guards, checkpoint_every=99))
    step = int(re.search(r"step (\d+)", str(error.value))[1])  # type: ignore
    assert step % 5 == 4
    assert "The last good state is in the base model." in str(error.value)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [line["step"] for line in lines if "effective_rank/test_guards" in line] == [0, *range(4, step, 5)]


def test_contrast_from_a_random_model_and_its_text_pass_every_guard(tmp_path):
    before = weights(tiny())
    model, _, _ = run(tmp_path, plan(25, guards=Guards.model_validate({"every": 5})))
    assert not torch.equal(weights(model)["lm_head.weight"], before["lm_head.weight"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    ranks = [line["effective_rank/contrastive"] for line in lines if "effective_rank/contrastive" in line]
    assert len(ranks) > 5
    assert min(ranks) > 0.5 * ranks[0]


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        (
            Greedy.model_validate({"rows": 16, "layer": 2}),
            r"step 0: out of memory in test_guards, 32 texts of \d+ tokens: .*DefaultCPUAllocator.* Expected: no more "
            r"than is free. Fix: set train.objectives.test_guards.chunk \(found None\) to fewer texts, or lower "
            r"train.max_length \(found 32\), or use a device with more memory. The last good state is in the base ",
        ),
        (
            Full.model_validate({"rows": 8}),
            r"step 0: out of memory in test_guards, 8 texts of \d+ tokens: CUDA out of memory. Tried to allocate 2.00 "
            r"GiB. Expected: .* Fix: lower train.objectives.test_guards.rows \(found 8\) and raise train.accumulation",
        ),
    ],
)
def test_memory_that_ends_is_said_with_the_objective_the_batch_and_the_cure(tmp_path, objective, wanted: str):
    with pytest.raises(ValueError, match=wanted):
        run(tmp_path, plan(2, objectives=[objective]))


def test_other_errors_stay_as_they_are(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(LanguageModel, "loss", fails)
    with pytest.raises(RuntimeError, match="^a bug\nobjective 'language_model', step 0$"):
        run(tmp_path, plan(2, objectives=[LanguageModel.model_validate({"rows": 8})]))


def test_effective_rank_of_known_spectra():
    assert effective_rank(torch.eye(5)[:, :4]) == pytest.approx(4)
    assert effective_rank(torch.ones(7, 3)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0]))) == pytest.approx(2**1.5)
    assert effective_rank(torch.zeros(3, 3)) == 1


def test_guards_are_no_part_of_what_decides_the_weights():
    objectives = [{"contrastive": {}}]
    one, other = (
        TrainConfig.model_validate({"objectives": objectives, **more})
        for more in ({}, {"guards": {"divergence": None, "collapse": 0.1, "every": 5}})
    )
    assert one.settings() == other.settings()
    assert other.guards.collapse == 0.1
