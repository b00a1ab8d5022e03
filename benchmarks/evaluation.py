"""Items a second of lm-evaluation-harness, asked by its own model class and by ours; retrieval beside forward passes.

python -m benchmarks.evaluation DATA [--items N] [--batch N] [--languages de en ...] [--work DIR] [--out DIR]

DATA holds `eval/xnli`, `eval/xcopa` and the OPUS mirror `opus` with NTREX. The model has 35 million random parameters
and a tokenizer of NTREX in nine languages. The harness runs the same loaded tasks, with the same batch, through its own
HFLM, as its command does, and through our LM: alone (each request a row of its own), and with shared prefixes.
What comes before the first request (imports, loading of model and tasks) is left out on both sides. The runs take
turns, and the fastest of three counts. The figures of all of them must agree.
"""

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignment_train.evaluation import scoring
from alignment_train.evaluation.lm import LM
from alignment_train.models.model import Model
from alignment_train.models.seed import train_tokenizer
from benchmarks.rival import WORK, machine
from benchmarks.table import markdown
from pipelines.evals import harness
from pipelines.evals.harness import Harness
from pipelines.evals.retrieval import Retrieval
from pipelines.languages import Pair, parse
from pipelines.schema import EVAL_TEXT

REPEATS = 3
OTHERS = ("cs", "de", "es", "fr", "ru", "sw", "tr", "zh")  # beside English: the languages of opus8.yaml


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--items", type=int, default=100, help="of a task and language")
    parser.add_argument("--sentences", type=int, default=965, help="of a language, for retrieval")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--languages", nargs="+", default=["en", "sw", "zh"])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, help="folder for evaluation.md and evaluation.json")
    options = parser.parse_args(arguments)
    texts = ntrex(options.data / "opus", options.sentences)
    model = made(texts)
    folder = options.work / "evaluation"
    model.save(folder)
    found: dict[str, Any] = {
        "machine": machine(),
        "parameters": sum(p.numel() for p in model.lm.parameters()),
        "batch": options.batch,
        "tasks": {
            task: asked(model, folder, options.data / "eval" / task, task, ending, options)
            for task, ending in (("xnli", "test.tsv"), ("xcopa", "val.jsonl"))
        },
        "retrieval": retrieval(model, texts),
    }
    text = report(found, options)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "evaluation.md").write_text(text + "\n")
        (options.out / "evaluation.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


def report(found: dict, options: argparse.Namespace) -> str:
    cells = []
    for task, run in found["tasks"].items():
        items, best = run["items"], {name: min(taken) for name, taken in run["seconds"].items()}
        for name, taken in best.items():
            times = best["lm-eval"] / taken
            cells.append([f"{task}: {name}", str(items), f"{taken:.2f}", f"{items / taken:.1f}", f"{times:.2f}"])
    retrieved = found["retrieval"]
    return "\n\n".join(
        [
            f"`python -m benchmarks.evaluation DATA --items {options.items} --batch {options.batch}`: a model of "
            f"{found['parameters'] / 1e6:.0f} million parameters, {' '.join(options.languages)}, {found['machine']}; "
            f"fastest of {REPEATS}, start-up left out. Accuracies are equal, log-likelihoods differ by at most "
            f"{max(run['difference'] for run in found['tasks'].values()):.0e} nats.",
            markdown(["task and model", "items", "seconds", "items/s", "times lm-eval's speed"], cells),
            f"Retrieval over {retrieved['languages']} languages of {retrieved['sentences']} sentences and "
            f"{retrieved['layers']} layers: {min(retrieved['seconds']['retrieval']):.1f} s; the bare forward passes "
            f"{min(retrieved['seconds']['forward']):.1f} s: {100 * retrieved['share']:.0f} % of their speed.",
        ]
    )


def ntrex(mirror: Path, count: int) -> dict[str, list[str]]:
    """{our language: sentences}, row by row translations, of NTREX's packages."""
    out: dict[str, list[str]] = {}
    for code in OTHERS:
        codes = "-".join(sorted(("en", code)))
        with zipfile.ZipFile(mirror / "OPUS-NTREX" / "v1" / "moses" / f"{codes}.txt.zip") as package:
            for side in ("en", code):
                out[parse(side)] = package.read(f"NTREX.{codes}.{side}").decode().split("\n")[:count]
    return out


def made(texts: dict[str, list[str]]) -> Model:
    """A Llama of 35 million parameters, none of them trained."""
    tokenizer = train_tokenizer((text for some in texts.values() for text in some), 16_000)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return Model(LlamaForCausalLM(config).eval(), tokenizer)


def asked(model: Model, folder: Path, data: Path, task: str, ending: str, options: argparse.Namespace) -> dict:
    """Seconds of one task in all languages by each way of asking; ValueError where their figures differ."""
    from lm_eval.models.huggingface import HFLM

    settings = {"tasks": [task], "data": {task: f"{data}/{{lang}}.{ending}"}, "limit": options.items}
    item = Harness.model_validate(settings)
    plan = item.plan([parse(code) for code in options.languages])[0]
    with harness.quiet():
        tasks = [harness.load_task(one) for one in plan]
        own: Any = HFLM
        theirs = own(pretrained=str(folder), batch_size=options.batch, device=str(model.device))
    ours = harness.adapter(LM(model, 0, 256, model.device, rows=options.batch))

    def run(asking: Any, fan: int) -> Callable[[], Any]:
        def timed() -> Any:
            scoring.FAN = fan
            with harness.quiet():
                return harness.evaluated(asking, tasks, 0, options.items)

        return timed

    whole, lms = scoring.FAN, {"lm-eval": theirs, "isogloss, every request alone": ours, "isogloss": ours}
    runs = {name: run(lm, 1 if "alone" in name else whole) for name, lm in lms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for _ in range(REPEATS):
        for name, timed in runs.items():
            began = time.monotonic()
            results[name] = timed()
            seconds[name].append(time.monotonic() - began)
            print(f"{task}, {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    scoring.FAN = whole
    items = sum(len({row["doc_id"] for row in results["lm-eval"]["samples"][one.task]}) for one in plan)
    apart = max(difference(results["lm-eval"], results[name], [one.task for one in plan], name) for name in runs)
    return {"languages": [one.lang for one in plan], "items": items, "seconds": seconds, "difference": apart}


def difference(theirs: Any, ours: Any, tasks: list[str], name: str) -> float:
    """The most by which log-likelihoods differ, in nats; ValueError where it is over 1e-3 or accuracies differ."""
    apart = max(
        abs(a[0][0] - b[0][0])
        for task in tasks
        for one, other in zip(theirs["samples"][task], ours["samples"][task], strict=True)
        for a, b in zip(one["resps"], other["resps"], strict=True)
    )
    if apart > 1e-3 or any(theirs["results"][task]["acc,none"] != ours["results"][task]["acc,none"] for task in tasks):
        raise ValueError(f"{name}: not the harness's figures; log-likelihoods differ by up to {apart:.1e}")
    return apart


def retrieval(model: Model, texts: dict[str, list[str]]) -> dict:
    """Seconds of the eval `retrieval` with English, all layers, and of one forward pass over the same sentences."""
    lm = LM(model, 4, 256, model.device)
    pairs = [Pair.parse([lang, "eng_Latn"]) for lang in texts if lang != "eng_Latn"]
    sides = [(str(pair), lang) for pair in pairs for lang in pair]
    rows = [("retrieval", str(i), pair, lang, text) for pair, lang in sides for i, text in enumerate(texts[lang])]
    table = pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=EVAL_TEXT)
    item = Retrieval.model_construct()

    def forward() -> None:
        with torch.inference_mode():
            for some in texts.values():
                for _, batch in lm._batches(some):
                    model.body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)

    seconds: dict[str, list[float]] = {"forward": [], "retrieval": []}
    for _ in range(REPEATS):
        for name, timed in (("forward", forward), ("retrieval", lambda: item.run(lm, table))):
            began = time.monotonic()
            timed()
            seconds[name].append(time.monotonic() - began)
            print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {
        "languages": len(texts), "sentences": len(texts["eng_Latn"]), "layers": lm.num_layers + 1, "seconds": seconds,
        "share": min(seconds["forward"]) / min(seconds["retrieval"]),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
