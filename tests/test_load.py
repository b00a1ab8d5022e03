"""Base models of many families: which are taken, which are refused in a sentence, and what is changed about them."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment_train.config import TrainConfig
from alignment_train.evaluation.lm import LM
from alignment_train.models import adapter
from alignment_train.models import folder as folders
from alignment_train.models.check import check, check_recipe
from alignment_train.models.load import check_quantization, examine, load, load_base
from alignment_train.models.model import Model
from alignment_train.models.positions import max_positions
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.settings import AdapterSettings, Base, Lora
from alignment_train.training.data import texts
from alignment_train.training.loop import train
from alignment_train.training.progress_log import Reporter
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.progress import no_progress
from tests.support.families import DECODERS, ENCODERS, WRAPPERS, decoder, edit, encoder, tokens, wrapper
from tests.support.models import bitext
from tests.support.refused import problem
from tests.support.trained import UNGUARDED
from tests.test_train import CPU, PARTS, plan

TEXTS = [*bitext(3)["tgt"].to_pylist(), "nine"]
LORA = AdapterSettings.model_validate({"lora": {}})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return decoder(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    """A folder with a small Llama, to be damaged."""
    return shutil.copytree(llama, tmp_path / "model")


def named(folder: Path, adapter: AdapterSettings | None = None) -> Model:
    return load_base(Base.model_validate({"model": str(folder)}), adapter)


def logits(lm: Any) -> torch.Tensor:
    ids = torch.arange(5, 13)[None]
    with torch.inference_mode():
        return lm.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def two_steps(model: Model, folder: Path) -> None:
    """Train with a contrast that keeps states of a layer's width, and with plain text."""
    objectives = [Contrastive.model_validate({"rows": 4, "layer": 1}), LanguageModel.model_validate({"rows": 4})]
    reporter = Reporter("test", folder / "log.jsonl", no_progress)
    train(model, plan(2, objectives=objectives, guards=UNGUARDED), PARTS, folder, reporter, CPU)


# Families


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_is_taken_trained_saved_and_loaded_again(kind: str, tmp_path: Path):
    model = named(decoder(tmp_path / "base", kind))
    assert len(model.blocks) == 2
    before = logits(model.lm)
    two_steps(model, tmp_path)
    model.save(tmp_path / "trained")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert torch.equal(logits(again), logits(model.lm))
    assert torch.equal(logits(load(tmp_path / "trained").lm), logits(model.lm))
    assert not torch.allclose(logits(model.lm), before, atol=1e-4)


@pytest.mark.parametrize("kind", DECODERS)
def test_every_layer_of_a_decoder_has_the_same_states_truncated_or_whole(kind: str, tmp_path: Path):
    model = named(decoder(tmp_path, kind))
    batch, _ = model.encode(TEXTS, 32)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    lm = LM(model, 1, 32, CPU)
    together = lm.embed(TEXTS, [0, 1, 2], "mean")
    with torch.inference_mode():
        for layer, states in enumerate(model.hidden_states(ids, mask)):
            assert states.shape == (*ids.shape, model.width(layer))
            cut = model.hidden(ids, mask, layer)
            assert torch.allclose(cut[mask.bool()], states[mask.bool()], atol=1e-5), layer
            alone = lm.embed(TEXTS, [layer], "mean")[layer]
            assert alone.shape == (len(TEXTS), model.width(layer))
            assert abs(alone - together[layer]).max() < 1e-5


@pytest.mark.parametrize("kind", DECODERS)
def test_lora_adapts_linear_layers_of_every_family_whatever_they_are_called(kind: str, tmp_path: Path):
    model = named(decoder(tmp_path / "base", kind))
    before = logits(model.lm)
    adapter.Adapter.create(model, Lora.model_validate({}), Base.model_validate({"seed": {}}), 7)
    assert torch.equal(logits(model.lm), before)
    two_steps(model, tmp_path)
    grown = [p.abs().max() > 0 for name, p in model.lm.named_parameters() if "lora_B" in name]
    assert len(grown) >= 2  # in each of two blocks
    assert sum(grown) >= len(grown) / 2  # a router that chose no other expert, or attention to no encoder, stays 0
    inside = {id(p) for p in model.blocks.parameters()}
    assert all(id(p) in inside for p in model.lm.parameters() if p.requires_grad)
    model.save(tmp_path / "adapter")
    again = named(tmp_path / "base")
    adapter.Adapter.load(again, tmp_path / "adapter")
    assert torch.equal(logits(again.lm), logits(model.lm))


