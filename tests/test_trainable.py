"""What `train.trainable` trains, what `train.checkpointing` leaves unchanged, and the memory that is stated."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from alignment_train import losses
from alignment_train.config import TrainConfig
from alignment_train.models.check import check_recipe
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.objectives.span import Span
from alignment_train.training.data import pack
from alignment_train.training.loop import train
from alignment_train.training.progress_log import Reporter
from alignment_train.training.trainable import Memory, checkpoint_blocks, estimate_memory, freeze
from pipelines.config import validate
from pipelines.errors import UserError
from pipelines.progress import no_progress
from tests.support.models import SHAPES, bitext, tiny
from tests.test_train import CPU, PARTS, plan

OBJECTIVES = [
    Contrastive.model_validate({"rows": 16, "layer": 2}),
    LanguageModel.model_validate({"rows": 16}),
]


def trained_names(model: Model) -> set[str]:
    return {name for name, p in model.lm.named_parameters() if p.requires_grad}


def frozen(trainable: str | list[str], **more: object) -> Model:
    model = tiny(**more)  # type: ignore[arg-type]
    freeze(model, trainable)
    return model


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_blocks_are_all_but_token_embeddings_and_head(kind: str, tied: bool):
    model = frozen("blocks", kind=kind, tie_word_embeddings=tied)
    ends = [p for m in (model.lm.get_input_embeddings(), model.lm.get_output_embeddings()) for p in m.parameters()]
    assert not any(p.requires_grad for p in ends)
    count = sum(p.numel() for p in model.lm.parameters() if p.requires_grad)
    assert count == sum(p.numel() for p in model.lm.parameters()) - sum(p.numel() for p in set(ends))
    assert all(p.requires_grad for p in model.blocks.parameters())


def test_globs_name_parameters_and_tied_ones_by_either_name():
    assert trained_names(frozen("all")) == trained_names(tiny())
    assert trained_names(frozen(["model.layers.[12].mlp.*", "model.norm.weight"])) == {
        "model.norm.weight",
        *(f"model.layers.{i}.mlp.{part}_proj.weight" for i in (1, 2) for part in ("gate", "up", "down")),
    }
    assert trained_names(frozen(["lm_head.*"], tie_word_embeddings=True)) == {"model.embed_tokens.weight"}
    with pytest.raises(UserError) as error:
        frozen(["model.layers.0.*", "transformer.*"])
    assert "train.trainable: found 'transformer.*', which matches no parameter of LlamaForCausalLM" in str(error.value)
    assert "model.embed_tokens.weight" in str(error.value)


def run(folder: Path, made: Model, objectives: list[Objective], steps: int = 4, **more: object) -> Reporter:
    reporter = Reporter("test", folder / "log.jsonl", no_progress)
    train(made, plan(steps, objectives=objectives, checkpoint_every=2, **more), PARTS, folder, reporter, CPU)
    return reporter


def test_frozen_weights_stay_and_have_neither_gradient_nor_moments(tmp_path, monkeypatch):
    found = []
    make = torch.optim.AdamW.__init__
    monkeypatch.setattr(
        torch.optim.AdamW, "__init__", lambda self, groups, **how: (found.append(self), make(self, groups, **how))[1]
    )
    model = frozen("blocks")
    before = {name: p.detach().clone() for name, p in model.lm.named_parameters()}
    run(tmp_path, model, OBJECTIVES)
    for name, weight in model.lm.named_parameters():
        assert torch.equal(weight, before[name]) != weight.requires_grad, name
        if not weight.requires_grad:
            assert weight.grad is None
    trained = [p for p in model.lm.parameters() if p.requires_grad]
    assert {id(p) for p in found[0].state} == {id(p) for p in trained}


def test_a_killed_run_with_frozen_weights_resumes_to_the_same_weights(tmp_path, monkeypatch):
    whole, broken = frozen(["model.layers.*"]), frozen(["model.layers.*"])
    run(tmp_path / "whole", whole, OBJECTIVES, 5)
    step = Reporter.step

    def die(self, number, *rest):
        step(self, number, *rest)
        if number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", broken, OBJECTIVES, 5)
    again = frozen(["model.layers.*"])
    run(tmp_path / "broken", again, OBJECTIVES, 5)
    for (name, one), other in zip(whole.lm.named_parameters(), again.lm.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_objective_that_reaches_no_trained_weight_is_refused(tmp_path, checkpointing: bool):
    with pytest.raises(UserError, match="train.trainable: found no trained weight that the loss of contrastive"):
        run(tmp_path, frozen(["model.layers.2.*"]), OBJECTIVES, checkpointing=checkpointing)


def gradients(model: Model, objective: Objective, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    model.lm.train()
    torch.manual_seed(0)
    held = objective.setup(model, bitext(8))
    torch.manual_seed(1)
    loss, _ = objective.loss(model, batch, held)
    weights = [p for p in model.lm.parameters() if p.requires_grad]
    return [loss, *torch.autograd.grad(loss, weights, materialize_grads=True)]


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("what", ["contrastive", "language_model", "packed", "span"])
def test_checkpointing_changes_no_gradient(monkeypatch, kind: str, what: str):
    monkeypatch.setattr(losses, "MAX_LOGITS", 1 << 13)
    dropout = {"attention_dropout": 0.1} if kind not in ("gpt2", "bloom") else {}
    models = [tiny(kind, 0, **dropout) for _ in range(2)]
    rows = bitext(8).to_pylist()
    objective = {"contrastive": OBJECTIVES[0], "span": Span.model_validate({"rows": 8, "layer": 1})}.get(
        what, OBJECTIVES[1]
    )
    if what == "packed":
        if models[0].packing is None:
            return
        ids = models[0].tokenizer([row["src"] for row in rows])["input_ids"]
        batch = pack(ids, ids, models[0], 48)
        assert len(batch["input_ids"]) < len(rows)
    else:
        own = [{**row, "text": row["src"]} for row in rows]
        batch = objective.collate(own, models[0], 64)
    _ = [model.head_kind for model in models]
    checkpoint_blocks(models[1])
    ran: list[int] = []
    next(models[1].blocks[0].children()).register_forward_pre_hook(lambda *_: ran.append(1))
    plain, again = (gradients(model, objective, batch) for model in models)
    assert len(ran) > 1, "the block was run again in the backward pass"
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


def test_a_training_with_checkpointing_ends_with_the_same_weights(tmp_path):
    models = [tiny(attention_dropout=0.1) for _ in range(2)]
    for model, checkpointing in zip(models, (False, True), strict=True):
        run(tmp_path / str(checkpointing), model, OBJECTIVES, checkpointing=checkpointing)
    for one, other in zip(*(model.lm.parameters() for model in models), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_a_model_without_checkpointing_says_so():
    model = tiny()
    type(model.lm).supports_gradient_checkpointing = False
    try:
        with pytest.raises(UserError, match="train.checkpointing: found true, with a model that does not support it"):
            checkpoint_blocks(model)
    finally:
        del type(model.lm).supports_gradient_checkpointing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainable": "blocks", "adapter": {"lora": {}}}, "trainable: found blocks with adapter"),
        ({"checkpointing": True, "objectives": ["meta"]}, "checkpointing: found true with the objective meta"),
        ({"checkpointing": True, "adapter": {"prefix": {}}}, "checkpointing: found true with adapter.prefix"),
        ({"trainable": []}, "trainable"),
    ],
)
def test_contradictions_are_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        validate(TrainConfig, {"objectives": ["contrastive"], **settings}, "recipe x", "train")


def test_trainable_enters_the_fingerprint_and_checkpointing_does_not():
    def settings(**more: object) -> dict:
        return validate(TrainConfig, {"objectives": ["contrastive"], **more}, "recipe x", "train").settings()

    assert settings(trainable="blocks") != settings()
    assert settings(checkpointing=True) == settings()


def test_memory_is_stated_before_the_first_step(tmp_path):
    model = frozen("blocks", tie_word_embeddings=True)
    size = sum(p.numel() for p in model.lm.parameters())
    trained = sum(p.numel() for p in model.lm.parameters() if p.requires_grad)
    assert estimate_memory([model.lm, model.lm]) == Memory(4 * size, 4 * trained, 8 * trained)
    assert Memory(2**30, 2**29, 2**30).sentence() == (
        "memory: 2.50 GiB (1.00 GiB weights, 0.50 GiB gradients, 1.00 GiB optimiser), plus activations of a micro-batch"
    )
    assert Memory(2**30, 2**29, 2**30).sentence(2).startswith("memory per process: 1.25 GiB (0.50 GiB weights")
    said: list[str] = []
    dagster = SimpleNamespace(log=SimpleNamespace(info=said.append))
    reporter = Reporter("align_model", tmp_path / "log.jsonl", no_progress, dagster)
    outcome = train(model, plan(2, objectives=OBJECTIVES), PARTS, tmp_path, reporter, CPU)
    assert outcome.memory
    assert said[0] == f"align_model · {outcome.memory.sentence()}"
    assert outcome.memory.total == 4 * size + 12 * trained


def test_a_glob_that_matches_nothing_is_found_when_the_base_is_loaded():
    config = validate(
        TrainConfig, {"objectives": ["contrastive"], "trainable": ["h.*"], "max_length": 64}, "x", "train"
    )
    recipe = cast(Any, SimpleNamespace(eval=[]))
    with pytest.raises(UserError, match="train.trainable: found 'h.\\*', which matches no parameter"):
        check_recipe(tiny(), recipe, config)
