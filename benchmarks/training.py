"""Speed of a training step on the CPU: ours beside AFP's as its code runs it, on the same rows, model and precision.

python -m benchmarks.training MIRROR [--rows N] [--work DIR] [--out DIR]
python -m benchmarks.training MIRROR --model FOLDER [--precision bfloat16] [--lora R] ...: benchmarks.named

MIRROR is a folder in the layout of an OPUS server; rows are drawn evenly over the pairs of opus8.yaml, and a row is a
pair for the contrast and an instruction made of it. The model is XGLM's shape at 35M parameters, random, in float32.

AFP's step (github.com/chongli17/CrossLingualAlignment, src/train.py and src/decoder_models.py at 13dcc1b): the pairs of
a batch padded to its longest and run through all blocks with all hidden states kept, the last token of
hidden_states[1]; the instruction texts concatenated and cut into pieces of 512 tokens that see across texts, what is
left after the last whole piece dropped; logits at all positions; optimised as ours. Its texts are tokenised before the
clock starts, ours within the step, as train.py does. The variants take turns of a part of the rows, so that other work
on the machine meets all of them.
"""

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from alignment_train.models.model import Model
from alignment_train.models.seed import sentences, train_tokenizer
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.instruction import Instruction
from alignment_train.training import heap
from alignment_train.training.data import Rows, conversations
from benchmarks.afp import RAW, afp_loss
from benchmarks.rival import WORK, machine, measured
from benchmarks.table import markdown
from pipelines.config import read_recipe
from pipelines.instructions.translate import Translate
from pipelines.languages import opus_codes
from pipelines.schema import bitext_batch

SHAPE = {"d_model": 512, "ffn_dim": 2048, "num_layers": 8, "attention_heads": 8}
VOCAB = 20_000  # with SHAPE 35.5M parameters, 29 % of them embeddings
SENTENCES = 30_000  # for the tokenizer
LENGTH = 512
TURNS = 8
SEED = 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("mirror", type=Path)
    parser.add_argument(
        "--rows", type=int, default=2_000, help="at least 64: two steps of the largest, one of them timed"
    )
    parser.add_argument("--pairs", type=int, default=4_096, help="of the large contrastive batch; 0 leaves memory out")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, help="folder for training.md and training.json, with --model of its name")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a real model, such as Gemma's: benchmarks.named")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16", help="with --model")
    parser.add_argument("--lora", type=int, default=16, metavar="R", help="with --model: rank, 0 for all weights")
    parser.add_argument("--sentences", type=int, default=200, help="with --model: held-out texts of a language")
    parser.add_argument("--turns", type=int, default=2, help="with --model: how often each takes its turn")
    options = parser.parse_args(arguments)
    if options.rows < 64:
        parser.error(f"--rows: found {options.rows}. Allowed: 64 or more, for two steps of 32 rows. Raise it.")
    if options.model:
        return named_model(options)
    bitext, talks = drawn(options.mirror, max(options.rows, options.pairs))
    model = prepared(options.mirror, options.work / "training")
    few = options.rows
    found = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.lm.parameters()),
        "rows": few,
        "padding": padding(model, talks.slice(0, few)),
        "steps": stepped(model, bitext.slice(0, few), talks.slice(0, few)),
        "layers": layers(model, bitext),
        "memory": memory(options.work / "training", bitext, options.pairs) if options.pairs else {},
    }
    written(options.out, "training", report(found), found)
    return 0


def named_model(options: argparse.Namespace) -> int:
    """The same beside a Trainer loop, and retrieval, on a model of files."""
    from alignment_train.models.load import load
    from benchmarks import named

    heap.retain_freed_memory()  # as training and evaluation do
    model = load(options.model)
    found: dict[str, Any] = {
        "model": options.model.name,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.lm.parameters()),
        "rows": options.rows,
        "precision": options.precision,
        "lora": options.lora,
    }
    texts = named.held_out(mirrored(options.mirror, ["NTREX/v1"]), options.sentences)
    found["texts"], found["languages"] = len(set(texts["text"].to_pylist())), len(set(texts["lang"].to_pylist()))
    found["retrieval"] = named.retrieval(model, texts, options.precision, LENGTH, options.turns)
    bitext, talks = drawn(options.mirror, options.rows)
    found["steps"] = named.steps(
        model, bitext, talks, options.precision, options.lora, LENGTH, options.work, options.turns
    )
    written(options.out, f"training_{options.model.name}", named.report(found), found)
    return 0


