import json

import pytest
import torch

from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.training.flops import Flops, peak
from tests.support.models import tiny
from tests.test_train import PARTS, plan, run

CPU = torch.device("cpu")


def count(objective, rows: int = 8, **model) -> tuple[float, int, int]:
    """FLOPs a token, by the counter; tokens with padding; real ones."""
    made, flops = tiny(**model), Flops()
    batch = objective.collate(PARTS[objective.reads].slice(0, rows).to_pylist(), made, 32)
    objective.loss(made, batch)  # the model asks itself once whether its head is plain
    with flops.counting(objective.name, batch["attention_mask"]) as forward_done:
        loss, _ = objective.loss(made, batch)
        forward_done()
        loss.backward()
    return flops.per_token[objective.name], batch["attention_mask"].numel(), int(batch["attention_mask"].sum())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_token_costs_six_flops_for_each_weight_it_meets_and_twelve_for_each_it_attends_to(attention: str):
    objective = LanguageModel.model_validate({"rows": 8})
    found, places, real = count(objective, attn_implementation=attention)
    made = tiny(attn_implementation=attention)
    length, width = places // 8, 16
    blocks = sum(p.numel() for block in made.blocks for p in block.parameters() if p.ndim == 2)
    head = made.lm.lm_head.weight.numel()  # at the real positions that predict
    attended = 3 * 12 * length * width * places
    wanted = 6 * blocks * places + 6 * head * (real - 8) + attended
    assert found == pytest.approx(wanted / places, rel=0.01)


def test_the_forward_pass_ends_at_the_layer_and_is_counted_once_when_run_twice():
    made = tiny()
    found, places, _ = count(Contrastive.model_validate({"rows": 8, "layer": 2, "center": "none"}))
    blocks = sum(p.numel() for block in made.blocks[:2] for p in block.parameters() if p.ndim == 2)
    assert 6 * blocks < found < 7.5 * blocks  # and attention, and the contrast itself
    chunked, again, _ = count(Contrastive.model_validate({"rows": 8, "layer": 2, "center": "none", "chunk": 8}))
    assert again == places
    assert chunked == pytest.approx(found, rel=0.01)


def test_only_the_first_micro_batch_is_counted():
    flops = Flops()
    for size in (4, 8):
        weight = torch.ones(size, size, requires_grad=True)
        with flops.counting("a", torch.ones(2, 5)) as forward_done:
            loss = (torch.ones(size, size) @ weight).sum()
            forward_done()
            loss.backward()
    assert flops.per_token == {"a": 2 * (2 * 4**3) / 10}
    assert flops.needed({"a": 7}) == pytest.approx(7 * 25.6)
    assert flops.needed({}) == 0


def test_a_slow_first_matmul_is_no_peak(monkeypatch):
    clock, taken = [0.0], [0.25]  # seconds: as long as MKL's threads took to start

    def multiply(one, other):
        clock[0] += taken.pop() if taken else 0.01

    monkeypatch.setattr("alignment_train.training.flops.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("alignment_train.training.flops.torch.mm", multiply)
    assert peak.__wrapped__(CPU, torch.float32) == pytest.approx(2 * 768**3 / 0.01)


def test_the_peak_is_that_of_the_fastest_matmul_and_measured_once():
    assert 1e8 < peak(CPU, torch.float32) < 1e14
    assert peak(CPU, torch.float32) == peak(CPU, torch.float32)


def test_on_a_cpu_nothing_is_counted_and_tokens_a_second_stand_alone(tmp_path, monkeypatch):
    def unasked(*_):
        raise AssertionError("no peak of a CPU")

    monkeypatch.setattr("alignment_train.training.loop.peak", unasked)
    run(tmp_path, plan(2))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert all(line["tokens_per_second"] > 0 and "mfu" not in line for line in lines)
    flops = Flops(counts=False)
    with flops.counting("a", torch.ones(1, 1)) as forward_done:
        forward_done()
    assert flops.needed({"a": 7}) == 0
