"""XSGD's contrastive pre-training of a prefix: its value by hand, what it trains, and what is left of it in the end."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel

from alignment_train.config import TrainConfig
from alignment_train.objectives.prompt import Prompt
from pipelines.config import validate
from tests.support.models import bitext, tiny
from tests.support.trained import assert_a_kill_changes_nothing, trained
from tests.test_prefix import by_hand, moved, own, prefixed

ROWS = [*bitext(4).to_pylist(), *bitext(1, 5).to_pylist(), *bitext(1, 5207318).to_pylist()]
TABLE = bitext(120)


def objective(**settings) -> Prompt:
    return Prompt.model_validate({"rows": 6, "layer": 2, "center": "none", **settings})


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "settings", [{}, {"pooling": "last", "direction": "src_to_tgt", "temperature": 0.5, "contrast_weight": 0.3}]
)
def test_the_loss_is_that_of_each_text_alone_after_the_keys_and_values_of_the_prefix(kind: str, settings: dict):
    model, bare, item = moved(kind), tiny(kind).lm, objective(**settings)
    eos = model.tokenizer.eos_token_id
    nats, states = [], []
    for text in [row["src"] for row in ROWS] + [row["tgt"] for row in ROWS]:
        ids = model.tokenizer(text)["input_ids"]
        ids = ids[:-1] if ids[-1] == eos else ids
        first = 1 if ids[0] in (model.tokenizer.bos_token_id, eos) else 0
        out = by_hand(model, bare, torch.tensor([[*ids, eos]]))
        logs = out.logits[0].log_softmax(-1)
        nats += [-logs[t - 1, token] for t, token in enumerate([*ids, eos]) if t >= max(first, 1)]
        read = out.hidden_states[2][0, first : len(ids)]  # without BOS and EOS
        states.append(read[-1] if item.pooling == "last" else read.sum(0) / len(read))
    batch = item.collate(ROWS, model, 64)
    assert batch["attention_mask"].sum(1).unique().numel() > 1  # there is padding
    loss, metrics = item.loss(model, batch)
    src, tgt = F.normalize(torch.stack(states), dim=-1).chunk(2)
    terms = []
    for one, other in [(src, tgt), (tgt, src)][: 1 if item.direction == "src_to_tgt" else 2]:
        for i in range(6):
            logits = [(one[i] @ other[j]).item() / item.temperature for j in range(6)]
            terms.append(math.log(sum(map(math.exp, logits))) - logits[i])
    language, contrast = torch.stack(nats).mean().item(), sum(terms) / len(terms)
    assert metrics == pytest.approx({"language_model": language, "contrast": contrast}, rel=1e-4)
    assert loss.item() == pytest.approx(language + item.contrast_weight * contrast, rel=1e-4)
    assert contrast > 0.5


def test_a_repeated_sentence_is_no_negative():
    model, item = moved(), objective()
    rows = [*ROWS[:5], {**ROWS[5], "tgt": ROWS[0]["tgt"]}]
    batch = item.collate(rows, model, 64)
    _, apart = item.loss(model, {**batch, "same": torch.eye(6, dtype=torch.bool)})
    assert item.loss(model, batch)[1]["contrast"] < apart["contrast"]


def test_texts_are_cut_where_the_eos_would_stand():
    model, item = moved(), objective()
    batch = item.collate(ROWS, model, 6)
    assert batch["input_ids"].shape == batch["pooled"].shape == (12, 6)
    whole = item.collate(ROWS, model, 64)["attention_mask"].sum(1)
    assert batch["cut"] == (whole > 6).sum() > 0
    assert batch["pooled"].sum(1).max() == 5
    kept = objective(special_tokens=True).collate(ROWS, model, 6)
    assert kept["pooled"].sum(1).max() == 6
    assert math.isfinite(item.loss(model, batch)[0].item())


def test_the_prefix_alone_is_trained_the_loss_falls_and_what_is_saved_gives_the_same_states(tmp_path: Path):
    model, _, reporter = trained(tmp_path, objective(), TABLE, 30, make=lambda: prefixed(length=8))
    fresh = tiny().lm.state_dict()
    assert all(torch.equal(model.lm.state_dict()[name], value) for name, value in fresh.items())
    assert model.lm.state_dict().keys() - fresh.keys() == {"prefix.default.embedding.weight"}
    assert not torch.allclose(own(model), own(prefixed(length=8)), atol=1e-2)
    first, last = (ends["prompt"] for ends in reporter.ends())
    assert last < 0.9 * first
    model.save(tmp_path / "saved")
    loaded = PeftModel.from_pretrained(tiny().lm, tmp_path / "saved")
    batch, _ = model.encode([row["src"] for row in ROWS], 64)
    with torch.no_grad():
        theirs = loaded(**batch, output_hidden_states=True)
        assert torch.equal(theirs.logits, model.lm(**batch).logits)
        found = model.hidden(batch["input_ids"], batch["attention_mask"], 2)
    assert torch.equal(theirs.hidden_states[2], found)


def test_a_killed_run_ends_as_an_unbroken_one(tmp_path: Path):
    assert_a_kill_changes_nothing(tmp_path, objective(), TABLE, prefixed)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({}, "found prompt without a prefix. Expected: adapter.prefix, which it trains. Fix: add adapter: {prefix: "),
        ({"adapter": {"lora": {}}}, "found prompt without a prefix"),
        ({"adapter": {"prefix": {}}, "objectives": [{"prompt": {"chunk": 4}}]}, "prompt.chunk: unknown key"),
        ({"adapter": {"prefix": {}}, "objectives": [{"prompt": {"layer": 9}}]}, "prompt.layer: found 9"),
    ],
)
def test_settings_that_cannot_be_are_told(train: dict, told: str):
    with pytest.raises(ValueError, match="recipe x") as caught:
        validate(TrainConfig, {"objectives": ["prompt"], **train}, "recipe x", "train")
    assert told in str(caught.value)


def test_it_is_what_the_control_goes_without():
    config = TrainConfig.model_validate({"objectives": ["prompt", "instruction"], "adapter": {"prefix": {}}})
    assert [item.name for item in config.control] == ["instruction"]
    assert config.layer == "middle"
