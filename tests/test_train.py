import json
import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from alignment_train.objectives import _next_token
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.instruction import Instruction
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.settings import Optimiser
from alignment_train.training import loop
from alignment_train.training.checkpoints import Checkpoints
from alignment_train.training.data import segments
from alignment_train.training.loop import train
from alignment_train.training.plan import Plan
from alignment_train.training.progress_log import Reporter
from alignment_train.training.schedule import lr_factor
from pipelines.progress import no_progress
from pipelines.schema import INSTRUCTION
from tests.support.models import bitext, tiny

CPU = torch.device("cpu")


def instructions(rows: int) -> pa.Table:
    table = bitext(rows)
    talks = [
        [{"role": "user", "content": f"{src} ="}, {"role": "assistant", "content": tgt}]
        for src, tgt in zip(table["src"].to_pylist(), table["tgt"].to_pylist(), strict=True)
    ]
    rest = [["deu_Latn"] * rows, ["eng_Latn"] * rows, ["numbers/v1"] * rows, ["translate/0"] * rows]
    return pa.table([pa.array(talks, INSTRUCTION.field(0).type), *map(pa.array, rest)], schema=INSTRUCTION)


PARTS = {"bitext": bitext(120), "instructions": instructions(120), "segments": segments(bitext(120))}


def plan(steps: int = 12, **more) -> Plan:
    objectives = [
        Contrastive.model_validate({"rows": 16, "layer": 2}),
        Instruction.model_validate({"rows": 8, "weight": 1.5}),
        LanguageModel.model_validate({"rows": 8}),
    ]
    settings = {
        "objectives": objectives, "steps": steps, "max_length": 32, "precision": "float32", "seed": 3,
        "optimiser": Optimiser.model_validate({"learning_rate": 3e-3}), "checkpoint_every": 4,
    }  # fmt: skip
    return Plan(**{**settings, **more})


def run(folder, what: Plan, **model):
    made = tiny(**model)
    reporter = Reporter("test", folder / "log.jsonl", no_progress)
    outcome = train(made, what, PARTS, folder, reporter, CPU)
    return made, outcome, reporter


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.lm.named_parameters()}


def test_every_loss_falls_and_every_weight_moves(tmp_path):
    before = weights(tiny())
    model, outcome, reporter = run(tmp_path, plan(60))
    first, last = reporter.ends()
    assert set(first) == {"contrastive", "instruction", "language_model"}
    assert all(last[name] < 0.9 * first[name] for name in first), (first, last)
    assert all(not torch.equal(value, before[name]) for name, value in weights(model).items())
    assert outcome.rows == {"contrastive": 960, "instruction": 480, "language_model": 480}
    assert outcome.cut == {"contrastive": 0, "instruction": 0, "language_model": 0}


@pytest.mark.parametrize(
    ("schedule", "accumulation"),
    [("joint", 2), ("alternate_step", 1), ("alternate_microbatch", 3)],
)
def test_a_run_killed_at_any_step_resumes_to_the_very_weights_of_an_unbroken_one(
    tmp_path, monkeypatch, schedule: str, accumulation: int
):
    """Killed after its second step, resumed, killed after the next one, and so on: seven processes make one run.

    There is a checkpoint after every third step, so that most kills have steps done again; dropout, so that the random
    state counts; and a new epoch of the contrast at its eighth turn.
    """
    dropout, steps = {"attention_dropout": 0.1}, 7
    what = plan(steps, schedule=schedule, accumulation=accumulation, checkpoint_every=3, gradients_every=4)
    saved: dict[str, list[Any]] = {"whole": [], "broken": []}
    step, save = Reporter.step, Checkpoints.save

    def keep(self, accelerator, outcome, log):
        save(self, accelerator, outcome, log)
        state = {"rate": accelerator._schedulers[0].get_last_lr()[0], "random": torch.get_rng_state()}
        for place, own in accelerator._optimizers[0].state_dict()["state"].items():
            state |= {f"{place}/{name}": value.clone() for name, value in own.items()}
        saved[self.folder.name].append((outcome.steps, state))

    monkeypatch.setattr(Checkpoints, "save", keep)
    whole, told, _ = run(tmp_path / "whole", what, **dropout)
    for dies_at in range(1, steps):

        def die(self, number, *rest, dies_at=dies_at):
            step(self, number, *rest)
            if number == dies_at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Reporter, "step", die)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "broken", what, **dropout)
    resumed, again, _ = run(tmp_path / "broken", what, **dropout)

    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert again == told
    logs = [[json.loads(line) for line in (tmp_path / kind / "log.jsonl").open()] for kind in ("whole", "broken")]
    vary = {"seconds", "eta_seconds", "tokens_per_second", "mfu"}
    one, other = ([{name: row[name] for name in row if name not in vary} for row in log] for log in logs)
    assert [row["step"] for row in one] == list(range(steps))
    assert one == other, "losses, gradient norms, learning rates, rows and tokens of every step"
    wanted = dict(saved["whole"])
    assert sorted(wanted) == [3, 6]
    assert len(saved["broken"]) == 2
    for number, state in saved["broken"]:
        assert state.keys() == wanted[number].keys()
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(wanted[number][name])), (number, name)


def test_the_control_sees_the_same_rows_and_tokens_without_contrast(tmp_path):
    _, aligned, _ = run(tmp_path / "aligned", plan())
    _, control, _ = run(tmp_path / "control", plan(objectives=plan().objectives[1:]))
    assert control.tokens == {name: aligned.tokens[name] for name in ("instruction", "language_model")}


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step_and_the_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "lr_factor", lambda *_: 1e30)
    with pytest.raises(ValueError, match=r"step \d+: found losses .* Fix: lower train.optimiser.learning_rate"):
        run(tmp_path, plan(30))


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.5, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.125]),
        ("cosine", [0.5, 1, 1, (1 + math.cos(math.pi * 0.875)) / 2]),
        ("inverse_sqrt", [0.5, 1, math.sqrt(2 / 3), math.sqrt(2 / 10)]),
    ],
)
def test_schedules_warm_up_and_fall(schedule: str, wanted: list[float]):
    settings = Optimiser.model_validate({"schedule": schedule, "warmup": 0.2})
    assert [lr_factor(settings, step, 10) for step in (0, 1, 2, 9)] == pytest.approx(wanted)


def test_a_half_written_log_line_is_forgotten(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 0, "seconds": 2.5}\n{"step": 1, "seconds": 3}\n{"ste')
    reporter = Reporter("test", log, no_progress)
    reporter.rewind(1)
    assert log.read_text() == '{"step": 0, "seconds": 2.5}\n'
    assert reporter.seconds() == pytest.approx(2.5, abs=0.5)


def test_batches_run_in_portions_train_alike(tmp_path, monkeypatch):
    """With dropout of zero the weights differ only by the order of sums; rows, tokens and losses are the batch's."""
    whole, told, reporter = run(tmp_path / "whole", plan(4))
    monkeypatch.setattr(_next_token, "SQUARE", 1)  # every text alone
    apart, again, beside = run(tmp_path / "apart", plan(4))
    assert again == told
    for one, other in zip(reporter.ends(), beside.ends(), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(apart)[name], rtol=1e-3, atol=1e-4)