TARGETS = {
    "gpt2": ["c_attn", "c_fc", "c_proj"],
    "gpt_neox": ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"],
    "phi3": ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"],
    "mpt": ["Wqkv", "down_proj", "out_proj", "up_proj"],
    "mamba": ["dt_proj", "in_proj", "x_proj"],  # PEFT refuses out_proj there
    "mamba2": ["in_proj"],
    "rwkv": ["key", "output", "receptance", "value"],
    "ctrl": ["Wk", "Wq", "Wv", "dense", "ffn.0", "ffn.2"],
}


@pytest.mark.parametrize("kind", TARGETS)
def test_names_of_lora_targets_are_found_and_others_refused_with_the_list(kind: str, tmp_path: Path):
    model = named(decoder(tmp_path, kind))
    assert adapter.lora_targets(model, Lora.model_validate({})) == TARGETS[kind]
    wrong = Lora.model_validate({"targets": ["q_prj"]})
    with pytest.raises(
        UserError, match=rf"lora.targets: found q_prj. Expected: linear layers of \w+: {', '.join(TARGETS[kind])}\. Fix"
    ):
        adapter.lora_targets(model, wrong)


@pytest.mark.parametrize("kind", WRAPPERS)
def test_of_a_model_of_images_and_text_the_language_model_is_used(kind: str, tmp_path: Path):
    folder = wrapper(tmp_path / "base", kind)
    _, expected, _, _ = WRAPPERS[kind]
    model = named(folder)
    assert type(model.lm).__name__ == expected
    names = [name for name, _ in model.lm.named_parameters()]
    assert not any("vision" in name or "visual" in name for name in names)
    assert any("vision" in note for note in model.notes) or any("only the language model" in n for n in model.notes)
    two_steps(model, tmp_path)
    model.save(tmp_path / "trained")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    assert type(again).__name__ == expected
    assert torch.equal(logits(again), logits(model.lm))


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_vl", "qwen3_vl", "llava", "mistral3"])
def test_the_language_model_inside_computes_what_the_whole_model_does(kind: str, tmp_path: Path):
    import transformers

    folder = wrapper(tmp_path, kind)
    whole = getattr(transformers, WRAPPERS[kind][0]).from_pretrained(folder)
    assert torch.allclose(logits(named(folder).lm), logits(whole), atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_refused(name: str, tmp_path: Path):
    found = problem(encoder(tmp_path, name))
    assert "Expected: a decoder (a causal language model" in found


def test_a_decoder_that_says_it_is_an_encoder_is_judged_by_what_it_computes(tmp_path: Path):
    """XGLM's configuration has is_decoder: false in old checkpoints; its attention is causal all the same."""
    folder = edit(decoder(tmp_path / "xglm", "xglm"), is_decoder=False)
    assert named(folder).notes == []
    bert = edit(decoder(tmp_path / "roberta", "roberta"), is_decoder=False)
    assert "a token sees later ones: changing the tokens after position 0" in problem(bert)


@pytest.mark.parametrize("kind", ["gemma3n_text", "mllama"])
def test_blocks_that_do_not_pass_on_one_state_a_token_are_refused(kind: str, tmp_path: Path):
    from transformers import AutoConfig, Gemma3nForCausalLM, MllamaForConditionalGeneration

    tokenizer, ids = tokens()
    shape = {**DECODERS["gemma3_text"], **ids}
    if kind == "mllama":
        config: Any = AutoConfig.for_model(
            kind,
            text_config={**shape, "cross_attention_layers": [1]},
            vision_config={
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_global_layers": 1,
                "attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_output_dim": 32,
                "intermediate_layers_indices": [0],
            },
        )  # fmt: skip
        lm: Any = MllamaForConditionalGeneration(config)
    else:
        config = AutoConfig.for_model(
            kind, **shape, num_kv_shared_layers=0, vocab_size_per_layer_input=ids["vocab_size"], laurel_rank=4,
            hidden_size_per_layer_input=8, layer_types=["full_attention"] * 2, activation_sparsity_pattern=[0.0] * 2,
        )  # fmt: skip
        lm = Gemma3nForCausalLM(config)
    lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "blocks of" in problem(tmp_path)


def test_rwkv_keeps_its_weights_when_it_is_evaluated(tmp_path: Path):
    model = named(decoder(tmp_path / "base", "rwkv"))
    stored = load_file(tmp_path / "base" / "model.safetensors")
    logits(model.lm)
    model.save(tmp_path / "stored")
    again = load_file(tmp_path / "stored" / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in stored.items())


# Tokens


def test_tokens_without_embeddings_get_the_mean_of_the_others(copy: Path):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.pad_token = "<one>"
    tokenizer.save_pretrained(copy)
    rows = load(copy).lm.config.vocab_size
    before = load_file(copy / "model.safetensors")
    model = named(copy)
    assert model.notes[-1] == (
        f"the tokenizer has {rows + 2} tokens and the embeddings had {rows} rows: 2 were added, each the mean of the "
        f"others"
    )
    assert model.lm.config.vocab_size == rows + 2
    for name, layer in (("model.embed_tokens", "get_input_embeddings"), ("lm_head", "get_output_embeddings")):
        weight = getattr(model.lm, layer)().weight
        assert torch.equal(weight[:rows], before[f"{name}.weight"])
        assert torch.allclose(weight[rows:], before[f"{name}.weight"].mean(0).expand(2, -1))
    model.language_model_loss(texts(["<two> one"], model, 32)).backward()


@pytest.mark.parametrize("kind", ["gpt2", "opt", "bloom", "phi"])
def test_tied_projected_and_biased_heads_grow_with_the_embeddings(kind: str, tmp_path: Path):
    folder = decoder(tmp_path / "base", kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<one>"])
    tokenizer.save_pretrained(folder)
    model = named(folder)
    assert logits(model.lm).shape[-1] == rows + 1
    model.save(tmp_path / "stored")
    assert torch.equal(logits(load(tmp_path / "stored").lm), logits(model.lm))


def test_embeddings_may_have_more_rows_than_the_tokenizer_has_tokens(tmp_path: Path):
    rows = tokens()[1]["vocab_size"] + 38
    model = named(decoder(tmp_path, "llama", vocab_size=rows))
    assert model.notes == []
    assert model.lm.config.vocab_size == rows


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    rows = tokens()[1]["vocab_size"] // 2 - 1
    assert problem(decoder(tmp_path, "llama", vocab_size=rows)).startswith("found a tokenizer of ")


def test_a_padding_token_beyond_the_embeddings_is_no_assertion(copy: Path):
    model = named(edit(copy, pad_token_id=10**6))
    assert model.lm.config.pad_token_id is None


@pytest.mark.parametrize(
    ("special", "config", "expected"),
    [
        ({"pad_token": None}, {}, "</s>"),  # padded with the end of a text
        ({"eos_token": None}, {"eos_token_id": 2}, "</s>"),  # named by the configuration, and special
        ({"eos_token": None, "pad_token": None}, {"eos_token_id": 2}, "</s>"),
        ({"eos_token": None}, {"eos_token_id": 7}, None),  # an ordinary token, such as a default
        ({"eos_token": None}, {"eos_token_id": 0}, None),  # <unk>
        ({"eos_token": None, "pad_token": None, "bos_token": None}, {"eos_token_id": 9}, None),
        ({"bos_token": None}, {}, "</s>"),
    ],
)
def test_end_and_padding_tokens_are_chosen_where_that_is_safe(
    copy: Path, special: dict[str, None], config: dict[str, Any], expected: str | None
):
    edit(copy, "tokenizer_config.json", **special)
    for file in ("config.json", "generation_config.json"):
        edit(copy, file, **config)
    if expected is None:
        assert problem(copy).startswith("its tokenizer has no end-of-text token. Expected: one, to end texts")
        return
    model = named(copy)
    assert model.tokenizer.eos_token == expected
    assert model.tokenizer.pad_token == ("<pad>" if "pad_token" not in special else expected)
    assert model.lm.generation_config.eos_token_id == 2
    model.save(copy / "stored")
    assert load(copy / "stored").tokenizer.eos_token == expected


@pytest.mark.parametrize(
    ("configured", "expected"),
    [(2, 2), (7, 2), ([2, 1], [2, 1]), ([1, 2], [2, 1]), ([7, 1], [2, 1]), (None, 2), (10**6, 2)],
)
def test_generation_stops_at_the_end_of_a_text_and_at_other_special_tokens(copy: Path, configured: Any, expected: Any):
    edit(copy, "generation_config.json", eos_token_id=configured)
    edit(copy, eos_token_id=configured)
    assert named(copy).lm.generation_config.eos_token_id == expected


SAMPLING = "generation_config.json has settings of sampling but not do_sample, which is set to true"
CONTRADICTION = "settings of generation_config.json that contradict each other are left out"


@pytest.mark.parametrize(
    ("settings", "note", "expected"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, SAMPLING, {"temperature": 0.6, "top_p": 0.9, "do_sample": True}),
        ({"temperature": 0.6, "do_sample": True}, None, {"temperature": 0.6, "do_sample": True}),
        ({"temperature": 0.6, "early_stopping": True}, CONTRADICTION, {}),
        ({}, None, {}),
    ],
)
def test_settings_of_generation_become_ones_that_transformers_saves(
    copy: Path, settings: dict[str, Any], note: str | None, expected: dict[str, Any]
):
    edit(copy, "generation_config.json", eos_token_id=[2, 7], **settings)
    model = named(copy)
    assert model.notes[1:] == ([note] if note else [])  # after that of 7, which ends nothing
    model.save(copy / "stored")
    stored = json.loads((copy / "stored" / "generation_config.json").read_text())
    names = ("temperature", "top_p", "do_sample", "early_stopping")
    assert {name: stored[name] for name in names if stored.get(name)} == expected
    assert stored["eos_token_id"] == 2


# Lengths


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("gpt2", {}, 64),
        ("opt", {}, 64),
        ("xglm", {}, 64),
        ("llama", {"max_position_embeddings": 48}, 48),
        ("dbrx", {}, 64),
        ("roberta", {}, 64),  # of 68, as position 0 is that of the token after pad, which is 3
        ("bloom", {}, None),
        ("mpt", {}, None),
        ("falcon", {"alibi": True}, None),
        ("falcon", {"alibi": False, "max_position_embeddings": 48}, 48),
        ("mamba", {}, None),
        (
            "llama",
            {
                "max_position_embeddings": 48,
                "rope_parameters": {
                    "rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 48,
                },
            },
            96,
        ),
        *(
            ("llama", {"max_position_embeddings": 48, "rope_scaling": {"type": way, "factor": 4.0}}, 192)
            for way in ("linear", "dynamic")
        ),
        (
            "llama",  # whose configuration names the positions after scaling, as do Llama 3.1 and Phi-3
            {
                "max_position_embeddings": 128,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            },
            128,
        ),
        ("gpt2", {"position_embedding_type": "alibi"}, None),  # of JAIS, whose code lies beside its weights
    ],
)  # fmt: skip
def test_positions_that_a_model_has(kind: str, more: dict[str, Any], expected: int | None):
    from transformers import AutoConfig

    assert max_positions(AutoConfig.for_model(kind, **{**DECODERS[kind], **tokens()[1], **more})) == expected


