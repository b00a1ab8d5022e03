import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from alignment_train.config import TrainConfig
from alignment_train.models import adapter
from alignment_train.models.model import Model
from alignment_train.settings import Base, Lora
from alignment_train.training.loop import train
from alignment_train.training.progress_log import Reporter
from pipelines.config import read_recipe
from pipelines.progress import no_progress
from tests.support.models import tiny
from tests.test_train import CPU, PARTS, plan, weights

TEXTS = ["one two three", "nine", "four five six seven eight"]
SEED = Base.model_validate({"seed": {}})


def adapted(kind: str = "llama", base: Base = SEED, **settings) -> Model:
    model = tiny(kind)
    adapter.Adapter.create(model, Lora.model_validate(settings), base, 7)
    model.lm.eval()
    return model


def logits(model: Model) -> torch.Tensor:
    batch, _ = model.encode(TEXTS, 32)
    with torch.inference_mode():
        return model.lm(**batch, use_cache=False).logits


def moved(kind: str = "llama") -> Model:
    """With a B that is not 0."""
    model = adapted(kind)
    torch.manual_seed(1)
    for name, parameter in model.lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def run(folder: Path, what, **settings) -> Model:
    model = adapted(**settings)
    train(model, what, PARTS, folder, Reporter("test", folder / "log.jsonl", no_progress), CPU)
    return model


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt_neox", "gpt2", "xglm", "bloom"])
def test_a_new_adapter_leaves_the_model_as_it_was_and_has_every_linear_layer_of_the_blocks(kind: str):
    model = adapted(kind)
    assert torch.equal(logits(model), logits(tiny(kind)))
    plain = [m for m in tiny(kind).blocks.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    trained = [name for name, p in model.lm.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(plain) > 0
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert not any("embed" in name or "head" in name for name in trained)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])
def test_a_saved_adapter_on_its_base_gives_the_same_logits(tmp_path: Path, kind: str):
    model = moved(kind)
    model.save(tmp_path)
    again = tiny(kind)
    adapter.Adapter.load(again, tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert not torch.allclose(logits(model), logits(tiny(kind)), atol=1e-3)
    for layer in range(4):
        batch, _ = model.encode(TEXTS, 32)
        states = again.hidden_states(input_ids=batch["input_ids"], mask=batch["attention_mask"])
        cut = again.hidden(batch["input_ids"], batch["attention_mask"], layer)
        real = batch["attention_mask"].bool()
        assert torch.allclose(cut[real], states[layer][real], atol=1e-5)


def test_what_is_saved_is_the_adapter_alone_and_names_no_place_of_this_machine(tmp_path: Path):
    model = moved()
    model.lm.name_or_path = "/home/me/base"
    model.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    with safe_open(tmp_path / adapter.WEIGHTS, "pt") as file:
        assert len(file.keys()) == 2 * 3 * 7
        assert all("lora_" in key for key in file.keys())  # noqa: SIM118
    says = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert says["base_model_name_or_path"] == "base_model"
    assert says["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert "/home" not in json.dumps(says)
    lm = PeftModel.from_pretrained(tiny().lm, tmp_path)  # as the card tells its readers
    with torch.inference_mode():
        assert torch.equal(lm(**model.encode(TEXTS, 32)[0]).logits, logits(model))


def test_an_adapter_of_a_model_on_the_hub_names_it_and_its_revision(tmp_path: Path):
    base = Base.model_validate({"model": "someone/model", "revision": "abc"})
    adapted(base=base).save(tmp_path)
    says = json.loads((tmp_path / adapter.CONFIG).read_text())
    assert (says["base_model_name_or_path"], says["revision"]) == ("someone/model", "abc")


def test_mid_aligns_recipe_has_its_adapter():
    chosen = TrainConfig.of(read_recipe("mid_align.yaml")).adapter
    assert chosen
    assert chosen.lora
    assert (chosen.lora.r, chosen.lora.alpha, chosen.lora.dropout) == (8, 16, 0.1)
    assert len(chosen.lora.targets) == 7


def test_targets_that_no_block_has_are_refused_with_those_it_has():
    with pytest.raises(
        ValueError, match=r"targets: found c_attn. Expected: linear layers of LlamaForCausalLM: down_proj, "
    ):
        adapted(targets=["q_proj", "c_attn"])
    model = adapted(targets=["q_proj"], r=4)
    assert sum(p.numel() for p in model.lm.parameters() if p.requires_grad) == 3 * 4 * (16 + 16)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path):
    moved().save(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit GPT2LMHeadModel with 3 blocks: .* Expected: an adapter"):
        adapter.Adapter.load(tiny("gpt2"), tmp_path)
    with pytest.raises(ValueError, match="does not fit LlamaForCausalLM with 3 blocks: .*size mismatch"):
        adapter.Adapter.load(tiny(hidden_size=32), tmp_path)


@pytest.mark.parametrize("trainable", [True, False])
def test_a_suspended_adapter_leaves_the_base_model(trainable: bool):
    model = moved()
    if not trainable:
        model.lm.requires_grad_(False)
    with_adapter, flags = logits(model), [p.requires_grad for p in model.lm.parameters()]
    assert model.adapter
    with model.adapter.suspended():
        assert torch.equal(logits(model), logits(tiny()))
    assert torch.equal(logits(model), with_adapter)
    assert [p.requires_grad for p in model.lm.parameters()] == flags
    assert torch.equal(logits(model.frozen()), logits(tiny()))
    assert not any(p.requires_grad for p in model.frozen().lm.parameters())


def test_training_moves_the_adapter_alone(tmp_path: Path):
    before = weights(adapted())
    after = weights(run(tmp_path, plan(4)))
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if "lora_" not in name}


def test_a_killed_run_resumes_to_the_very_weights_of_an_unbroken_one_from_the_adapter_alone(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", plan(), dropout=0.2)
    step = Reporter.step

    def die(self, number, *rest):
        step(self, number, *rest)
        if number == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", die)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", plan(), dropout=0.2)
    with safe_open(tmp_path / "broken" / "step-00000008" / "model.safetensors", "pt") as file:
        assert all("lora_" in key for key in file.keys())  # noqa: SIM118
    resumed = run(tmp_path / "broken", plan(), dropout=0.2)
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert not torch.equal(logits(whole), logits(adapted()))
