from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import DynamicCache

from alignment_train.config import TrainConfig
from alignment_train.models.adapter import Adapter
from alignment_train.models.model import Model
from alignment_train.models.prefix import PrefixHook
from alignment_train.objectives import Objective
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.instruction import Instruction
from alignment_train.objectives.meta import Meta
from alignment_train.settings import Base, Prefix
from pipelines.config import validate
from tests.support import models
from tests.support.models import SHAPES, bitext, tiny
from tests.support.trained import trained
from tests.test_train import PARTS

TEXTS = ["one two three", "nine", "four five six seven eight"]
LENGTH = 3
SEED = Base.model_validate({"seed": {}})
META = Meta.model_validate({"rows": 8, "clusters": 2, "query": "own"})


def prefixed(kind: str = "llama", length: int = LENGTH, **more: Any) -> Model:
    """With a new prefix."""
    model = tiny(kind, **more)
    Adapter.create(model, Prefix.model_validate({"length": length}), SEED, 7)
    return model


def moved(kind: str = "llama") -> Model:
    """With a prefix that no tokens have."""
    model = prefixed(kind)
    torch.manual_seed(1)
    torch.nn.init.normal_(own(model))
    return model


def own(model: Model) -> torch.nn.Parameter:
    return model.lm.get_parameter("prefix.default.embedding.weight")


def by_hand(model: Model, lm: Any, ids: torch.Tensor):
    """What the bare model `lm` makes of one text [1, T] after the keys and values of the prefix."""
    weight = own(model)
    heads = model.adapter.peft.peft_config["default"].num_attention_heads  # type: ignore[union-attr]
    cache = DynamicCache()
    for block, part in enumerate(weight.view(LENGTH, 3, 2, heads, -1).unbind(1)):
        keys, values = part.permute(1, 2, 0, 3).unsqueeze(1)  # [1, heads, length, size of a head] each
        cache.update(keys, values, block)
    return lm(input_ids=ids, past_key_values=cache, output_hidden_states=True)


