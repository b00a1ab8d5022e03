"""Speed of a training step on a GPU: rows a second, MFU and memory a row, of XGLM-564M's shape and of a Llama's, ours
beside AFP's as its code runs it.

python -m benchmarks.training_gpu [--out DIR] [--toy]

A row is a pair of 32 tokens a side for the contrast at the middle layer and an instruction text of 512 tokens, the
second half of it the response: tokens are random and no row is padded, so nothing is gained by what real texts leave
empty. MFU is the floating-point operations that the step needs (products of weights and of causal attention, three
times the forward's, logits at the response alone, nothing computed twice) over what the largest of three bf16 matrix
products reaches in the same run. AFP's own figure is 30 rows/s, XGLM-564M at length 512 on an A800; its step here
(`benchmarks.afp`) contrasts the last tokens of layer 1, so it needs fewer operations than ours.

Our step is also run in each way that might be faster and is there: its blocks compiled, its cross-entropy in chunks or
by Liger's kernel, and, where the shape has a choice, other attention than the one transformers takes by itself. What
pays goes into the trainer, what does not is left out of it. Needs torch, transformers, pyarrow and pydantic, no corpus
and no network; flash-attn and liger-kernel are used where they are installed. --toy runs it all on any machine.
"""

import argparse
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

from alignment_train.models.model import Model
from alignment_train.objectives.contrastive import Contrastive
from benchmarks.afp import RAW, afp_loss

Loss = Callable[[Model, dict[str, Tensor], dict[str, Tensor]], Tensor]
"""Of a model, pairs and talks, as `batches` gives them."""
Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The mean cross-entropy of states [P, H], the head's weight [V, H] and labels [P]."""
AFP = "AFP's step"
CHUNK = 1024  # positions whose logits `chunked` holds


class Way(NamedTuple):
    """A way to run a step: what makes its loss, the layer of its contrast (None: the middle), and its attention."""

    prepare: Callable[[Model], Loss]
    layer: int | None = None
    attention: str | None = None
    """None: what transformers takes."""


class Size(NamedTuple):
    """What is run: shapes by name, tokens of an instruction text and of a side, rows a step, and steps timed."""

    shapes: dict[str, dict[str, Any]]
    length: int
    side: int
    rows: tuple[int, ...]
    steps: int
    matrix: int


FULL = Size(
    {
        "XGLM-564M": {
            "kind": "xglm", "vocab_size": 256_008, "d_model": 1024, "ffn_dim": 4096, "num_layers": 24,
            "attention_heads": 16,
        },
        "Llama of equal size": {
            "kind": "llama", "vocab_size": 256_008, "hidden_size": 1024, "intermediate_size": 2736,
            "num_hidden_layers": 24, "num_attention_heads": 16, "tie_word_embeddings": True,
        },
    },
    512, 32, (16, 32, 64), 10, 8192,
)  # fmt: skip
TOY = Size(
    {
        "xglm": {
            "kind": "xglm", "vocab_size": 500, "d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 2,
        },
        "llama": {
            "kind": "llama", "vocab_size": 500, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "tie_word_embeddings": True,
        },
    },
    16, 8, (2, 4), 2, 64,
)  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="folder for training_gpu.md and training_gpu.json")
    parser.add_argument("--toy", action="store_true", help="tiny models, to see that it runs; no figure counts")
    options = parser.parse_args(arguments)
    if not options.toy and not torch.cuda.is_available():
        print("This machine has no GPU: its figures are missing. Run it where there is one, or --toy.", file=sys.stderr)
        return 1
    found = measured(TOY if options.toy else FULL, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    text = report(found)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "training_gpu.md").write_text(text + "\n")
        (options.out / "training_gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


def measured(size: Size, device: torch.device) -> dict[str, Any]:
    """The peak, and of each shape and way of running it the figures at each number of rows."""
    peak = matmul_peak(size.matrix, device)
    runs: list[dict[str, Any]] = []
    for shape, settings in size.shapes.items():
        for name, way in ways(settings, device).items():
            for rows in size.rows:
                try:
                    runs.append({"shape": shape, "way": name, **timed(settings, way, rows, size, device, peak)})
                except torch.cuda.OutOfMemoryError:
                    runs.append({"shape": shape, "way": name, "rows": rows, "rows_per_second": None})
                print(runs[-1], file=sys.stderr, flush=True)
                gc.collect()  # a compiled block and its model refer to each other
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "length": size.length, "peak_flops": peak, "runs": runs}


