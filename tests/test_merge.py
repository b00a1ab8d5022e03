import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment_train import merge
from alignment_train.config import TrainConfig
from alignment_train.models.adapter import Adapter
from alignment_train.settings import Base, Lora, Merge
from alignment_train.trainer import Trainer
from pipelines.config import Recipe
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import Planted
from tests.support.models import bitext, tiny
from tests.test_train import instructions

CONTRAST = [{"contrastive": {"rows": 16, "layer": 2}}]
TASK = [{"instruction": {"rows": 16}}]
FACTS = {"numbers/v1": {"version": "v1", "licence": "CC0-1.0", "url": "", "citation": "us"}}


def trainer(root: Path, name: str, objectives: list[Any], **train: Any) -> Trainer:
    """Of a store with a training mix of numbers, and a base beside it that all stores share."""
    base = root / "base"
    if not base.exists():
        tiny().save(base)
    recipe = Recipe.model_validate(
        {
            "name": name,
            "corpus": {"pairs": ["de-en"], "sources": [Planted()]},
            "train": {
                "base": {"model": str(base)}, "objectives": objectives, "steps": 12, "max_length": 48,
                "precision": "float32", "optimiser": {"learning_rate": 2e-2},
                "adapter": {"lora": {"r": 4, "dropout": 0.0}}, **train,
            },
        }
    )  # fmt: skip
    store = Store.open(root / name, name)
    if not store.manifest("training_mix"):
        with store.writing("training_mix") as out:
            for part, table in (
                ("bitext", bitext(120)),
                ("instructions", instructions(120)),
                ("dev", bitext(30, 1003)),
            ):
                for batch in table.to_batches():
                    out.write(batch, part)
            out.commit("mix", {}, corpora=FACTS, numbers={"receipt_corpora": [{"corpus": "numbers/v1", "taken": 240}]})
    return Trainer(recipe, store, "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores `align` and `task`, each with an adapter of its own objective on the same base."""
    root = tmp_path_factory.mktemp("stores")
    for name, objectives in (("align", CONTRAST), ("task", TASK)):
        made = trainer(root, name, objectives)
        made.base()
        made.align()
    return root


def merged(root: Path, **settings: Any) -> Trainer:
    return trainer(root, "align", CONTRAST, merge={"adapter": "task", **settings})


def answers(lm: Any) -> torch.Tensor:
    batch, _ = tiny().encode(bitext(8)["tgt"].to_pylist(), 32)
    with torch.inference_mode():
        return lm(**batch, use_cache=False).logits


def test_every_coefficient_is_measured_and_the_best_is_saved(root: Path):
    job = merged(root)
    manifest = job.merge()
    found = manifest.numbers["candidates"]
    assert [row["coefficient"] for row in found] == [0, 0.25, 0.5, 0.75, 1]
    assert len({row["loss"] for row in found}) == 5
    best = min(found, key=lambda row: row["loss"])
    assert [row["coefficient"] for row in found if row["chosen"]] == [best["coefficient"]]
    assert manifest.numbers["coefficient"] == best["coefficient"] < 1  # the task's adapter counts on the task
    assert found[0]["loss"] < found[-1]["loss"]
    lm = job.stored("merged_model")
    pairs = merge._dev_pairs(job.recipe, job.store, 500)
    talks = merge._conversations(job.recipe, pairs)
    assert merge.nats_per_token(lm, talks, 48) == pytest.approx(best["loss"], abs=2e-6)
    assert job.merge() == manifest
    assert set(job.models()) == {"base", "aligned", "merged", "random"}
    assert set(trainer(root, "align", CONTRAST).models()) == {"base", "aligned", "random"}


def test_at_the_ends_each_adapter_is_alone(root: Path):
    for coefficient, name in ((0.0, "task"), (1.0, "align")):
        job = merged(root, coefficients=[coefficient])
        job.merge()
        alone = trainer(root, name, TASK if name == "task" else CONTRAST).stored("align_model")
        assert torch.allclose(answers(job.stored("merged_model").lm), answers(alone.lm), atol=1e-5)


def test_cat_adds_the_weighted_updates(root: Path):
    job = merged(root, coefficients=[0.25])
    job.merge()
    together = job.stored("merged_model").adapter.peft.get_base_model().model.layers[1].mlp.up_proj  # type: ignore[union-attr]
    apart = [
        trainer(root, name, CONTRAST).stored("align_model").adapter.peft.get_base_model().model.layers[1].mlp.up_proj  # type: ignore[union-attr]
        for name in ("align", "task")
    ]
    wanted = 0.25 * apart[0].get_delta_weight("default") + 0.75 * apart[1].get_delta_weight("default")
    assert torch.allclose(together.get_delta_weight("default"), wanted, atol=1e-6)
    assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize("method", ["svd", "ties", "dare_linear"])
def test_a_method_of_peft_gives_the_same_adapter_twice(root: Path, method: str):
    model = tiny()
    adapters = Adapter.load(model, root / "align" / "align_model", "aligned")
    adapters.add(model, root / "task" / "align_model", "other")
    weights = []
    for _ in range(2):
        merge._combine(adapters, Merge.model_validate({"adapter": "task", "method": method, "density": 0.6}), 0.5, 0)
        weights.append(answers(model.lm))
    assert torch.equal(*weights)
    assert not torch.allclose(weights[0], answers(tiny().lm), atol=1e-3)


def test_recall_may_decide(root: Path):
    manifest = merged(root, choose="recall@1", coefficients=[0, 1]).merge()
    found = manifest.numbers["candidates"]
    assert manifest.numbers["chosen_by"] == "dev recall@1"
    assert next(row for row in found if row["chosen"])["recall@1"] == max(row["recall@1"] for row in found)


def test_there_is_nothing_to_merge_where_all_weights_were_trained():
    with pytest.raises(ValueError, match="merge: found no adapter, so align_model is a whole model"):
        TrainConfig.model_validate({"objectives": CONTRAST, "merge": {"adapter": "task"}})
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Merge.model_validate({"adapter": "task", "coefficients": [1.5]})


def test_of_equal_figures_the_first_is_chosen_and_a_diverged_one_never():
    assert merge.best_candidate([{"loss": 2.0}, {"loss": 1.0}, {"loss": 1.0}], "loss") == 1
    assert merge.best_candidate([{"recall@1": 0.1}, {"recall@1": 0.3}], "recall@1") == 1
    assert merge.best_candidate([{"loss": float("nan")}, {"loss": 9.0}], "loss") == 1
    with pytest.raises(ValueError, match="found no coefficient with a finite dev loss"):
        merge.best_candidate([{"loss": float("nan")}], "loss")


def test_a_merged_model_loads_as_its_card_says_and_an_adapter_by_its_folder_will_do(root: Path, monkeypatch):
    job = merged(root, adapter=str(root / "task" / "align_model"))
    manifest = job.merge()
    assert manifest.numbers["adapter_made_for"] == "base_model"
    monkeypatch.chdir(root / "align")
    lm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base_model"), "merged_model")
    assert torch.equal(answers(lm), answers(job.stored("merged_model").lm))
    one_call = AutoModelForCausalLM.from_pretrained("merged_model")
    assert torch.allclose(answers(one_call), answers(lm), atol=1e-6)
    assert AutoTokenizer.from_pretrained("merged_model")("one two")["input_ids"]
    card = (root / "align" / "merged_model" / "README.md").read_text()
    assert 'PeftModel.from_pretrained(base, "merged_model")' in card


def test_adapters_of_other_bases_and_ranks_are_refused(root: Path, tmp_path: Path):
    trainer(tmp_path, "elsewhere", TASK)
    tiny(seed=1).save(tmp_path / "base")
    other = trainer(tmp_path, "elsewhere", TASK, steps=2)
    other.base()
    other.align()
    with pytest.raises(ValueError, match="its base_model has other weights than that of .*align. Expected: adapters"):
        merged(root, adapter=str(tmp_path / "elsewhere")).merge()
    with pytest.raises(ValueError, match="found neither an adapter nor a store with an align_model at nowhere or "):
        merged(root, adapter="nowhere").merge()
    wide = tmp_path / "wide"
    model = tiny()
    Adapter.create(model, Lora.model_validate({"r": 6}), Base.model_validate({"seed": {}}), 0)
    model.save(wide)
    with pytest.raises(ValueError, match="method: ties cannot merge these adapters: .* Expected: cat, svd or"):
        merged(root, adapter=str(wide), method="ties").merge()
    with pytest.raises(ValueError, match="found no train.merge"):
        trainer(root, "align", CONTRAST).merge()


def test_an_adapter_of_a_base_that_was_made_again_is_refused(root: Path):
    job = trainer(root, "align", CONTRAST)
    manifest = job.store.require("align_model")
    text = json.loads((root / "align" / "align_model" / "manifest.json").read_text())
    file = root / "align" / "align_model" / "manifest.json"
    try:
        changed = {**text, "digest": "", "inputs": {**text["inputs"], "base_model": "another"}}
        file.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="align_model: an adapter of another base_model"):
            job.stored("align_model")
    finally:
        file.write_text(manifest.to_json())
