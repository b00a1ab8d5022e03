from pathlib import Path

import pytest
import torch

from alignment_train.model import choose_device, choose_precision, load, untrained
from tests.models import SHAPES, bitext, tiny

TEXTS = [*bitext(5)["tgt"].to_pylist(), "nine", "one two three four five six seven eight"]


@pytest.mark.parametrize("kind", SHAPES)
def test_a_truncated_forward_gives_the_hidden_state_of_the_whole_one(kind: str):
    model = tiny(kind)
    batch, _ = model.encode(TEXTS, 64)
    states = model.hidden_states(batch["input_ids"], batch["attention_mask"])
    assert len(states) == 4
    real = batch["attention_mask"].bool()
    for layer in range(4):
        cut = model.hidden(batch["input_ids"], batch["attention_mask"], layer)
        assert torch.allclose(cut[real], states[layer][real], atol=1e-6), layer


@pytest.mark.parametrize("kind", SHAPES)
def test_logits_at_chosen_positions_are_those_of_the_whole_model(kind: str):
    model = tiny(kind)
    batch, _ = model.encode(TEXTS, 64)
    wanted = batch["attention_mask"].bool() & (torch.arange(batch["input_ids"].shape[1]) % 2 == 0)
    whole = model.lm(**batch, use_cache=False).logits
    assert torch.allclose(model.logits(batch["input_ids"], batch["attention_mask"], wanted), whole[wanted], atol=1e-5)


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
    with pytest.raises(ValueError, match=r"train.base .*nothing: cannot be loaded: .*Allowed: 'seed', a local folder"):
        load(tmp_path / "nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_but_absent_is_an_error():
    with pytest.raises(ValueError, match="--device cuda: this machine has no usable GPU"):
        choose_device("cuda")


def test_a_precision_that_is_named_is_taken():
    assert choose_precision("float32", torch.device("cpu")) == "float32"
    assert choose_precision("bfloat16", torch.device("cpu")) == "bfloat16"


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