def written(folder: Path | None, name: str, text: str, found: dict[str, Any]) -> None:
    """Print the text, and leave it with its figures in the folder."""
    print(text)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text + "\n")
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def mirrored(mirror: Path, names: Sequence[str] = ()) -> pa.Table:
    """All rows of opus8.yaml's pairs and corpora, or of those named, as BITEXT; 2 to 1,000 characters a side."""
    corpus = read_recipe("opus8.yaml").corpus
    names = names or [name for source in corpus.sources for name in getattr(source, "corpora", [])]
    batches = []
    for pair in corpus.pairs:
        for name in names:
            for codes in ((a, b) for a in opus_codes(pair.src) for b in opus_codes(pair.tgt)):
                for file in (mirror / f"OPUS-{name}/moses").glob(f"{'-'.join(sorted(codes))}.txt.zip"):
                    with zipfile.ZipFile(file) as package:
                        own = "-".join(sorted(codes))
                        members = [next(n for n in package.namelist() if n.endswith(f".{own}.{c}")) for c in codes]
                        sides = [package.read(member).decode().split("\n")[:-1] for member in members]
                    both = [row for row in zip(*sides, strict=True) if all(2 <= len(text) <= 1000 for text in row)]
                    if both:
                        src, tgt = zip(*both, strict=True)
                        batches.append(bitext_batch(list(src), list(tgt), *pair.languages, name))
    if not batches:
        raise ValueError(f"{mirror}: no Moses package of opus8.yaml's pairs in it. Name a folder that an OPUS has.")
    return pa.Table.from_batches(batches)