@pytest.mark.parametrize("kind", SHAPES)
def test_states_and_logits_are_those_after_its_keys_and_values_and_of_the_adapter_loaded_by_peft(kind, tmp_path: Path):
    model, bare = moved(kind), tiny(kind).lm
    batch, _ = model.encode(TEXTS, 32)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    model.save(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(kind).lm, tmp_path)  # as the card tells its readers
    again = tiny(kind)
    Adapter.load(again, tmp_path)
    with torch.no_grad():
        whole, cut = model.hidden_states(ids, mask), [model.hidden(ids, mask, layer) for layer in range(4)]
        logits = model.logits(ids, mask, mask.bool()).materialize().split(mask.sum(1).tolist())
        theirs = loaded(**batch, output_hidden_states=True)
        for i, count in enumerate(mask.sum(1).tolist()):
            wanted = by_hand(model, bare, ids[i : i + 1, :count])
            torch.testing.assert_close(logits[i], wanted.logits[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(theirs.logits[i, :count], wanted.logits[0], rtol=1e-4, atol=1e-5)
            for layer, states in enumerate(wanted.hidden_states):
                for found in (whole[layer], cut[layer], theirs.hidden_states[layer]):
                    torch.testing.assert_close(found[i, :count], states[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(again.lm(**batch).logits, model.lm(**batch).logits)
        assert not torch.allclose(model.lm(**batch).logits, bare(**batch).logits, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "xglm"])
def test_a_new_prefix_is_what_the_model_makes_of_its_tokens(kind: str, monkeypatch: pytest.MonkeyPatch):
    drawn, draw = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    model, bare = prefixed(kind), tiny(kind)
    ids = model.encode(TEXTS[:1], 32)[0]["input_ids"]
    with torch.no_grad():
        found = model.lm(input_ids=ids).logits
        wanted = bare.lm(input_ids=torch.cat([drawn[0], ids], 1)).logits[:, LENGTH:]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert [name for name, p in model.lm.named_parameters() if p.requires_grad] == ["prefix.default.embedding.weight"]


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_texts_padded_left_go_on_after_the_prefix_as_each_alone_does(kind: str):
    model = moved(kind)
    texts, _ = model.encode(TEXTS, 32)
    counts = texts["attention_mask"].sum(1).tolist()
    rows = [ids[:count] for ids, count in zip(texts["input_ids"], counts, strict=True)]
    longest = max(counts)
    mask = torch.tensor([[0] * (longest - count) + [1] * count for count in counts])
    padded = mask.new_full(mask.shape, model.tokenizer.pad_token_id).masked_scatter(mask.bool(), torch.cat(rows))
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    found = model.lm.generate(input_ids=padded, attention_mask=mask, **settings)[:, longest:]
    for row, new in zip(rows, found, strict=True):
        for _ in range(4):  # each token by a pass of its own
            with torch.no_grad():
                logits = model.lm(input_ids=row[None], use_cache=False).logits[0, -1]
            logits[model.tokenizer.eos_token_id] = -torch.inf
            row = torch.cat([row, logits.argmax()[None]])
        assert row[-4:].tolist() == new.tolist()


def test_gradients_reach_the_prefix_in_chunks_as_in_one_batch():
    model = moved()
    whole, parts = (Contrastive.model_validate({"layer": 2, "center": "none", "chunk": n}) for n in (None, 5))
    batch = whole.collate(bitext(8).to_pylist(), model, 32)
    expected, found = (torch.autograd.grad(item.loss(model, batch)[0], own(model))[0] for item in (whole, parts))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert expected.abs().sum() > 0


def test_a_frozen_copy_is_the_base_without_a_prefix():
    model = moved()
    batch, _ = model.encode(TEXTS, 32)
    with torch.no_grad():
        before = model.lm(**batch).logits
        copy, body = model.frozen(), model.frozen(head=False)
        assert torch.equal(copy.lm(**batch).logits, tiny().lm(**batch).logits)
        states = tiny().hidden(batch["input_ids"], batch["attention_mask"], 3)
        assert torch.equal(body.hidden(batch["input_ids"], batch["attention_mask"], 3), states)
        assert torch.equal(model.lm(**batch).logits, before)
    assert copy.lm.state_dict().keys() == tiny().lm.state_dict().keys()
    assert own(model).requires_grad


@pytest.mark.parametrize("item", [Instruction.model_validate({"rows": 8}), META], ids=["instruction", "meta"])
def test_other_objectives_train_the_prefix_and_a_checkpoint_holds_it_alone(tmp_path: Path, item: Objective):
    model, _, _ = trained(tmp_path, item, PARTS[item.reads], 3, every=2, make=prefixed)
    assert not torch.equal(own(model), own(prefixed()))
    with safe_open(tmp_path / "step-00000002" / "model.safetensors", "pt") as file:
        assert list(file.keys()) == ["prefix.default.embedding.weight"]


def test_a_prefix_of_another_model_is_refused(tmp_path: Path):
    prefixed().save(tmp_path)
    with pytest.raises(ValueError, match=r"its prefix has .* \(3, 2, 8\), and the model has \(2, 2, 8\). Expected"):
        Adapter.load(tiny(num_hidden_layers=2), tmp_path)
    with pytest.raises(ValueError, match="does not fit LlamaForCausalLM with 3 blocks: .*size mismatch"):
        Adapter.load(tiny(hidden_size=32), tmp_path)


def test_a_model_that_takes_no_prefix_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(models.SHAPES, "mamba", {"hidden_size": 16, "num_hidden_layers": 3, "state_size": 4})
    with pytest.raises(ValueError, match="MambaForCausalLM does not support a prefix: its cache does not have .*"):
        prefixed("mamba")
    with pytest.raises(ValueError, match="length: found 40, of which MistralForCausalLM keeps fewer in some block"):
        prefixed("mistral", 40, sliding_window=16)
    with pytest.raises(ValueError, match="found 60, where GPT2LMHeadModel has 64 positions. Expected: at most 56,"):
        prefixed("gpt2", 60, n_positions=64)
    monkeypatch.setattr(PrefixHook, "extend_inputs", lambda _, __, args, kwargs: (args, kwargs))
    with pytest.raises(ValueError, match="LlamaForCausalLM does not support a prefix: its states after"):
        prefixed()


def test_a_mask_of_each_query_and_key_is_refused():
    model = moved()
    with pytest.raises(ValueError, match=r"attention_mask: found a mask that is not \[N, T\]. Expected"):
        model.body(input_ids=torch.ones(1, 4, dtype=torch.long), attention_mask=torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"adapter": {}}, "adapter: found both or neither of lora and prefix. Expected: exactly one"),
        ({"adapter": {"lora": {}, "prefix": {}}}, "adapter: found both or neither of lora and prefix"),
        ({"adapter": {"prefix": {"length": 0}}}, "adapter.prefix.length"),
        (
            {"adapter": {"prefix": {}}, "merge": {"adapter": "x"}},
            "merge: found adapter.prefix, and prefixes cannot be added. Expected: ",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict, told: str):
    with pytest.raises(ValueError, match="recipe x") as caught:
        validate(TrainConfig, {"objectives": ["contrastive"], **settings}, "recipe x", "train")
    assert told in str(caught.value)