def test_a_model_takes_as_many_tokens_as_it_has_positions(tmp_path: Path):
    """The limit is the true one where positions are a table: one token more fails."""
    for kind in ("gpt2", "opt", "roberta"):
        model = named(decoder(tmp_path / kind, kind))
        assert model.positions == 64
        ids = torch.full((1, 64), 5)
        model.lm(input_ids=ids, attention_mask=torch.ones_like(ids))
        with pytest.raises((IndexError, RuntimeError)):
            model.lm(input_ids=torch.full((1, 65), 5), attention_mask=torch.ones(1, 65, dtype=torch.long))


def settings(**train: Any) -> tuple[Recipe, TrainConfig]:
    recipe = Recipe.model_validate(
        {
            "name": "test",
            "corpus": {"pairs": ["en-de"], "sources": [{"sample": {}}]},
            "train": {"base": {"model": "here"}, "objectives": [{"contrastive": {}}], "max_length": 64, **train},
            "eval": [{"translation": {"max_new_tokens": 32, "source": {"sample": {"split": "heldout"}}}}],
        }
    )
    return recipe, TrainConfig.of(recipe)


@pytest.mark.parametrize(
    ("kind", "limit", "train", "expected"),
    [
        ("gpt2", 64, {}, []),
        (
            "gpt2", 32, {},
            [
                "train.max_length: found 64. Expected: at most 32, the positions of GPT2LMHeadModel. Fix: lower "
                "max_length, or take a base model with more positions.",
                "eval[0].translation.max_new_tokens: found 32. Expected: less than 32, the positions of "
                "GPT2LMHeadModel. Fix: lower it.",
            ],
        ),
        ("gpt2", 40, {"max_length": 40}, []),
        ("gpt2", 64, {"adapter": {"prefix": {"length": 8}}}, ["train.max_length: found 64. Expected: at most 56, "]),
        ("llama", 32, {}, ["train.max_length: found 64. Expected: at most 32", "eval[0].translation.max_new_tokens"]),
        ("bloom", None, {"max_length": 4096}, []),
        ("mamba", None, {"max_length": 4096}, []),
        ("bloom", None, {"objectives": [{"contrastive": {"layer": 3}}]}, ["train.objectives[0].contrastive.layer: "]),
        ("bloom", None, {"objectives": [{"contrastive": {"layer": "auto"}}]}, []),
        ("bloom", None, {"adapter": {"lora": {"targets": ["q_proj"]}}}, ["train.adapter.lora.targets: found q_proj"]),
        ("mamba", None, {"adapter": {"prefix": {}}}, ["train.adapter.prefix: MambaForCausalLM does not support"]),
    ],
)  # fmt: skip
def test_settings_that_a_model_cannot_have_are_refused_all_at_once(
    tmp_path: Path, kind: str, limit: int | None, train: dict[str, Any], expected: list[str]
):
    name = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    model = named(decoder(tmp_path, kind, **({name: limit} if limit else {})))
    recipe, config = settings(**train)
    found: list[str] = []
    try:
        check_recipe(model, recipe, config)
    except UserError as error:
        found = str(error).splitlines()
    assert len(found) == len(expected), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_the_window_of_evaluation_ends_with_the_positions_less_the_prefix(tmp_path: Path):
    from alignment_train.settings import Prefix

    model = named(decoder(tmp_path, "gpt2"))
    assert LM(model, 1, 32, CPU).window == 64
    adapter.Adapter.create(model, Prefix.model_validate({"length": 8}), Base.model_validate({"seed": {}}), 7)
    assert LM(model, 1, 32, CPU).window == 56