def drawn(mirror: Path, rows: int) -> tuple[pa.Table, pa.Table]:
    """`rows` rows of BITEXT, as many of each pair, and as many INSTRUCTION rows made of them."""
    table, rng = mirrored(mirror), np.random.default_rng(SEED)
    of = np.array(
        [f"{row['src_lang']}-{row['tgt_lang']}" for row in table.select(["src_lang", "tgt_lang"]).to_pylist()]
    )
    pairs = sorted(set(of))
    each = -(-rows // len(pairs))
    chosen = np.concatenate([rng.choice(np.flatnonzero(of == pair), each) for pair in pairs])
    bitext = table.take(pa.array(rng.permutation(chosen)[:rows])).combine_chunks()
    return bitext, pa.Table.from_batches([Translate().render(bitext.to_batches()[0], rng)])


def prepared(mirror: Path, work: Path) -> Model:
    """The model, with a tokenizer of the mirror's own text that is made once and kept in `work`."""
    if not (work / "tokenizer" / "tokenizer.json").exists():
        print("training a tokenizer ...", file=sys.stderr, flush=True)
        train_tokenizer(sentences(mirrored(mirror), SENTENCES, SEED), VOCAB).save_pretrained(work / "tokenizer")
    return shaped(AutoTokenizer.from_pretrained(work / "tokenizer"), SHAPE)


def shaped(tokenizer: Any, shape: dict[str, int]) -> Model:
    """A random XGLM of a shape, which trains."""
    torch.manual_seed(SEED)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model("xglm", **shape, vocab_size=len(tokenizer), decoder_start_token_id=2, **ids)
    return Model(AutoModelForCausalLM.from_config(config).train(), tokenizer)


# AFP's step


def pieces(ids: list[list[int]], labels: list[list[int]], device: torch.device) -> dict[str, Tensor]:
    """Texts one after the other, cut at LENGTH; the rest after the last whole piece goes, where there is one."""
    flat, wanted = list(chain.from_iterable(ids)), list(chain.from_iterable(labels))
    if len(flat) >= LENGTH:
        whole = len(flat) // LENGTH * LENGTH
        shape = (-1, LENGTH)
        flat, wanted = flat[:whole], wanted[:whole]
    else:
        shape = (1, -1)
    return {
        "input_ids": torch.tensor(flat, device=device).view(shape),
        "labels": torch.tensor(wanted, device=device).view(shape),
    }


def afp(model: Model, bitext: pa.Table, talks: pa.Table, rows: int, concatenated: bool) -> Iterator[int]:
    """The gradients of AFP's steps over all rows in their order, `concatenated` or with a padded row a text."""
    sides = [model.tokenizer(bitext[side].to_pylist())["input_ids"] for side in ("src", "tgt")]
    src, tgt = ([row[:LENGTH] for row in side] for side in sides)
    ids, labels = spelt(model, talks)
    for start in range(0, bitext.num_rows, rows):
        chosen = range(start, min(start + rows, bitext.num_rows))
        pairs = model.pad([side[i] for side in (src, tgt) for i in chosen])
        some = [ids[i] for i in chosen], [labels[i] for i in chosen]
        afp_loss(model, pairs, pieces(*some, model.device) if concatenated else model.pad(*some)).backward()
        yield len(chosen)


def spelt(model: Model, talks: pa.Table) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens and labels of each conversation, of at most LENGTH tokens."""
    ids, labels = [], []
    for row in talks["messages"].to_pylist():
        batch = conversations([row], model, LENGTH)
        ids.append(batch["input_ids"][0].tolist())
        labels.append(batch["labels"][0].tolist())
    return ids, labels


# our step


def ours(
    model: Model, bitext: pa.Table, talks: pa.Table, contrast: dict[str, Any], instruction: dict[str, Any]
) -> Iterator[int]:
    """The gradients of our steps over all rows once, as train.py draws and runs them; the contrast is AFP's."""
    contrastive = Contrastive.model_validate({**RAW, **contrast})
    objectives = contrastive, Instruction.model_validate({"weight": 1.5, **instruction})
    held = [
        (item, Rows(table, item.rows, SEED, partial(item.token_lengths, model=model)))
        for item, table in zip(objectives, (bitext, talks), strict=True)
    ]
    for step in range(bitext.num_rows // objectives[0].rows):
        for item, rows in held:
            batch = item.collate(rows.at(step), model, LENGTH)
            for part in item.microbatches(batch):
                own = item.count(part) / item.count(batch)
                (item.weight * own * item.loss(model, part)[0]).backward()
        yield objectives[0].rows


# what is measured


def padding(model: Model, talks: pa.Table) -> dict[str, float]:
    """Tokens computed over real ones of the instruction texts, 8 and 32 a batch, by how they are drawn."""
    counts = np.array([min(LENGTH, n) for n in map(len, spelt(model, talks)[0])])
    out = {}
    for rows in (8, 32):
        whole = counts[: len(counts) // rows * rows]
        out[f"{rows} texts, in random order"] = float(rows * whole.reshape(-1, rows).max(1).sum() / whole.sum())
        for name, pack in (("sorted by length", False), ("packed", True)):
            item = Instruction.model_validate({"rows": rows, "pack": pack})
            drawn = Rows(talks, rows, SEED, partial(item.token_lengths, model=model))
            batches = [item.collate(drawn.at(i), model, LENGTH)["attention_mask"] for i in range(drawn.per_epoch)]
            out[f"{rows} texts, {name}"] = sum(b.numel() for b in batches) / sum(int(b.sum()) for b in batches)
    return out


def stepped(model: Model, bitext: pa.Table, talks: pa.Table) -> dict[str, dict[str, float]]:
    """Rows a second of each variant over all rows, in turns."""
    first = {"layer": 1, "pooling": "last", "temperature": 0.05, "direction": "src_to_tgt"}
    steps = {
        "AFP's step, 4 rows": afp(model, bitext, talks, 4, concatenated=True),
        "AFP's step, 8 rows": afp(model, bitext, talks, 8, concatenated=True),
        "a padded row a text, 4 rows": afp(model, bitext, talks, 4, concatenated=False),
        "a padded row a text, 8 rows": afp(model, bitext, talks, 8, concatenated=False),
        "ours, AFP's loss at layer 1, 8 rows": ours(model, bitext, talks, {**first, "rows": 8}, {"rows": 8}),
        "ours, middle layer, 32 rows": ours(model, bitext, talks, {"rows": 32}, {"rows": 32}),
        "ours, middle layer, 32 rows, packed": ours(model, bitext, talks, {"rows": 32}, {"rows": 32, "pack": True}),
    }
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=1e-5, fused=True)
    spent, done = dict.fromkeys(steps, 0.0), dict.fromkeys(steps, 0)
    for step in steps.values():
        descend(model, optimiser, step)  # what is made at a first step is not what is measured
    for turn in range(1, TURNS + 1):
        for name, step in steps.items():
            while done[name] < turn / TURNS * bitext.num_rows:
                began = time.perf_counter()
                rows = descend(model, optimiser, step)
                if not rows:
                    break
                spent[name] += time.perf_counter() - began
                done[name] += rows
            print(f"{turn} of {TURNS}, {name}: {done[name] / spent[name]:.2f} rows/s", file=sys.stderr, flush=True)
    return {name: {"rows": done[name], "rows_per_second": done[name] / spent[name]} for name in steps}


def descend(model: Model, optimiser: torch.optim.Optimizer, steps: Iterator[int]) -> int:
    """One optimiser step after the next gradients of `steps`; its rows, 0 where there are no more."""
    rows = next(steps, 0)
    if rows:
        torch.nn.utils.clip_grad_norm_(model.lm.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return rows


def layers(model: Model, bitext: pa.Table, rows: int = 32, batches: int = 3) -> list[dict[str, float]]:
    """Seconds of the contrast by layer k of L, forward and backward, as a share of that at the top layer."""
    top = len(model.blocks)
    depths = sorted({1, top // 4, top // 2, top})
    items = {k: Contrastive.model_validate({"layer": k, "rows": rows, **RAW}) for k in depths}
    spent = dict.fromkeys(items, float("inf"))
    for start in range(0, batches * rows, rows):
        some = bitext.slice(start, rows).to_pylist()
        for k, item in items.items():
            batch = item.collate(some, model, LENGTH)
            seconds = []
            for _ in range(2):
                began = time.perf_counter()
                item.loss(model, batch)[0].backward()
                seconds.append(time.perf_counter() - began)
                model.lm.zero_grad()
            spent[k] = min(seconds) if spent[k] == float("inf") else spent[k] + min(seconds)
    return [{"layer": k, "share": k / top, "measured": spent[k] / spent[top]} for k in items]


CHUNKS = 16  # texts at once in the large batch


def memory(work: Path, bitext: pa.Table, pairs: int) -> dict[str, dict[str, float]]:
    """Time and peak memory of a process that makes one contrastive step: 64 pairs, and many in chunks."""
    file = work / "pairs.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, bitext.schema) as out:
        out.write_table(bitext)
    runs = {"64 pairs": (64, None), f"{pairs:,} pairs in chunks": (pairs, CHUNKS)}
    found = {}
    for name, (rows, chunk) in runs.items():
        code = f"from benchmarks.training import once; once({str(work)!r}, {rows}, {chunk})"
        run = measured([sys.executable, "-c", code])
        found[name] = {"seconds": run.seconds, "peak_bytes": run.peak_bytes}
    return found


def once(work: str, rows: int, chunk: int | None) -> None:
    """A contrastive step at the middle layer over the first rows that `memory` wrote."""
    with pa.memory_map(str(Path(work) / "pairs.arrow")) as source:
        some = pa.ipc.open_file(source).read_all().slice(0, rows).to_pylist()
    heap.retain_freed_memory()  # as a training does
    model = shaped(AutoTokenizer.from_pretrained(Path(work) / "tokenizer"), SHAPE)
    item = Contrastive.model_validate({"rows": rows, "chunk": chunk, **RAW})
    optimiser = torch.optim.AdamW(model.lm.parameters(), lr=1e-5, fused=True)
    item.loss(model, item.collate(some, model, LENGTH))[0].backward()
    descend(model, optimiser, iter([rows]))


def report(found: dict[str, Any]) -> str:
    steps = {name: numbers["rows_per_second"] for name, numbers in found["steps"].items()}
    theirs = max(speed for name, speed in steps.items() if name.startswith("AFP"))
    padded = max(speed for name, speed in steps.items() if name.startswith("a padded"))
    cells = [[name, f"{speed:.2f}", f"{speed / theirs:.2f}", f"{speed / padded:.2f}"] for name, speed in steps.items()]
    parts = [
        f"`python -m benchmarks.training MIRROR`: {found['rows']:,} rows of opus8's corpora, XGLM's shape with "
        f"{found['parameters'] / 1e6:.1f}M parameters in float32, {found['machine']}, {found['threads']} threads. "
        "Ratios are to the faster batch size of each. Asked: 1.4 over AFP's step, 2.5 over a padded row a text.",
        markdown(["a step", "rows/s", "x AFP's step", "x a padded row a text"], cells),
        markdown(
            ["instruction texts", "tokens computed / real"],
            [[name, f"{share:.2f}"] for name, share in found["padding"].items()],
        ),
        markdown(
            ["contrast at layer", "k / L", "time, of that at L"],
            [[str(row["layer"]), f"{row['share']:.2f}", f"{row['measured']:.2f}"] for row in found["layers"]],
        ),
    ]
    if found["memory"]:
        plain, large = found["memory"].values()
        parts += [
            markdown(
                ["one contrastive step", "seconds", "peak MiB"],
                [
                    [name, f"{run['seconds']:.0f}", f"{run['peak_bytes'] / 2**20:,.0f}"]
                    for name, run in found["memory"].items()
                ],
            ),
            f"The large batch peaks at {large['peak_bytes'] / plain['peak_bytes']:.2f} times the plain one (asked: at "
            f"most 1.5). Seconds are of the whole process.",
        ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
