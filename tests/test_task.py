from pathlib import Path

import pytest
import torch

from alignment_train.config import TrainConfig
from alignment_train.objectives.instruction import Instruction
from alignment_train.objectives.task import Task
from alignment_train.settings import Optimiser
from alignment_train.trainer import Trainer
from alignment_train.training.loop import train
from alignment_train.training.plan import Plan
from alignment_train.training.progress_log import Reporter
from pipelines.config import read_recipe
from pipelines.progress import no_progress
from pipelines.runner import needed, side_by_side
from pipelines.storage.store import Store
from tests.support.graph import TINY
from tests.support.models import tiny
from tests.test_train import instructions

TASKS = "{train: [en], rows: 200, dev_rows: 20, system: ''}"


def written(folder: Path, tasks: str = f"tasks: [sample_slots: {TASKS}]") -> Path:
    file = folder / "taught.yaml"
    objectives = "[{contrastive: {rows: 8}}, {task: {rows: 8}}]"
    train = f"{{base: {{seed: {{steps: 2}}}}, objectives: {objectives}, steps: 4}}"
    file.write_text(f"extends: {TINY}\ncorpus: {{{tasks}}}\ntrain: {train}\n", encoding="utf-8")
    return file


def test_the_loss_is_on_the_answer_and_its_eos_alone() -> None:
    model, task = tiny(), Task.model_validate({})
    rows = instructions(4).to_pylist()
    loss, _ = task.loss(model, batch := task.collate(rows, model, 64))
    own = Instruction.model_validate({})
    assert task.reads == "tasks"
    assert not task.is_alignment
    assert loss.item() == pytest.approx(own.loss(model, own.collate(rows, model, 64))[0].item(), rel=1e-6)
    total, tokens = torch.zeros(()), 0
    for row in rows:
        prompt, answer = (turn["content"] for turn in row["messages"])
        shown = len(model.tokenizer(prompt)["input_ids"])
        ids = [*model.tokenizer(f"{prompt} {answer}")["input_ids"], model.tokenizer.eos_token_id]
        logits = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for place in range(shown, len(ids)):
            total, tokens = total - logits[place - 1, ids[place]], tokens + 1
    assert loss.item() == pytest.approx((total / tokens).item(), rel=1e-5)
    assert int((batch["labels"] != -100).sum()) == tokens


def test_it_trains(tmp_path: Path) -> None:
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.lm.named_parameters()}
    what = Plan(
        objectives=[Task.model_validate({"rows": 8})], steps=12, max_length=32, precision="float32", seed=3,
        optimiser=Optimiser.model_validate({"learning_rate": 3e-3}), checkpoint_every=20,
    )  # fmt: skip
    reporter = Reporter("test", tmp_path / "log.jsonl", no_progress)
    train(model, what, {"tasks": instructions(60)}, tmp_path, reporter, torch.device("cpu"))
    first, last = reporter.ends()
    assert last["task"] < first["task"] - 0.1
    assert all((p != before[name]).any() for name, p in model.lm.named_parameters())


def test_a_recipe_with_a_task_trains_on_it_and_the_control_does_too(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path))
    store = Store.open(tmp_path / "store", recipe.name)
    for stage in needed(recipe):
        if stage.per_pair:
            side_by_side(
                recipe.corpus.pairs, lambda pair, on_progress, stage=stage: stage.make(recipe, store, pair, on_progress)
            )
        else:
            stage.make(recipe, store)
    assert store.require("training_mix").rows["tasks_dev"] == 20
    trainer = Trainer(recipe, store, "cpu")
    trainer.base()
    assert trainer.align().numbers["rows/task"] == 32
    control = trainer.control().numbers
    assert (control["rows/task"], "rows/contrastive" in control) == (32, False)


def test_a_task_objective_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train.objectives.task: found no tasks in the corpus. Expected: at least one un"
    ):
        TrainConfig.of(read_recipe(written(tmp_path, tasks="dev_rows: 40")))
