"""The benchmarks of training run from end to end on something tiny, and their figures follow from what they run."""

from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.state import AcceleratorState

from alignment_train.objectives import _next_token
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.instruction import Instruction
from benchmarks import named, recall, training, training_gpu
from benchmarks.afp import RAW, afp_loss
from benchmarks.training import afp, ours, pieces, spelt
from pipelines.instructions.translate import Translate
from tests.support.models import bitext, tiny

ROWS = bitext(24)
TALKS = pa.Table.from_batches([Translate().render(ROWS.combine_chunks().to_batches()[0], np.random.default_rng(0))])


def test_pieces_see_across_texts_and_lose_the_rest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "LENGTH", 4)
    ids, labels = [[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[-100, 2, 3], [-100, 5, 6], [-100, 8, 9]]
    batch = pieces(ids, labels, torch.device("cpu"))
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100], [5, 6, -100, 8]]
    assert pieces(ids[:1], labels[:1], torch.device("cpu"))["input_ids"].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("square", [_next_token.SQUARE, 1], ids=["whole", "in portions"])
def test_afp_s_step_with_a_padded_row_a_text_has_the_gradient_that_our_objectives_have(monkeypatch, square: int):
    monkeypatch.setattr(_next_token, "SQUARE", square)
    one, other = tiny("xglm"), tiny("xglm")
    settings = {"layer": 1, "pooling": "last", "temperature": 0.05, "direction": "src_to_tgt", "rows": 24}
    assert list(afp(one, ROWS, TALKS, 24, concatenated=False)) == [24]
    assert list(ours(other, ROWS, TALKS, settings, {"rows": 24})) == [24]
    for theirs, own in zip(one.lm.parameters(), other.lm.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_text_of_afp_s_pieces_sees_the_one_before_it():
    model = tiny("xglm")
    pairs = model.pad(model.tokenizer(ROWS["src"].to_pylist() + ROWS["tgt"].to_pylist())["input_ids"])
    ids, labels = spelt(model, TALKS.slice(0, 3))
    apart = afp_loss(model, pairs, model.pad(ids, labels)).item()
    assert abs(afp_loss(model, pairs, pieces(ids, labels, torch.device("cpu"))).item() - apart) > 1e-4
    one = slice(0, 1)
    alone = afp_loss(model, pairs, model.pad(ids[one], labels[one])).item()
    assert afp_loss(model, pairs, pieces(ids[one], labels[one], torch.device("cpu"))).item() == pytest.approx(alone)


def test_the_gpu_benchmark_runs_to_its_table():
    found = training_gpu.measured(training_gpu.TOY, torch.device("cpu"))
    here = ["AFP's step", "ours", "ours, cross-entropy in chunks"]
    wanted = [("xglm", way) for way in here] + [("llama", way) for way in [*here, "ours, eager attention"]]
    assert [(run["shape"], run["way"]) for run in found["runs"][::2]] == wanted
    assert [run["rows"] for run in found["runs"]] == [2, 4] * len(wanted)
    assert found["runs"][3]["flops"] == 2 * found["runs"][2]["flops"]
    for run in found["runs"]:
        run["rows_per_second"] = 30.0 if run["way"] == "ours" else 10.0 * run["rows"]
    found["runs"][0]["rows_per_second"] = None
    said = training_gpu.report(found)
    assert "| xglm, AFP's step | 2 | out of memory | – | – | – |" in said
    assert "| xglm, ours | 4 | 30.0 | 0.75 |" in said


def test_each_way_of_our_step_has_the_loss_that_the_objectives_have():
    device = torch.device("cpu")
    for settings in training_gpu.TOY.shapes.values():
        model = training_gpu.shaped(settings, 16, device)
        model.lm.eval()  # no dropout
        pairs, talks = training_gpu.batches(model, 4, training_gpu.TOY, device)
        contrast = Contrastive.model_validate({"rows": 4, **RAW}).loss(model, pairs)[0].item()
        wanted = contrast + 1.5 * model.language_model_loss(talks).item()
        for head in (None, training_gpu.chunked):
            assert training_gpu.ours(model, head)(model, pairs, talks).item() == pytest.approx(wanted, rel=1e-5)


def test_operations_are_those_of_a_count_by_hand():
    model = training_gpu.shaped(training_gpu.TOY.shapes["xglm"], 16, torch.device("cpu"))
    block = 4 * 32 * 32 + 2 * 32 * 64
    pairs = 2 * 3 * 8 * 1 * (2 * block + 2 * 8 * 32)
    texts = 3 * 16 * 2 * (2 * block + 2 * 16 * 32) + 3 * 8 * 2 * 500 * 32
    assert training_gpu.flops(model, 3, training_gpu.TOY) == 3 * (pairs + texts)


def test_the_time_to_a_recall_is_that_of_the_first_point_that_has_it():
    points = [(1.0, 0.1), (2.0, 0.4), (3.0, 0.3)]
    assert [recall.reached(points, wanted) for wanted in (0.05, 0.2, 0.5)] == [1.0, 2.0, None]
    curves = {name: [points] for name in (recall.OURS, recall.THIRD, recall.MID_ALIGN, recall.AFP)}
    found = {"curves": curves, "losses": {name: [4.2] for name in curves}, "base": 0.1, "base loss": 4.0}
    said = recall.report({**found, "pivot": "eng_Latn", "recipe": "r", "machine": "m"})
    assert "In a third of the time ours reaches what mid-align's settings end with (30.0 % against 30.0 %)" in said
    assert "nats per token of English" in said
    assert "| ours | 3 | 30.0 % | 30.0 % to 30.0 % | 2 | 4.200 |" in said


def test_what_a_method_costs_is_the_loss_of_the_pivots_sentences_each_once():
    class Fake:
        def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            assert texts == ["one", "three"]
            return np.array([6.0, 4.0]), np.array([3, 2])

    sides = {"src": ["eins", "un", "three"], "tgt": ["one", "one", "trois"]}
    langs = {"src_lang": ["deu_Latn", "fra_Latn", "eng_Latn"], "tgt_lang": ["eng_Latn", "eng_Latn", "fra_Latn"]}
    assert recall.loss(cast("Any", Fake()), pa.table({**sides, **langs}), "eng_Latn") == 2.0


@pytest.mark.parametrize("lora", [2, 0])
def test_a_named_model_is_measured_to_its_table(lora: int, tmp_path):
    model = tiny()
    texts = named.held_out(ROWS, 10)
    assert texts.num_rows == 20
    seconds = named.retrieval(model, texts, "bfloat16", 64, repeats=1)
    rows, talks = bitext(64), pa.concat_tables([TALKS, TALKS, TALKS]).slice(0, 64)
    try:
        steps = named.steps(model, rows, talks, "bfloat16", lora, 64, tmp_path, turns=2)
    finally:  # Trainer leaves its precision behind, for every later Accelerator of the process
        AcceleratorState._reset_state(reset_partial_state=True)
    assert {step["rows"] for step in steps.values()} == {64}
    found = {"model": "m", "rows": 64, "parameters": 1e6, "precision": "bfloat16", "machine": "x", "threads": 1}
    said = named.report({**found, "lora": lora, "texts": 20, "languages": 2, "retrieval": seconds, "steps": steps})
    assert "| ours, 32 rows |" in said
    assert "| transformers.Trainer, 32 rows |" in said
    assert "| retrieval, all layers |" in said


def test_the_trainer_s_loss_is_that_of_our_objectives(tmp_path):
    model = tiny()
    pairs = model.pad(model.tokenizer(ROWS["src"].to_pylist() + ROWS["tgt"].to_pylist())["input_ids"])
    batch = {
        "pairs": {name: pairs[name] for name in ("input_ids", "attention_mask")},
        "talks": model.pad(*spelt(model, TALKS)),
    }
    found = named.ContrastTrainer.compute_loss(cast("Any", None), model.lm, batch)
    item = Contrastive.model_validate({**RAW, **named.CONTRAST, "rows": 24})
    contrast = item.loss(model, item.collate(ROWS.to_pylist(), model, 64))[0]
    talk = Instruction.model_validate({"rows": 24})
    wanted = contrast + 1.5 * talk.loss(model, talk.collate(TALKS.to_pylist(), model, 512))[0]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