# Quantised weights


def quantised(folder: Path, settings: Any, key: str = "quantization_config") -> Path:
    return edit(folder, **{key: settings})


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({}, "an unnamed method"),
        (None, None),
    ],
)
def test_how_weights_are_quantised_is_read_from_the_configuration(copy: Path, settings: Any, method: str | None):
    found = folders.inspect(quantised(copy, settings), "here").quantization
    assert found == method
    if method:
        assert f"found weights quantised by {method}" in problem(copy)
        edit(copy, quantization_config=None)
        assert folders.inspect(quantised(copy, settings, "compression_config"), "here").quantization == method
        edit(copy, compression_config=None, text_config={"quantization_config": settings})
        assert folders.inspect(copy, "here").quantization == method


def test_weights_that_are_no_floats_are_quantised_whatever_the_configuration_says(copy: Path):
    file = copy / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**weights, name: weights[name].to(torch.int8)}, file, metadata={"format": "pt"})
    assert f"quantised by an unnamed method ({name} is I8). Expected: float weights" in problem(copy)
    save_file({**weights, "causal_mask": torch.ones(4, 4, dtype=torch.bool)}, file, metadata={"format": "pt"})
    assert named(copy).notes == ["left out, weights in the files that are no part of the model: causal_mask"]


@pytest.mark.parametrize(
    ("method", "adapter", "installed", "expected"),
    [
        (None, None, False, None),
        ("bitsandbytes", None, True, "which cannot be trained. Expected: float weights for training all of them"),
        ("bitsandbytes", AdapterSettings.model_validate({"prefix": {}}), True, "or train an adapter on it"),
        ("bitsandbytes", LORA, False, "which is not installed. Expected: the package. Fix: pip install bitsandbytes"),
        ("bitsandbytes", LORA, True, None),
        ("gptq", LORA, True, "Fix: name the checkpoint that it was quantised from, or one quantised by bitsandbytes"),
    ],
)
def test_quantised_weights_are_taken_for_lora_where_bitsandbytes_is_installed(
    monkeypatch: pytest.MonkeyPatch, method: str, adapter: AdapterSettings, installed: bool, expected: str | None
):
    monkeypatch.setattr("alignment_train.models.load.find_spec", lambda name: object() if installed else None)
    if expected is None:
        check_quantization(method, adapter, "train.base here")
        return
    with pytest.raises(UserError) as error:
        check_quantization(method, adapter, "train.base here")
    assert expected in str(error.value)


