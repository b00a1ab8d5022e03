import logging

import pytest
import torch

from alignment_train.objectives import _next_token
from alignment_train.objectives.instruction import Instruction
from alignment_train.objectives.language_model import LanguageModel
from tests.support.models import bitext, tiny

ROWS = bitext(12).to_pylist()
TALKS = [
    {"messages": [{"role": "user", "content": row["src"]}, {"role": "assistant", "content": row["tgt"]}]}
    for row in ROWS
]
TEXTS = [{"text": row["src"] + " " + row["tgt"] if i % 3 else row["src"]} for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(("kind", "rows"), [(Instruction, TALKS), (LanguageModel, TEXTS)], ids=["talks", "texts"])
@pytest.mark.parametrize("family", ["llama", "xglm"])
def test_the_loss_is_the_same_packed(kind, rows, family: str):
    model = tiny(family)
    padded, packed = (kind.model_validate({"rows": 12, "pack": pack}) for pack in (False, True))
    one, two = padded.collate(rows, model, 64), packed.collate(rows, model, 64)
    assert len(two["input_ids"]) < len(one["input_ids"]) == 12
    assert int(two["attention_mask"].sum()) == int(one["attention_mask"].sum())
    (expected, none), (found, figures) = padded.loss(model, one), packed.loss(model, two)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (none, figures) == ({}, {"texts_per_row": 12 / len(two["input_ids"])})


def test_only_rows_of_one_text_each_are_sorted_by_length():
    model = tiny()
    assert LanguageModel.model_validate({"pack": True}).token_lengths(TEXTS, model) == [0] * 12
    assert len(set(LanguageModel.model_validate({}).token_lengths(TEXTS, model))) > 1


def test_a_model_that_takes_no_packed_rows_gets_a_row_a_text_and_the_log_says_so(caplog: pytest.LogCaptureFixture):
    model, item = tiny("bloom"), Instruction.model_validate({"pack": True, "rows": 12})
    with caplog.at_level(logging.WARNING):
        item.setup(model, bitext(1))
    assert "instruction.pack: BloomForCausalLM can keep no texts of a row apart" in caplog.text
    batch = item.collate(TALKS, model, 64)
    assert "position_ids" not in batch
    assert item.token_lengths(TALKS, model) == [9] * 12
    assert item.loss(model, batch)[1] == {"texts_per_row": 1.0}


@pytest.mark.parametrize("pack", [False, True])
def test_long_rows_run_a_few_at_a_time_have_together_the_loss_and_gradient_of_all(monkeypatch, pack: bool):
    model, item = tiny("llama"), LanguageModel.model_validate({"rows": 12, "pack": pack})
    batch = item.collate(TEXTS, model, 24)
    assert item.microbatches(batch) == [batch]
    rows, tokens = batch["input_ids"].shape
    monkeypatch.setattr(_next_token, "SQUARE", 2 * tokens**2)
    parts = item.microbatches(batch)
    assert [len(part["input_ids"]) for part in parts] == [2] * (rows // 2) + [1] * (rows % 2)
    found, (whole, _) = 0.0, item.loss(model, batch)
    expected = torch.autograd.grad(whole, list(model.lm.parameters()))
    for part in parts:
        own = item.count(part) / item.count(batch)
        loss, _ = item.loss(model, part)
        (own * loss).backward()
        found += own * loss.item()
    assert found == pytest.approx(whole.item(), rel=1e-6)
    for parameter, gradient in zip(model.lm.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_a_portion_without_a_label_is_left_out(monkeypatch):
    model, item = tiny("llama"), LanguageModel.model_validate({"rows": 12})
    batch = item.collate(TEXTS, model, 24)
    batch["labels"][:4] = -100
    monkeypatch.setattr(_next_token, "SQUARE", 1)
    assert [len(part["labels"]) for part in item.microbatches(batch)] == [1] * 8
    batch["labels"][:] = -100
    assert item.microbatches(batch) == [batch]
