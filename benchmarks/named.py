"""Speed of training steps and of retrieval on a model of files, in one precision: benchmarks.training --model.

Steps, all with LoRA on every linear layer of every block, or all weights (--lora 0), and the same optimiser:

AFP's step   as benchmarks.training has it: contrast at layer 1, all blocks and states; logits at all positions.
Trainer      transformers.Trainer with our loss in the ways of its documentation: `output_hidden_states` and `labels`.
ours         AFP's loss, and the loss of assets/recipes/gemma.yaml: contrast at 0.61 of the depth, instructions beside.

Retrieval: the eval of that name over nine languages and all layers, beside forward passes of the same batches alone, by
autocast and with the weights in bfloat16.
"""

import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from alignment_train import losses
from alignment_train.evaluation.lm import LM
from alignment_train.layers import layer_index
from alignment_train.models.adapter import Adapter
from alignment_train.models.model import Model
from alignment_train.settings import Base, Lora
from benchmarks.table import markdown
from pipelines.evals._bitext import questions
from pipelines.evals.retrieval import Retrieval
from pipelines.languages import Pair, pivot

LAYER = 0.61
CONTRAST = {"layer": LAYER, "pooling": "mean", "temperature": 0.1}
FIRST = {"layer": 1, "pooling": "last", "temperature": 0.05, "direction": "src_to_tgt"}
WEIGHT = 1.5  # of the instructions, in all steps
RATE = 1e-5
SEED = 0


def steps(
    model: Model, bitext: pa.Table, talks: pa.Table, precision: str, lora: int, length: int, work: Path, turns: int
) -> dict[str, dict[str, float]]:
    """Rows a second of each step over all rows, in turns. The model is trained and has an adapter afterwards."""
    from benchmarks.training import afp, descend, ours

    if lora:
        Adapter.create(model, Lora.model_validate({"r": lora}), Base.model_validate({"seed": {}}), SEED)
    model.lm.train()
    trainable = [p for p in model.lm.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=RATE, fused=True)
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def ways(bitext: pa.Table, talks: pa.Table) -> dict[str, Iterator[int]]:
        return {
            "AFP's step, 4 rows": afp(model, bitext, talks, 4, concatenated=True),
            "AFP's step, 8 rows": afp(model, bitext, talks, 8, concatenated=True),
            "ours, AFP's loss, 8 rows": ours(model, bitext, talks, {**FIRST, "rows": 8}, {"rows": 8}),
            "ours, 8 rows": ours(model, bitext, talks, {**CONTRAST, "rows": 8}, {"rows": 8}),
            "ours, 32 rows": ours(model, bitext, talks, {**CONTRAST, "rows": 32}, {"rows": 32}),
        }

    trainers = {"transformers.Trainer, 8 rows": 8, "transformers.Trainer, 32 rows": 32}
    spent = dict.fromkeys((*ways(bitext, talks), *trainers), 0.0)
    done = dict.fromkeys(spent, 0)
    with autocast:
        for step in ways(bitext, talks).values():
            descend(model, optimiser, step)  # what is made at a first step is not what is measured

    def told(turn: int, name: str) -> None:
        speed = f"{done[name] / spent[name]:.2f} rows/s"
        print(f"{turn + 1} of {turns}, {name}: {speed}", file=sys.stderr, flush=True)

    each = bitext.num_rows // turns
    for turn in range(turns):
        some = bitext.slice(turn * each, each).combine_chunks(), talks.slice(turn * each, each)
        for name, step in ways(*some).items():
            began = time.perf_counter()
            with autocast:
                while rows := descend(model, optimiser, step):
                    done[name] += rows
            spent[name] += time.perf_counter() - began
            told(turn, name)
        for name, rows in trainers.items():
            seconds, count = trained(model, *some, rows, precision, length, work)
            spent[name], done[name] = spent[name] + seconds, done[name] + count
            told(turn, name)
    return {name: {"rows": done[name], "rows_per_second": done[name] / spent[name]} for name in spent}


