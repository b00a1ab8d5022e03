"""Who runs when: schedules, accumulation, what an objective may use of its rows and hold beside the model."""

import json
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from accelerate import Accelerator

from alignment_train.config import TrainConfig
from alignment_train.losses import info_nce, pool
from alignment_train.objectives import Objective
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.settings import Guards
from alignment_train.trainer import Trainer
from alignment_train.training.loop import train
from alignment_train.training.progress_log import Reporter
from alignment_train.training.schedule import loss_weights, micro_batch_schedule
from pipelines.config import read_recipe
from pipelines.progress import no_progress
from tests.support.models import tiny
from tests.test_train import CPU, PARTS, plan, run, weights

SCHEDULES = [("joint", 1), ("joint", 3), ("alternate_step", 1), ("alternate_step", 2), ("alternate_microbatch", 4)]
UNGUARDED = Guards.model_validate({"collapse": None})  # which makes a batch of its own
ROWS = {"contrastive": 12, "language_model": 8}


def pair(**more) -> list[Objective]:
    """A contrast, which comes first, and language modelling."""
    contrast = {"rows": ROWS["contrastive"], "layer": 2, "center": "none", **more}
    return [Contrastive.model_validate(contrast), LanguageModel.model_validate({"rows": ROWS["language_model"]})]


def reporter(folder) -> Reporter:
    return Reporter("test", folder / "log.jsonl", no_progress)