def ways(settings: dict[str, Any], device: torch.device) -> dict[str, Way]:
    """AFP's step, ours, and ours in every way that this machine has for the shape."""
    out = {AFP: Way(lambda _: afp_loss, layer=1), "ours": Way(ours)}
    out["ours, cross-entropy in chunks"] = Way(partial(ours, head=chunked))
    if importlib.util.find_spec("liger_kernel") and device.type == "cuda":
        out["ours, Liger's cross-entropy"] = Way(partial(ours, head=fused))
    if device.type == "cuda":
        out["ours, blocks compiled"] = Way(compiled)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.for_model(settings["kind"]))]
    if kind._supports_sdpa:  # else all of it is eager
        out["ours, eager attention"] = Way(ours, attention="eager")
    if kind._supports_flash_attn and importlib.util.find_spec("flash_attn") and device.type == "cuda":
        out["ours, FlashAttention"] = Way(ours, attention="flash_attention_2")
    return out


def matmul_peak(size: int, device: torch.device) -> float:
    """Floating-point operations a second of the best of three square bf16 products of random matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for times in (1, 20, 20, 20):  # the first run warms up
        synchronise(device)
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(a, b)
        synchronise(device)
        best = max(best, times * 2 * size**3 / (time.perf_counter() - began))
    return best


def timed(
    settings: dict[str, Any], way: Way, rows: int, size: Size, device: torch.device, peak: float
) -> dict[str, Any]:
    """Steps of bfloat16 under autocast with weights and AdamW in float32, as train.py runs them."""
    model = shaped(settings, size.length, device, way.attention)
    loss = way.prepare(model)
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=1e-5, fused=True)
    pairs, talks = batches(model, rows, size, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            found = loss(model, pairs, talks)
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.lm.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    for _ in range(3):
        step()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(size.steps):
        step()
    synchronise(device)
    seconds = (time.perf_counter() - began) / size.steps
    needed = flops(model, rows, size, way.layer)
    out = {"rows": rows, "rows_per_second": rows / seconds, "flops": needed, "mfu": needed / seconds / peak}
    if device.type == "cuda":
        fixed = 16 * sum(p.numel() for p in model.lm.parameters())  # weights, gradients, two moments
        out["bytes_per_row"] = (torch.cuda.max_memory_allocated(device) - fixed) / rows
    return out


def shaped(settings: dict[str, Any], length: int, device: torch.device, attention: str | None = None) -> Model:
    """A random model that trains; no dropout is spared where the shape has it."""
    torch.manual_seed(0)
    kind, rest = settings["kind"], {name: value for name, value in settings.items() if name != "kind"}
    config = AutoConfig.for_model(kind, **rest, max_position_embeddings=2 * length, pad_token_id=1)
    tokenizer: Any = SimpleNamespace(pad_token_id=1)
    lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    return Model(lm.to(device).train(), tokenizer)


def batches(model: Model, rows: int, size: Size, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random pairs and instruction texts, as the objectives collate them."""
    draw = partial(torch.randint, 5, model.lm.config.vocab_size, device=device)
    pairs, talks = draw((2 * rows, size.side)), draw((rows, size.length))
    labels = talks.clone()
    labels[:, : size.length // 2] = -100
    texts = torch.arange(2 * rows, device=device).view(rows, 2)  # none is another
    return (
        {"input_ids": pairs, "attention_mask": torch.ones_like(pairs), "texts": texts},
        {"input_ids": talks, "attention_mask": torch.ones_like(talks), "labels": labels},
    )


def flops(model: Model, rows: int, size: Size, layer: int | None = None) -> float:
    """Operations that a step needs: 2 a weight and token, and 2 T H a block and token for causal attention; times 3.

    layer: of the contrast; None is the middle.
    """
    blocks, width = len(model.blocks), model.lm.config.hidden_size
    block = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 2)
    head = model.lm.get_output_embeddings().weight.numel()

    def through(tokens: int, length: int, count: int) -> float:
        return tokens * count * (2 * block + 2 * length * width)

    pairs = through(2 * rows * size.side, size.side, blocks // 2 if layer is None else layer)
    answers = rows * (size.length - size.length // 2)
    return 3 * (pairs + through(rows * size.length, size.length, blocks) + 2 * answers * head)


def ours(_: Model, head: Head | None = None) -> Loss:
    """Contrast at the middle layer and the loss of the response; `head` makes it of states, else the trainer does."""

    def loss(model: Model, pairs: dict[str, Tensor], talks: dict[str, Tensor]) -> Tensor:
        contrast = Contrastive.model_validate({"rows": len(talks["input_ids"]), **RAW}).loss(model, pairs)[0]
        if head is None:
            return contrast + 1.5 * model.language_model_loss(talks)
        labels = talks["labels"][:, 1:]
        states = model.hidden(talks["input_ids"], talks["attention_mask"], len(model.blocks))[:, :-1]
        given = states[labels != -100], model.lm.get_output_embeddings().weight, labels[labels != -100]
        return contrast + 1.5 * head(*given)

    return loss


def compiled(model: Model) -> Loss:
    """Each block by torch.compile; the hooks that end a forward pass early stay outside of it."""
    for block in model.blocks:
        block.forward = torch.compile(block.forward)
    return ours(model)


def chunked(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The logits of CHUNK positions at a time, computed again in the backward pass."""

    def total(states: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(states, weight).float(), labels, reduction="sum")

    parts = zip(states.split(CHUNK), labels.split(CHUNK), strict=True)
    return torch.stack([checkpoint(total, *part, use_reentrant=False) for part in parts]).sum() / len(labels)


def fused(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Liger's kernel, which never holds all logits (arXiv 2410.10989)."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]

    return LigerFusedLinearCrossEntropyLoss()(weight, states, labels)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def report(found: dict[str, Any]) -> str:
    header = ("shape, way", "rows a step", "rows/s", "x AFP's step", "MFU", "MiB a row")
    lines = [header, ("---", *["---:"] * 5)]
    for run in found["runs"]:
        speed = run["rows_per_second"]
        theirs = [r["rows_per_second"] for r in found["runs"] if (r["shape"], r["way"]) == (run["shape"], AFP)]
        fastest = max(filter(None, theirs), default=None)
        figures = (
            ("out of memory", "–", "–", "–")
            if speed is None
            else (
                f"{speed:.1f}",
                f"{speed / fastest:.2f}" if fastest else "–",
                f"{100 * run['mfu']:.0f} %",
                f"{run['bytes_per_row'] / 2**20:,.0f}" if "bytes_per_row" in run else "–",
            )
        )
        lines.append((f"{run['shape']}, {run['way']}", str(run["rows"]), *figures))
    return "\n\n".join(
        [
            f"`python -m benchmarks.training_gpu`: {found['device']}, torch {found['torch']}, bfloat16, length "
            f"{found['length']}, bf16 matrix products at {found['peak_flops'] / 1e12:.1f} TFLOP/s.",
            "\n".join("| " + " | ".join(line) + " |" for line in lines),
            "Ratios are to AFP's step at its fastest number of rows. Asked on one H100 or H200: 150 rows/s "
            "of XGLM-564M, 45 % MFU of the Llama. AFP's figure on an A800: 30.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