class ContrastTrainer(Trainer):
    """Contrast and instructions as one writes them with transformers alone."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        pairs, talks = inputs["pairs"], inputs["talks"]
        states = model(**pairs, output_hidden_states=True, use_cache=False).hidden_states
        layer = layer_index(LAYER, len(states) - 1)
        src, tgt = losses.pool(states[layer], pairs["attention_mask"], "mean").chunk(2)
        logits = model(input_ids=talks["input_ids"], attention_mask=talks["attention_mask"], use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), talks["labels"][:, 1:].flatten())
        loss = losses.info_nce(src, tgt, CONTRAST["temperature"], "both") + WEIGHT * loss
        return (loss, None) if return_outputs else loss


class Clock(TrainerCallback):
    """Seconds from the begin of the first step to the end of the last."""

    began, ended = 0.0, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


def trained(
    model: Model, bitext: pa.Table, talks: pa.Table, rows: int, precision: str, length: int, work: Path
) -> tuple[float, int]:
    """Seconds and rows of Trainer's epoch over the rows; texts are tokenised before."""
    from benchmarks.training import spelt

    sides = [model.tokenizer(bitext[side].to_pylist())["input_ids"] for side in ("src", "tgt")]
    src, tgt = ([row[:length] for row in side] for side in sides)
    ids, labels = spelt(model, talks)

    def collate(items: list[int]) -> dict[str, dict[str, Tensor]]:
        pairs = model.pad([side[i] for side in (src, tgt) for i in items])
        talks = model.pad([ids[i] for i in items], [labels[i] for i in items])
        return {"pairs": {name: pairs[name] for name in ("input_ids", "attention_mask")}, "talks": talks}

    arguments = TrainingArguments(
        output_dir=str(work / "trainer"),
        per_device_train_batch_size=rows,
        num_train_epochs=1,
        learning_rate=RATE,
        bf16=precision == "bfloat16",
        use_cpu=model.device.type == "cpu",
        optim="adamw_torch_fused",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
    )
    clock = Clock()
    numbers: Any = range(bitext.num_rows)
    trainer = ContrastTrainer(model.lm, arguments, data_collator=collate, train_dataset=numbers, callbacks=[clock])
    trainer.train()
    return clock.ended - clock.began, len(numbers) // rows * rows


def held_out(bitext: pa.Table, rows: int) -> pa.Table:
    """The eval's questions about BITEXT rows: of each pair `rows` at most."""
    batches = []
    src, tgt = bitext["src_lang"].to_pylist(), bitext["tgt_lang"].to_pylist()
    named = [Pair.parse(codes) for codes in sorted(set(zip(src, tgt, strict=True)))]
    for pair in named:
        own = [i for i, codes in enumerate(zip(src, tgt, strict=True)) if codes == tuple(pair)]
        batches += questions("retrieval", pair, bitext.take(own).combine_chunks(), rows, pivot(named))
    return pa.Table.from_batches(batches)


def retrieval(model: Model, texts: pa.Table, precision: str, length: int, repeats: int) -> dict[str, float]:
    """Seconds of the retrieval eval over all layers and of bare forward passes of its texts, the least of `repeats`."""
    cast = copy.deepcopy(model)  # an evaluation casts the weights in place
    lm = LM(cast, layer_index(LAYER, len(model.blocks)), length, model.device, precision=precision)
    distinct = list(dict.fromkeys(texts["text"].to_pylist()))
    batches = [batch for _, batch in lm._batches(distinct)]

    def forward(body: Any) -> None:
        for batch in batches:
            body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)

    runs: dict[str, Callable[[], Any]] = {
        "retrieval, all layers": lambda: Retrieval.model_validate({"source": {"sample": {}}}).run(lm, texts),
        "states of all layers alone": lambda: lm.embed(distinct, list(range(lm.num_layers + 1)), "mean"),
        "bare forward passes, autocast": lambda: forward(model.body),
        "bare forward passes, weights cast": lambda: forward(cast.body),
    }
    found = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            enabled = precision == "bfloat16" and name.endswith("autocast")
            began = time.perf_counter()
            with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=enabled):
                run()
            found[name] = min(found[name], time.perf_counter() - began)
            print(f"{name}: {found[name]:.1f} s", file=sys.stderr, flush=True)
    return found


def report(found: dict[str, Any]) -> str:
    speeds = {name: numbers["rows_per_second"] for name, numbers in found["steps"].items()}
    theirs = max(speed for name, speed in speeds.items() if name.startswith("AFP"))
    loops = max(speed for name, speed in speeds.items() if name.startswith("transformers"))
    cells = [[name, f"{speed:.2f}", f"{speed / theirs:.2f}", f"{speed / loops:.2f}"] for name, speed in speeds.items()]
    seconds = found["retrieval"]
    bare = min(value for name, value in seconds.items() if name.startswith("bare"))
    trains = f"LoRA of rank {found['lora']}" if found["lora"] else "all weights"
    return "\n\n".join(
        [
            f"`python -m benchmarks.training MIRROR --model {found['model']}`: {found['rows']:,} rows of opus8's "
            f"corpora, {found['parameters'] / 1e6:.0f}M parameters, {trains}, {found['precision']}, "
            f"{found['machine']}, {found['threads']} threads. Ratios are to the faster batch size of each. "
            f"Asked: 2 over AFP's step.",
            markdown(["a step", "rows/s", "x AFP's step", "x Trainer"], cells),
            f"{found['texts']:,} distinct held-out texts in {found['languages']} languages. Asked: at least 0.9 of the "
            f"speed of bare forward passes.",
            markdown(
                ["retrieval", "seconds", "speed, of bare forward passes"],
                [[name, f"{value:.1f}", f"{bare / value:.2f}"] for name, value in seconds.items()],
            ),
        ]
    )