def log(folder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


@pytest.fixture
def seen(monkeypatch) -> dict[str, list[tuple[str, ...]]]:
    """The texts of every batch that was made, by objective."""
    found: dict[str, list[tuple[str, ...]]] = {name: [] for name in ROWS}
    for kind, side in ((Contrastive, "src"), (LanguageModel, "text")):

        def collate(self, rows, *rest, kind=kind.collate, side=side):
            found[self.name].append(tuple(row[side] for row in rows))
            return kind(self, rows, *rest)

        monkeypatch.setattr(kind, "collate", collate)
    return found


@pytest.fixture
def gradients(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The gradient of every step, before it is clipped."""
    found: list[dict[str, torch.Tensor]] = []
    models: list[Any] = []
    make = Accelerator.prepare_model
    clip = Accelerator.clip_grad_norm_

    def prepare(self, lm, **how):
        models.append(lm)
        return make(self, lm, **how)

    def keep(self, parameters, most):
        found.append({n: p.grad.clone() for n, p in models[-1].named_parameters() if p.grad is not None})
        return clip(self, parameters, most)

    monkeypatch.setattr(Accelerator, "prepare_model", prepare)
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", keep)
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(value, other[name], rtol=1e-4, atol=1e-7) for name, value in one.items()
    )


@pytest.mark.parametrize(
    ("schedule", "accumulation", "wanted"),
    [
        ("joint", 1, ["c0 l0", "c1 l1", "c2 l2"]),
        ("joint", 2, ["c0 l0 c1 l1", "c2 l2 c3 l3", "c4 l4 c5 l5"]),
        ("alternate_step", 1, ["c0", "l0", "c1"]),
        ("alternate_step", 2, ["c0 c1", "l0 l1", "c2 c3"]),
        ("alternate_microbatch", 2, ["c0 l0", "c1 l1", "c2 l2"]),
        ("alternate_microbatch", 4, ["c0 l0 c1 l1", "c2 l2 c3 l3", "c4 l4 c5 l5"]),
    ],
)
def test_a_turn_counts_only_the_objectives_own(schedule: str, accumulation: int, wanted: list[str]):
    what = plan(objectives=pair(), schedule=schedule, accumulation=accumulation)
    found = [
        " ".join(f"{objective.name[0]}{turn}" for objective, turn in micro_batch_schedule(what, step))
        for step in range(3)
    ]
    assert found == wanted
    what.turns, what.objectives = [o.name for o in pair()], pair()[1:]
    control = [
        " ".join(f"{objective.name[0]}{turn}" for objective, turn in micro_batch_schedule(what, step))
        for step in range(3)
    ]
    assert control == [" ".join(turn for turn in step.split() if turn[0] == "l") for step in wanted]


@pytest.mark.parametrize(("schedule", "accumulation"), SCHEDULES)
def test_every_row_is_seen_once_before_any_is_seen_again(tmp_path, monkeypatch, seen, schedule: str, accumulation: int):
    for kind in (Contrastive, LanguageModel):  # only the rows are looked at
        monkeypatch.setattr(kind, "loss", lambda self, model, *_: (model.lm.lm_head.weight.mean(), {}))
    steps = {"joint": 30, "alternate_step": 60, "alternate_microbatch": 60}[schedule] // accumulation
    settings = {"schedule": schedule, "accumulation": accumulation, "checkpoint_every": 99, "guards": UNGUARDED}
    run(tmp_path, plan(steps, objectives=pair(), **settings))
    assert len(seen["contrastive"]) == len(seen["language_model"]) == 240 // 8
    for name, column in (("contrastive", PARTS["bitext"]["src"]), ("language_model", PARTS["segments"]["text"])):
        epoch = len(column) // ROWS[name]
        for first in range(0, 240 // 8, epoch):
            texts = [text for batch in seen[name][first : first + epoch] for text in batch]
            assert sorted(texts) == sorted(column.to_pylist())


@pytest.mark.parametrize(("schedule", "accumulation"), SCHEDULES)
@pytest.mark.filterwarnings("error::UserWarning")  # torch's, of a learning rate that moves before the weights
def test_the_control_has_the_same_rows_tokens_and_learning_rate_at_every_step(
    tmp_path, seen, schedule: str, accumulation: int
):
    settings = {"schedule": schedule, "accumulation": accumulation, "turns": [o.name for o in pair()]}
    _, aligned, _ = run(tmp_path / "aligned", plan(10, objectives=pair(), **settings))
    batches = list(seen["language_model"])
    _, control, _ = run(tmp_path / "control", plan(10, objectives=pair()[1:], **settings))
    assert seen["language_model"] == batches * 2
    assert batches
    one, other = log(tmp_path / "aligned"), log(tmp_path / "control")
    assert len(one) == len(other) == 10
    assert [row["learning_rate"] for row in other] == [row["learning_rate"] for row in one]
    for before, after in zip(one, other, strict=True):
        assert after["rows"]["language_model"] == before["rows"]["language_model"]
        assert set(after["loss"]) == set(before["loss"]) - {"contrastive"}
    assert control.rows["language_model"] == aligned.rows["language_model"] == 8 * len(batches)
    assert control.tokens["language_model"] == aligned.tokens["language_model"] > 0
    assert control.tokens["language_model"] == sum(row["tokens"] for row in other)


def test_nothing_moves_in_a_turn_that_the_control_leaves_empty(tmp_path):
    settings = {"objectives": pair()[1:], "schedule": "alternate_step", "turns": [o.name for o in pair()]}
    start = weights(tiny())
    found = [weights(run(tmp_path / str(n), plan(n, **settings))[0]) for n in (1, 2, 3)]
    assert all(torch.equal(value, start[name]) for name, value in found[0].items())
    assert not any(torch.equal(value, start[name]) for name, value in found[1].items() if "proj" in name)
    assert all(torch.equal(value, found[1][name]) for name, value in found[2].items())
    assert [(row["loss"], row["tokens"], row["gradient_norm"]) for row in log(tmp_path / "3")][::2] == [({}, 0, 0)] * 2


def test_accumulated_micro_batches_have_the_gradient_of_one_batch(tmp_path, gradients):
    texts = [" ".join(["one two three four"] * (n % 4 + 1)) for n in range(8)]
    for rows, accumulation in ((8, 1), (2, 4)):
        folder = tmp_path / str(rows)
        what = plan(1, objectives=[LanguageModel.model_validate({"rows": rows})], accumulation=accumulation)
        model = tiny()
        model.lm.double()
        train(model, what, {"segments": pa.table({"text": texts})}, folder, reporter(folder), CPU)
    one, four = gradients
    assert one.keys() == four.keys()
    assert all(torch.allclose(value, four[name], rtol=1e-5, atol=1e-9) for name, value in one.items())  # float32 loss
    assert max(float(value.abs().max()) for value in one.values()) > 1e-3
    [[big], [small]] = log(tmp_path / "8"), log(tmp_path / "2")
    assert small["loss"]["language_model"] == pytest.approx(big["loss"]["language_model"], rel=1e-5)
    assert (small["rows"], small["tokens"]) == (big["rows"], big["tokens"])


def test_a_micro_batch_counts_by_what_its_loss_is_a_mean_over():
    model = tiny()
    contrast, text = pair()
    rows = [{"text": "one"}, {"text": "one two three"}]
    few, many = (text.collate(chosen, model, 32) for chosen in (rows[:1], rows))
    contrasts = [contrast.collate(PARTS["bitext"].slice(n, 2).to_pylist(), model, 32) for n in (0, 1)]
    assert (text.count(few), text.count(many)) == tuple(
        sum(len(ids) for ids in model.tokenizer([row["text"] for row in chosen])["input_ids"])
        for chosen in (rows[:1], rows)
    ), "all tokens but the first, and EOS"
    batches = [(contrast, contrasts[0]), (text, few), (contrast, contrasts[1]), (text, many)]
    found = loss_weights(batches, 4, CPU)
    part = text.count(few) / (text.count(few) + text.count(many))
    assert [share for share, _ in found] == pytest.approx([0.5, part, 0.5, 1 - part])
    assert [scale for _, scale in found] == pytest.approx([0.25, part / 2, 0.25, (1 - part) / 2])


@pytest.mark.parametrize(
    ("schedule", "accumulation", "wanted"),
    [("joint", 2, "clcl"), ("alternate_step", 2, "cc"), ("alternate_microbatch", 4, "clcl")],
)
def test_a_steps_gradient_is_that_of_the_mean_over_all_that_its_micro_batches_hold(
    tmp_path, seen, gradients, schedule: str, accumulation: int, wanted: str
):
    objectives = pair(weight=0.5, temperature=0.2, direction="src_to_tgt")
    settings = {"schedule": schedule, "accumulation": accumulation, "guards": UNGUARDED}
    run(tmp_path, plan(1, objectives=objectives, **settings))
    batches = {name[0]: iter(texts) for name, texts in seen.items()}
    target = dict(zip(PARTS["bitext"]["src"].to_pylist(), PARTS["bitext"]["tgt"].to_pylist(), strict=True))
    model = tiny()
    total = torch.zeros(())
    each: list[torch.Tensor] = []
    for kind in wanted:
        texts = list(next(batches[kind]))
        if kind == "c":
            batch, _ = model.encode(texts + [target[text] for text in texts], 32)
            text = batch.pop("text_mask")
            states = model.lm(**batch, output_hidden_states=True).hidden_states[2]
            src, tgt = pool(states, text, "mean").chunk(2)
            total = total + 0.5 * info_nce(src, tgt, 0.2, "src_to_tgt")
        else:
            eos = model.tokenizer.eos_token_id
            ids = [[*row, eos] for row in model.tokenizer(texts)["input_ids"]]
            nats = [-model.lm(torch.tensor([row])).logits[0].log_softmax(-1) for row in ids]
            each += [own[t, row[t + 1]] for own, row in zip(nats, ids, strict=True) for t in range(len(row) - 1)]
    if each:
        total = total + wanted.count("l") * torch.stack(each).mean()
    (total / accumulation).backward()
    expected = {name: p.grad for name, p in model.lm.named_parameters() if p.grad is not None}
    assert same(gradients[0], expected)
    assert all(next(rest, None) is None for rest in batches.values())


def test_mid_aligns_step_mixes_two_micro_batches_of_either_and_counts_their_rows(tmp_path):
    _, outcome, reporter = run(tmp_path, plan(3, objectives=pair(), schedule="alternate_microbatch", accumulation=4))
    assert outcome.rows == {"contrastive": 3 * 2 * 12, "language_model": 3 * 2 * 8}
    rows = log(tmp_path)
    assert [row["rows"] for row in rows] == [{"contrastive": 24 * n, "language_model": 16 * n} for n in (1, 2, 3)]
    assert [set(row["loss"]) for row in rows] == [set(ROWS)] * 3
    assert sum(row["tokens"] for row in rows) == sum(outcome.tokens.values())
    assert set(reporter.ends()[0]) == set(ROWS)


@pytest.mark.parametrize(("schedule", "accumulation"), [("alternate_step", 1), ("alternate_microbatch", 2)])
def test_every_loss_falls_where_objectives_alternate(tmp_path, schedule: str, accumulation: int):
    what = plan(50, objectives=pair(), schedule=schedule, accumulation=accumulation, checkpoint_every=99)
    first, last = run(tmp_path, what)[2].ends()
    assert set(first) == set(ROWS)
    assert all(last[name] < 0.9 * first[name] for name in ROWS), (first, last)


def test_the_ends_of_a_training_are_those_of_each_objectives_own_steps(tmp_path):
    file = tmp_path / "log.jsonl"
    values = [{"a": float(n)} if n % 2 == 0 else {"b": float(n)} if n < 39 else {} for n in range(40)]
    file.write_text("".join(json.dumps({"step": n, "loss": loss}) + "\n" for n, loss in enumerate(values)))
    assert Reporter("test", file, no_progress).ends() == ({"a": 1.0, "b": 2.0}, {"a": 37.0, "b": 36.0})
    file.write_text('{"step": 0, "loss": {}}\n')
    assert Reporter("test", file, no_progress).ends() == ({}, {})


def test_the_line_of_a_step_shows_the_latest_loss_of_all_and_no_gap_before_the_first(tmp_path):
    told: list[str] = []
    reporter = Reporter("test", tmp_path / "log.jsonl", lambda done, total=0, note="": told.append(note))
    for step, losses in enumerate(({}, {"a": 2.0}, {"b": 1.0}, {"a": 1.5})):
        reporter.step(step, 4, losses, 10, {}, {"a": step})
    assert [note.rpartition(" · ")[0] for note in told] == [
        "step 1/4", "step 2/4 · a 2.000", "step 3/4 · a 2.000 b 1.000", "step 4/4 · a 1.500 b 1.000",
    ]  # fmt: skip
    assert log(tmp_path)[-1]["eta_seconds"] == 0


CONTRAST_AND_TEXT = [{"contrastive": {}}, {"language_model": {}}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": "alternate_step", "objectives": [{"contrastive": {}}]},
            "schedule: found alternate_step with one objective. Expected: joint, or at least two objectives. Fix: use",
        ),
        (
            {"schedule": "alternate_microbatch", "accumulation": 4, "objectives": [{"contrastive": {}}]},
            "schedule: found alternate_microbatch with one objective",
        ),
        (
            {"schedule": "alternate_microbatch"},
            "accumulation: found 1. Expected: a multiple of 2, the number of objectives, with schedule "
            "alternate_microbatch. Fix: set it to 2.",
        ),
        (
            {"schedule": "alternate_microbatch", "accumulation": 4, "objectives": [*CONTRAST_AND_TEXT, "instruction"]},
            "accumulation: found 4. Expected: a multiple of 3, the number of objectives, with schedule "
            "alternate_microbatch. Fix: set it to 6.",
        ),
        ({"schedule": "alternate_step", "steps": 1}, "steps: found 1. Expected: at least 2, one for each objective"),
        ({"schedule": "alternating"}, "schedule"),
        ({"accumulation": 0}, "greater than 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=".") as error:
        TrainConfig.model_validate({"objectives": CONTRAST_AND_TEXT, **settings})
    assert message in str(error.value)


def test_a_schedule_decides_the_weights_and_turns_those_of_the_control():
    def settings(schedule: str, objectives=CONTRAST_AND_TEXT, accumulation: int = 2) -> dict[str, Any]:
        config = TrainConfig.model_validate(
            {"schedule": schedule, "objectives": objectives, "accumulation": accumulation}
        )
        return config.settings(config.control)

    assert TrainConfig.model_validate({"objectives": CONTRAST_AND_TEXT}).schedule == "joint"
    found = [settings(name) for name in ("joint", "alternate_step", "alternate_microbatch")]
    assert [item.get("turns") for item in found] == [None, *[["contrastive", "language_model"]] * 2]
    assert [item["schedule"] for item in found] == ["joint", "alternate_step", "alternate_microbatch"]
    assert settings("joint") != settings("joint", accumulation=4)
    assert settings("alternate_step") != settings("alternate_step", CONTRAST_AND_TEXT[::-1])
    assert settings("joint") == settings("joint", CONTRAST_AND_TEXT[::-1]), "the control has nothing of the contrast"


def test_the_stages_give_both_models_the_same_turns(monkeypatch):
    config = TrainConfig.model_validate(
        {"objectives": CONTRAST_AND_TEXT, "schedule": "alternate_microbatch", "accumulation": 4}
    )
    stored = SimpleNamespace(fingerprint="made")
    store = SimpleNamespace(require=lambda _: stored, unchanged=lambda *_: None, table=lambda *_, part: PARTS[part])
    plans: dict[str, Any] = {}
    monkeypatch.setattr(Trainer, "stored", lambda *_: tiny())
    monkeypatch.setattr(Trainer, "_train", lambda self, asset, model, what, *_: plans.update({asset: what}))
    trainer = Trainer.__new__(Trainer)
    trainer.recipe, trainer.store = cast(Any, SimpleNamespace(seed=0, eval=[])), cast(Any, store)
    trainer.config, trainer.device, trainer.dagster = config, torch.device("cpu"), None
    trainer.align()
    trainer.control()
    for what in plans.values():
        assert (what.schedule, what.accumulation) == ("alternate_microbatch", 4)
        assert what.turns == ["contrastive", "language_model"]
    assert [o.name for o in plans["control_model"].objectives] == ["language_model"]


class Picky(LanguageModel):
    """Language modelling on segments with one word in them, and a module that counts, learns and has a constant."""

    word: str = "eins"
    tables: ClassVar[list[pa.Table]] = []
    held: ClassVar[list[torch.nn.Module]] = []

    def row_mask(self, table: pa.Table) -> pa.ChunkedArray:
        return cast(pa.ChunkedArray, pc.match_substring(table["text"], self.word))

    def setup(self, model, table: pa.Table) -> torch.nn.Module:
        self.tables.append(table)
        own = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.constant_(own.weight, 1.0)
        own.register_parameter("constant", torch.nn.Parameter(torch.tensor(3.0), requires_grad=False))
        own.register_buffer("mean", torch.zeros(()))
        self.held.append(own)
        return own

    def loss(self, model, batch, state: Any = None):
        loss = model.language_model_loss(batch)
        state.mean.mul_(0.9).add_(0.1 * loss.detach())
        return (1 + state.mean) * loss + (state.weight - state.constant).square().sum(), {"mean": state.mean.item()}


def test_an_objective_sees_only_rows_that_it_can_use(tmp_path):
    Picky.tables.clear()
    picky = Picky.model_validate({"rows": 8})
    left = [text for text in PARTS["segments"]["text"].to_pylist() if "eins" in text]
    assert 8 < len(left) < 240
    _, outcome, _ = run(tmp_path, plan(3, objectives=[picky]))
    assert [table["text"].to_pylist() for table in Picky.tables] == [left]
    assert outcome.rows == {"test_schedules": 24}
    found = {row["text"] for row in Picky.tables[0].to_pylist()}
    assert all("eins" in text for text in found)
    with pytest.raises(
        ValueError,
        match=rf"train.objectives.test_schedules: found {len(left)} usable rows among the 240 of segments. "
        rf"Expected: at least one batch of 200. Fix: lower its `rows`, or add data.",
    ):
        run(tmp_path / "few", plan(objectives=[picky.model_copy(update={"rows": 200})]))


def test_rows_that_an_objective_cannot_use_never_reach_a_batch(tmp_path, monkeypatch):
    texts: list[str] = []
    collate = LanguageModel.collate
    monkeypatch.setattr(
        LanguageModel,
        "collate",
        lambda self, rows, *rest: texts.extend(r["text"] for r in rows) or collate(self, rows, *rest),
    )
    run(tmp_path, plan(12, objectives=[Picky.model_validate({"rows": 8})], schedule="joint", accumulation=2))
    assert len(texts) == 12 * 2 * 8
    assert all("eins" in text for text in texts)


@pytest.mark.parametrize(("schedule", "accumulation"), [("joint", 1), ("alternate_microbatch", 2)])
def test_what_an_objective_holds_is_trained_kept_and_resumed(tmp_path, monkeypatch, schedule: str, accumulation: int):
    objectives = [pair()[1], Picky.model_validate({"rows": 8})]
    what = plan(objectives=objectives, schedule=schedule, accumulation=accumulation)
    Picky.held.clear()
    whole, _, _ = run(tmp_path / "whole", what)
    step = Reporter.step
    with monkeypatch.context() as patch:

        def die(self, number, *rest):
            step(self, number, *rest)
            if number == 6:
                raise KeyboardInterrupt

        patch.setattr(Reporter, "step", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", what)
    resumed, _, _ = run(tmp_path / "broken", what)
    one, _, other = (module.state_dict() for module in Picky.held)
    assert set(one) == {"weight", "constant", "mean"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["constant"] == 3.0, "what requires no gradient is not trained"
    assert (one["weight"] > 1.01).all()
    assert one["mean"] > 0.1
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_mid_aligns_recipe_has_its_settings():
    config = TrainConfig.of(read_recipe("mid_align.yaml"))
    assert (config.schedule, config.accumulation, config.turns) == (
        "alternate_microbatch", 4, ["task", "contrastive"],
    )  # fmt: skip
    task, contrast = config.objectives
    assert (task.rows, task.weight, contrast.weight) == (32, 1.0, 1.0)
    assert contrast.model_dump() == {
        "weight": 1.0, "rows": 32, "layer": "middle", "pooling": "mean", "special_tokens": True, "center": "none",
        "memory": 128, "pivot": None, "temperature": 0.1, "direction": "src_to_tgt", "chunk": None,
    }  # fmt: skip
    assert config.optimiser.model_dump(include={"learning_rate", "schedule", "warmup", "weight_decay"}) == {
        "learning_rate": 5e-4, "schedule": "inverse_sqrt", "warmup": 0.03, "weight_decay": 0.0,
    }  # fmt: skip
