"""Memory of a training step and of evaluation with a vocabulary of 262,144 tokens: Gemma 3 270M's shape, random.

python -m benchmarks.memory [--case NAME]

A step is forward and backward of next-token loss over 16 rows of 64 tokens. Each case runs in a process of its own,
which states the peak of its resident memory above what it held before the step, weights included.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from alignment_train.evaluation.lm import LM
from alignment_train.models.model import Model
from alignment_train.models.seed import train_tokenizer
from alignment_train.training import heap
from alignment_train.training.trainable import checkpoint_blocks, freeze
from benchmarks.table import markdown
from pipelines.storage.meter import Meter

ROWS, LENGTH = 16, 64
SHAPE: dict[str, Any] = {
    "num_hidden_layers": 18, "hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=CASES, help="run this one here and print JSON (default: all, as a table)")
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(CASES[options.case]()))
        return 0
    rows = []
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.memory", "--case", case]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(
            [case, *(f"{found[name]:,.0f}" for name in ("before", "above", "gradients")), f"{found['seconds']:.1f}"]
        )
    print(markdown(["case", "MiB before", "MiB above it at peak", "of which gradients", "seconds"], rows))
    return 0


def gemma() -> Model:
    """The model and a tokenizer of a few words, whose ids it has embeddings of."""
    words = ["one two three four five six seven eight nine ten"] * 20
    tokenizer = train_tokenizer(iter(words), 300)
    torch.manual_seed(0)
    shape: Any = SHAPE
    config = Gemma3TextConfig(**shape, bos_token_id=1, eos_token_id=2, pad_token_id=3, max_position_embeddings=2048)
    return Model(Gemma3ForCausalLM(config), tokenizer)


def step(precision: str, blocks_only: bool, checkpointing: bool = False) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        model = gemma()
        heap.retain_freed_memory(max(weight.nbytes for weight in model.lm.parameters()))
        model.lm.train()
        _ = model.head_kind
        freeze(model, "blocks" if blocks_only else "all")
        if checkpointing:
            checkpoint_blocks(model)
        ids = torch.randint(4, SHAPE["vocab_size"], (ROWS, LENGTH))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        meter = Meter()
        before, began = resident(), time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model.language_model_loss(batch)
        loss.backward()
        gradients = sum(p.grad.nbytes for p in model.lm.parameters() if p.grad is not None)
        return figures(before, meter, gradients, began)

    return run


def evaluation() -> dict[str, float]:
    model = gemma()
    model.lm.to(torch.bfloat16)
    lm = LM(model, 9, 256, torch.device("cpu"))
    texts = [f"one two three four five {i} six seven eight nine ten" * (1 + i % 4) for i in range(64)]
    meter = Meter()
    before, began = resident(), time.perf_counter()
    lm.loss(texts)
    lm.loglikelihood([(text, " one two") for text in texts])
    lm.generate(texts, [], 16)
    lm.embed(texts, list(range(19)), "mean")
    return figures(before, meter, 0, began)


def figures(before: int, meter: Meter, gradients: int, began: float) -> dict[str, Any]:
    mib = 2**20
    return {
        "before": before / mib,
        "above": (meter.peak_bytes() - before) / mib,
        "gradients": gradients / mib,
        "seconds": time.perf_counter() - began,
    }


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        f"{precision}, {'blocks' if blocks else 'all'} trained{', checkpointing' if checkpointing else ''}": step(
            precision, blocks, checkpointing
        )
        for precision in ("bfloat16", "float32")
        for blocks in (True, False)
        for checkpointing in (False, True)
    },
    "evaluation in bfloat16": evaluation,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