def test_an_adapter_on_a_quantised_model_prepares_it_first(llama: Path, monkeypatch: pytest.MonkeyPatch):
    prepared: list[Any] = []
    monkeypatch.setattr("peft.prepare_model_for_kbit_training", lambda lm, **more: prepared.append((lm, more)))
    model = named(llama)
    model.lm.is_quantized = True
    adapter.Adapter.create(model, Lora.model_validate({}), Base.model_validate({"seed": {}}), 7)
    assert prepared == [(model.lm, {"use_gradient_checkpointing": False})]


# Damaged folders


def lose(folder: Path, name: str) -> None:
    (folder / name).unlink()


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


def cut(folder: Path, name: str) -> None:
    write(folder, name, (folder / name).read_bytes()[:-100])


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """A change of the weight file."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def without(*parts: str) -> Callable[[Path], None]:
    return weights(lambda found: [found.pop(name) for name in list(found) if any(part in name for part in parts)])


def poisoned(value: float, name: str) -> Callable[[Path], None]:
    return weights(lambda found: found[name].view(-1)[3:4].fill_(value))


def sharded(folder: Path) -> None:
    load(folder).lm.save_pretrained(folder, max_shard_size="8KB")
    lose(folder, "model.safetensors")


def lost_shard(folder: Path) -> None:
    sharded(folder)
    sorted(folder.glob("model-0*"))[1].unlink()


def index(**entries: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        sharded(folder)
        edit(folder, "model.safetensors.index.json", **entries)

    return damage


def only(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").rename(folder / name) and None


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a layer missing": (without("layers.1."), r"9 weights of LlamaForCausalLM are in no file: model\.layers\.1\.input"),
    "half the weights": (without("layers.0.", "norm"), "weights of LlamaForCausalLM are in no file: "),
    "a head missing": (without("lm_head"), r"1 weights of LlamaForCausalLM are in no file: lm_head\.weight\. Expected"),
    "embeddings missing": (without("embed"), r"in no file: model\.embed_tokens\.weight"),
    "another shape": (
        weights(lambda found: found.update({"model.norm.weight": torch.ones(8)})),
        r"of another shape than config\.json describes: model\.norm\.weight \[8\] for \[16\]",
    ),
    "NaN": (poisoned(math.nan, "model.layers.1.mlp.up_proj.weight"), r"NaN or infinite .* model\.layers\.1\.mlp\.up"),
    "infinity": (poisoned(-math.inf, "lm_head.weight"), r"NaN or infinite numbers in lm_head\.weight"),
    "a wider configuration": (lambda f: edit(f, hidden_size=32), "of another shape than config.json describes"),
    "more layers": (lambda f: edit(f, num_hidden_layers=3), r"in no file: model\.layers\.2"),
    "layers without end": (lambda f: edit(f, num_hidden_layers=10**9), "num_hidden_layers: found 1000000000. Exp"),
    "layers as a float": (lambda f: edit(f, num_hidden_layers=1e9), "num_hidden_layers: found 1000000000.0. E"),
    "more layers than tensors": (lambda f: edit(f, num_hidden_layers=500), "found 500. Expected: at most 21, the num"),
    "no layers": (lambda f: edit(f, num_hidden_layers=0), "num_hidden_layers: found 0. Expected: a whole"),
    "no width": (lambda f: edit(f, hidden_size=0), "hidden_size: found 0"),
    "a negative width": (lambda f: edit(f, hidden_size=-16), "hidden_size: found -16"),
    "no heads": (lambda f: edit(f, num_attention_heads=0), "num_attention_heads: found 0"),
    "heads that do not divide": (lambda f: edit(f, num_attention_heads=3), "cannot be loaded: "),
    "a word for a number": (lambda f: edit(f, num_hidden_layers="two"), "expected int, got str"),
    "a vocabulary without end": (lambda f: edit(f, vocab_size=10**12), r"describes [\d,]+ numbers, and the"),
    "a width without end": (lambda f: edit(f, hidden_size=10**15), "hidden_size: found 1000000000000000. Expected: at"),
    "a large width": (lambda f: edit(f, hidden_size=1 << 20), r"describes [\d,]+ numbers, and the weight files hold"),
    "a large feed-forward": (lambda f: edit(f, intermediate_size=10**9), r"describes [\d,]+ numbers"),
    "a type that is none": (lambda f: edit(f, model_type="own_of_test"), "cannot be loaded: ValueError: "),
    "no type": (lambda f: edit(f, model_type=None, architectures=None), "cannot be loaded: "),
    "a type that is a number": (lambda f: edit(f, model_type=7), "cannot be loaded: "),
    "no configuration": (lambda f: lose(f, "config.json"), r"no config\.json in the folder, but gen"),
    "a configuration cut short": (lambda f: cut(f, "config.json"), r"config\.json is damaged: .* Expected: JSON"),
    "a configuration that is a list": (lambda f: write(f, "config.json", b"[]"), "is damaged: found list"),
    "a configuration of other bytes": (lambda f: write(f, "config.json", b"\xff\xfe"), r"config\.json is damaged"),
    "nested without end": (lambda f: write(f, "config.json", b'{"a":' * 10**5), r"config\.json is damaged"),
    "no weights": (lambda f: lose(f, "model.safetensors"), r"no weights that transformers reads \(none\)"),
    "weights cut short": (lambda f: cut(f, "model.safetensors"), r"model\.safetensors is damaged: "),
    "empty weights": (lambda f: write(f, "model.safetensors", b""), r"model\.safetensors is damaged: "),
    "weights of zeros": (lambda f: write(f, "model.safetensors", bytes(4096)), r"model\.safetensors is damaged: "),
    "a header without end": (
        lambda f: write(f, "model.safetensors", b"\xff" * 8 + bytes(64)), r"model\.safetensors is damaged: ",
    ),
    "a missing shard": (lost_shard, r"found \d of the \d weight files that .* names; missing: model-00002-of"),
    "an index of nothing": (index(weight_map={}), "found no weight_map"),
    "an index that leaves the folder": (
        index(weight_map={"model.norm.weight": "../../etc/passwd"}), r"names '\.\./\.\./etc/passwd'. Expected: files",
    ),
    "a pickle that is none": (
        lambda f: (lose(f, "model.safetensors"), write(f, "pytorch_model.bin", b"no pickle" * 10**4)),
        "cannot be loaded: ",
    ),
    "GGUF alone": (only("model.gguf"), r"\(model\.gguf\).* Fix: Name the file: base: "),
    "weights of another program": (only("consolidated.safetensors"), r"\(consolidated\.safetensors\)"),
    "no tokenizer": (
        lambda f: (lose(f, "tokenizer.json"), lose(f, "tokenizer_config.json")), "found no tokenizer. Expected: its",
    ),
    "a tokenizer cut short": (lambda f: cut(f, "tokenizer.json"), r"tokenizer\.json is damaged"),
    "an empty tokenizer": (lambda f: write(f, "tokenizer.json", b"{}"), "its tokenizer: cannot be loaded: "),
    "a tokenizer without a model": (lambda f: edit(f, "tokenizer.json", model={}), "its tokenizer: cannot be loaded: "),
    "tokenizer settings that are a list": (
        lambda f: write(f, "tokenizer_config.json", b"[1]"), r"tokenizer_config\.json is damaged: found list",
    ),
    "a damaged generation_config": (lambda f: write(f, "generation_config.json", b"{"), r"generation_config\.json is"),
    "an adapter": (
        lambda f: write(f, "adapter_config.json", b"{}"), "found an adapter. Expected: a whole model",
    ),
    "code of its own": (
        lambda f: edit(f, model_type="own_of_test", auto_map={"AutoConfig": "modeling_own.OwnConfig"}),
        "found code of its own beside the weights, which was not run",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_absurd_folder_is_refused_in_a_sentence(copy: Path, name: str):
    damage, expected = DAMAGE[name]
    damage(copy)
    found = problem(copy)
    assert re.search(expected, found), found


def test_weights_that_are_tied_may_be_missing(tmp_path: Path):
    folder = decoder(tmp_path, "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert named(folder).notes == []


def test_weights_may_lie_in_shards_or_in_a_pickle(copy: Path):
    expected = logits(named(copy).lm)
    sharded(copy)
    assert torch.equal(logits(named(copy).lm), expected)
    torch.save(named(copy).lm.state_dict(), copy / "pytorch_model.bin")
    for file in copy.glob("model*"):
        file.unlink()
    assert torch.equal(logits(named(copy).lm), expected)


def test_a_stored_model_that_lost_weights_is_refused_too(copy: Path):
    without("layers.1.")(copy)
    with pytest.raises(UserError, match="9 weights of LlamaForCausalLM are in no file"):
        load(copy)


def test_a_file_is_no_folder(llama: Path):
    assert problem(llama / "config.json").startswith("found a file. Expected: the folder of a model")


# The command

COUNTED = ("weights", "parameters", "vocabulary")


def test_the_findings_are_a_list_with_an_exit_code(copy: Path, capsys: pytest.CaptureFixture[str]):
    assert check(str(copy)) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == f"{copy}: can be aligned"
    facts = dict(line.strip().split("  ", 1) for line in said.splitlines()[1:])
    assert {name: text.strip() for name, text in facts.items() if name not in COUNTED} == {
        "architecture": "LlamaForCausalLM",
        "causal": "yes: no position depends on a later one",
        "blocks": "2",
        "width": "16",
        "positions": "2,048",
        "output head": "its own",
        "special tokens": "bos <s>, eos </s>, pad <pad>",
        "conversations": "plain text, for there is no chat template",
        "LoRA targets": "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj",
    }  # fmt: skip
    without("layers.1.")(copy)
    assert check(str(copy)) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{copy}: cannot be aligned\n")
    assert f"  problem         train.base {copy}: 9 weights of LlamaForCausalLM are in no file" in said


def test_of_a_recipe_its_settings_are_checked_as_well(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = {
        "corpus": {"pairs": ["en-de"], "sources": [{"sample": {}}]},
        "train": {"base": {"model": str(copy)}, "objectives": [{"contrastive": {}}], "max_length": 4096},
        "eval": [],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    assert check(str(file), quiet=True) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        "train.max_length: found 4096. Expected: at most 2048, the positions of LlamaForCausalLM"
    )
    recipe["train"]["max_length"] = 256
    file.write_text(json.dumps(recipe))
    assert check(str(file), quiet=True) == 0
    assert capsys.readouterr().out == ""
    assert check("sample.yaml") == 0
    assert capsys.readouterr().out == "base: a seed model, which is made from the corpus. Nothing to check.\n"


UNUSABLE = {
    "a template that refuses": "{{ raise_exception('Not for you') }}",
    "no Jinja": "{% for m in messages %}{{ m.content }}",
    "a template without end": "{% for i in range(10**9) %}{{ i }}{% endfor %}",
    "a template without the user": "{% for m in messages %}{{ m.role }}{% endfor %}",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_chat_template_that_cannot_be_used_is_refused_where_the_recipe_has_conversations(copy: Path, name: str):
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.chat_template = UNUSABLE[name]
    tokenizer.save_pretrained(copy)
    model, findings = examine(Base.model_validate({"model": str(copy)}))
    assert model is not None
    assert findings.facts["conversations"].startswith(f"cannot be used. chat template of {copy}: ")
    recipe, config = settings(max_length=64, objectives=[{"contrastive": {}}])
    plain = recipe.model_copy(update={"eval": []})
    check_recipe(model, plain, config)
    _, config = settings(max_length=64, objectives=[{"contrastive": {}}, {"instruction": {}}])
    with pytest.raises(UserError, match=r"^chat template of .*\. Expected: .*\. Fix: correct chat_template"):
        check_recipe(model, plain, config)


def test_quantised_weights_of_a_store_need_the_adapter_that_they_were_taken_for(copy: Path):
    model = named(copy)
    model.lm.is_quantized = True
    with pytest.raises(UserError, match="train.base here: found weights quantised by bitsandbytes, which cannot be"):
        check_recipe(model, *settings())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-0.6B", False),
        ("gpt2", False),
        ("models/nothing", False),  # may be a hub id
        ("./models/nothing", True),
        ("/nowhere/model", True),
        ("a/b/c", True),
        ("models/", True),
    ],
)
def test_what_needs_no_hub_is_checked_before_the_corpus(name: str, expected: bool):
    assert Base.model_validate({"model": name}).is_local is expected


def test_a_model_of_a_hub_is_checked_once_it_is_here(llama: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[dict[str, Any]] = []

    def download(name: str, **more: Any) -> str:
        asked.append({"name": name, **more})
        return str(llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    base = Base.model_validate({"model": "some/llama", "revision": "abc"})
    assert torch.equal(logits(load_base(base).lm), logits(named(llama).lm))
    assert [(call["name"], call["revision"]) for call in asked] == [("some/llama", "abc")]
    assert "*.safetensors" in asked[0]["allow_patterns"]
    assert "*.bin" not in asked[0]["allow_patterns"]
