import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from alignment_train.device import choose_device
from alignment_train.models.load import load, load_base, untrained
from alignment_train.settings import Base
from alignment_train.training.data import pack
from pipelines.errors import UserError
from tests.support.models import SHAPES, bitext, tiny

TEXTS = [*bitext(5)["tgt"].to_pylist(), "nine", "one two three four five six seven eight"]


@pytest.mark.parametrize("kind", SHAPES)
def test_a_truncated_forward_gives_the_hidden_state_of_the_whole_one(kind: str):
    model = tiny(kind)
    batch, _ = model.encode(TEXTS, 64)
    states = model.hidden_states(batch["input_ids"], batch["attention_mask"])
    theirs = model.lm(**batch, output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == len(theirs) == 4
    assert all(torch.equal(one, other) for one, other in zip(states, theirs, strict=True))
    real = batch["attention_mask"].bool()
    for layer in range(4):
        cut = model.hidden(batch["input_ids"], batch["attention_mask"], layer)
        assert torch.allclose(cut[real], states[layer][real], atol=1e-6), layer


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_at_chosen_positions_are_those_of_the_whole_model(kind: str, tied: bool):
    model = tiny(kind, tie_word_embeddings=tied)
    assert (model.lm.get_output_embeddings().weight is model.lm.get_input_embeddings().weight) == tied
    batch, _ = model.encode(TEXTS, 64)
    wanted = batch["attention_mask"].bool() & (torch.arange(batch["input_ids"].shape[1]) % 2 == 0)
    whole = model.lm(**batch, use_cache=False).logits
    found = model.logits(batch["input_ids"], batch["attention_mask"], wanted).materialize()
    assert torch.allclose(found, whole[wanted], atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_states_are_recorded_while_logits_are_made(kind: str):
    model = tiny(kind)
    batch, _ = model.encode(TEXTS, 64)
    states = model.hidden_states(batch["input_ids"], batch["attention_mask"])
    with model.recording([0, 2, 3]) as found:
        model.logits(batch["input_ids"], batch["attention_mask"], batch["attention_mask"].bool())
    assert sorted(found) == [0, 2, 3]
    for layer, state in found.items():
        assert torch.allclose(state, states[layer], atol=1e-6), layer


APART = {"xglm": "mask", "bloom": None}  # all others by positions alone


@pytest.mark.parametrize("kind", SHAPES)
def test_packed_logits_are_those_of_each_text_alone(kind: str):
    window = {"sliding_window": 4} if kind in ("gemma2", "mistral") else {}
    model = tiny(kind, **window)
    assert model.packing == APART.get(kind, "positions")
    if model.packing is None:
        return
    rows = model.tokenizer(TEXTS)["input_ids"]
    assert max(map(len, rows)) > 5
    batch = pack(rows, rows, model, 24)
    ids, positions = batch["input_ids"], batch["position_ids"]
    assert 1 < len(ids) < len(rows)
    packed = model.logits(ids, batch["attention_mask"], torch.ones_like(ids, dtype=torch.bool), positions).materialize()
    packed = packed.view(*ids.shape, -1)
    found = []
    for row in range(len(ids)):
        starts = [*(positions[row] == 0).nonzero()[:, 0].tolist(), ids.shape[1]]
        for start, stop in pairwise(starts):
            if not batch["attention_mask"][row, start]:
                continue  # what pads the row
            found.append(ids[row, start:stop].tolist())
            alone = model.lm(input_ids=ids[None, row, start:stop], use_cache=False).logits[0]
            torch.testing.assert_close(packed[row, start:stop], alone, rtol=0, atol=1e-5)
    assert sorted(found) == sorted(rows)


@pytest.mark.parametrize("kind", ["llama", "xglm"])
def test_packing_changes_neither_loss_nor_gradients(kind: str):
    model = tiny(kind)
    rows = model.tokenizer(TEXTS)["input_ids"]
    sums = []
    for batch in (model.pad(rows, rows), pack(rows, rows, model, 24)):
        model.lm.zero_grad()
        loss = model.language_model_loss(batch)
        loss.backward()
        sums.append((loss.item(), {name: p.grad.clone() for name, p in model.lm.named_parameters()}))
    (padded, expected), (packed, found) = sums
    assert packed == pytest.approx(padded, rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_asking_how_to_pack_moves_no_random_state():
    model = tiny("xglm", attention_dropout=0.5)
    model.lm.train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert model.packing == "mask"
    assert torch.equal(torch.rand(1), expected)
    assert model.lm.training


def test_the_side_on_which_a_tokenizer_pads_changes_nothing():
    model = tiny()
    right, _ = model.encode(TEXTS, 64)
    model.tokenizer.padding_side = "left"
    left, _ = model.encode(TEXTS, 64)
    assert torch.equal(left["input_ids"], right["input_ids"])
    assert torch.equal(left["attention_mask"], right["attention_mask"])


def test_padding_changes_no_loss():
    model = tiny()
    rows = model.tokenizer(TEXTS)["input_ids"]
    alone = [float(model.language_model_loss(model.pad([row], [row])).detach()) * (len(row) - 1) for row in rows]
    together = model.language_model_loss(model.pad(rows, rows)).item()
    assert together == pytest.approx(sum(alone) / sum(len(row) - 1 for row in rows), rel=1e-5)


def test_a_long_text_is_cut_and_counted():
    batch, cut = tiny().encode(["one two three four five six", "one"], 4)
    assert cut == 1
    assert batch["attention_mask"].sum(1).tolist() == [4, 2]


def test_a_saved_model_loads_with_the_same_logits(tmp_path):
    model = tiny()
    model.save(tmp_path)
    again = load(tmp_path)
    batch, _ = model.encode(TEXTS, 64)
    assert sorted(p.suffix for p in tmp_path.glob("model*")) == [".safetensors"]
    assert torch.equal(again.encode(TEXTS, 64)[0]["input_ids"], batch["input_ids"])
    assert torch.equal(again.lm(**batch).logits, model.lm(**batch).logits)


def test_a_model_that_cannot_be_had_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"model .*nothing: found no such folder. Expected: 'seed', a local"):
        load(tmp_path / "nothing")


REMOTE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({ran!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own_of_test"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_beside_the_weights_is_run_only_where_the_recipe_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, ran = tiny(), tmp_path / "ran"
    model.save(tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    maps = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    own = {**config, "model_type": "own_of_test", "auto_map": maps, "architectures": ["OwnForCausalLM"]}
    (tmp_path / "own" / "config.json").write_text(json.dumps(own))
    (tmp_path / "own" / "modeling_own.py").write_text(REMOTE.format(ran=str(ran)))
    with pytest.raises(
        ValueError, match="code of its own beside the weights, which was not run. .*trust_remote_code: "
    ):
        load(tmp_path / "own")
    assert not ran.exists()
    trusted = load_base(Base.model_validate({"model": str(tmp_path / "own"), "trust_remote_code": True}))
    assert ran.exists()
    trusted.save(tmp_path / "stored")
    again = load(tmp_path / "stored", trust_remote_code=True)
    batch, _ = model.encode(TEXTS, 64)
    assert torch.equal(again.lm(**batch).logits, model.lm(**batch).logits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_but_absent_is_an_error():
    with pytest.raises(ValueError, match="--device cuda: found no usable GPU"):
        choose_device("cuda")


def test_an_untrained_model_has_the_shape_and_tokenizer_but_none_of_the_weights(tmp_path: Path):
    made = tiny(seed=5)
    made.save(tmp_path)
    before = torch.random.get_rng_state()
    one, again, other = (untrained(tmp_path, seed).lm.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    shapes = {name: weight.shape for name, weight in made.lm.state_dict().items()}
    assert {name: weight.shape for name, weight in one.items()} == shapes
    name = next(name for name in shapes if name.endswith("q_proj.weight"))
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], made.lm.state_dict()[name])
    tokens = [model.encode(TEXTS, 64)[0]["input_ids"] for model in (untrained(tmp_path, 1), made)]
    assert torch.equal(*tokens)
