"""Our losses on the weights and inputs of tests/data/parity are those that the papers' own code computed there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment_train.losses import info_nce, pool
from alignment_train.models.model import Model

PARITY = Path(__file__).parent / "data" / "parity"


def open_case(kind: str, name: str) -> tuple[Model, dict]:
    folder = PARITY / kind / name
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    head: Any = lm.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # the papers' heads were untied
    return Model(lm, None), json.loads((folder / "expected.json").read_text())  # type: ignore[arg-type]


def grad_norm(model: Model, loss: torch.Tensor) -> float:
    model.lm.zero_grad()
    loss.backward(retain_graph=True)
    return float(torch.stack([p.grad.norm() for p in model.lm.parameters() if p.grad is not None]).norm())


@pytest.mark.parametrize("name", ["llama-last-1", "xglm-avg-2", "xglm-last-1"])
def test_afp_loss_and_gradient_are_those_of_its_code(name: str):
    model, case = open_case("afp", name)
    pooling, layer = case["pooler"].split("-")
    ids, mask = (torch.tensor(case[key]).transpose(0, 1).flatten(0, 1) for key in ("input_ids", "attention_mask"))
    src, tgt = pool(model.hidden(ids, mask, int(layer)), mask, "last" if pooling == "last" else "mean").chunk(2)
    contrast = info_nce(src, tgt, case["temperature"], "src_to_tgt")
    blocks = torch.tensor(case["instruction_input_ids"])
    batch = {
        "input_ids": blocks,
        "attention_mask": torch.ones_like(blocks),
        "labels": torch.tensor(case["instruction_labels"]),
    }
    instruction = model.language_model_loss(batch)
    total = contrast + case["instruction_weight"] * instruction

    assert contrast.item() == pytest.approx(case["contrastive_loss"], rel=1e-5)
    assert instruction.item() == pytest.approx(case["instruction_loss"], rel=1e-5)
    assert total.item() == pytest.approx(case["total_loss"], rel=1e-5)
    assert grad_norm(model, total) == pytest.approx(case["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("name", ["llama-layer-2", "qwen2-layer-2"])
def test_mid_align_loss_and_gradient_are_those_of_its_code(name: str):
    model, case = open_case("midalign", name)
    src, tgt = (
        pool(model.hidden(ids, mask, case["layer"]), mask, "mean")
        for ids, mask in (
            (torch.tensor(case[f"{side}_input_ids"]), torch.tensor(case[f"{side}_attention_mask"]))
            for side in ("source", "target")
        )
    )
    alignment = info_nce(src, tgt, case["temperature"], "src_to_tgt")
    names = ("input_ids", "attention_mask", "labels")
    task = model.language_model_loss({name: torch.tensor(case[f"task_{name}"]) for name in names})

    assert alignment.item() == pytest.approx(case["alignment_loss"], rel=1e-5)
    assert task.item() == pytest.approx(case["task_loss"], rel=1e-5)
    assert grad_norm(model, alignment) == pytest.approx(case["alignment_grad_norm"], rel=1e-3)
    assert grad_norm(model, alignment + task) == pytest.approx(case["joint_grad_norm"], rel=1e-3)
