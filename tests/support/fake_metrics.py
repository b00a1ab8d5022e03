"""A store as it stands before evaluation, its figures made up, its texts hostile; and models that answer as told."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import statistics
from pipelines.config import Recipe
from pipelines.evals import Eval, LanguageModel, Metric
from pipelines.languages import Pair
from pipelines.results.evaluation_result import EvaluationResult
from pipelines.schema import BITEXT, EVAL_TEXT, INSTRUCTION
from pipelines.storage.manifest import LedgerRow
from pipelines.storage.store import Store
from tests.support.bitext_fixtures import Planted
from tests.support.fake_lm import Unasked

DE, SW = "deu_Latn-eng_Latn", "eng_Latn-swh_Latn"
HOSTILE = "<script>alert(1)</script>"
TRAINED_LAYER = 2
LAYERS = 4
STEPS = ("char_length", "lid", "markup")
Rate = float | tuple[float, float]
"""A figure, or a figure and the half-width of its interval."""


class Answers(Eval):
    """Gives the figures planted in the fake model, and remembers which texts it was handed."""

    tag: str = "answers"

    @property
    def name(self) -> str:
        return self.tag

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        yield from ()

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        assert isinstance(lm, Fake)
        lm.seen.append(texts["text"].to_pylist())
        return {key: metric for key, metric in lm.figures.items() if self.tag in ("answers", key.split("/")[0])}

    def chance(self, texts: pa.Table) -> dict[str, float]:
        return {f"retrieval/{pair}/recall@1": 1 / 300 for pair in sorted(set(texts["pair"].to_pylist()))}


@dataclass
class Fake(Unasked):
    """A LanguageModel that holds figures."""

    figures: dict[str, Metric]
    num_layers: int = LAYERS
    trained_layer: int = TRAINED_LAYER
    seen: list[list[str]] = field(default_factory=list)


def result(content: Mapping[str, Any]) -> EvaluationResult:
    """The evaluation result of the content of a metrics.json."""
    return EvaluationResult.model_validate(content)


def figures(recall: Mapping[str, Rate], loss: Mapping[str, Rate]) -> dict[str, Metric]:
    """Metrics of one model: recall@1 by pair (and by layer, lower away from the trained one), loss by language."""
    out: dict[str, Metric] = {}
    for pair, rate in recall.items():
        key = f"retrieval/{pair}/recall@1"
        out[key] = _metric(rate, 600)
        for layer in range(LAYERS + 1):
            share = 1 - 0.2 * abs(layer - TRAINED_LAYER)
            value, half = rate if isinstance(rate, tuple) else (rate, 0.03)
            out[f"{key}/layer={layer}"] = _metric((value * share, half), 600)
    for lang, nats in loss.items():
        out[f"loss/{lang}/nats_per_token"] = _metric(nats, 300)
    return out


def _metric(rate: Rate, n: int) -> Metric:
    value, half = rate if isinstance(rate, tuple) else (rate, 0.03)
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def compare_rates(
    recall: Mapping[str, Sequence[Rate]], loss: Mapping[str, Sequence[Rate]] | None = None, chance: float = 1 / 300
) -> dict[str, Any]:
    """metrics.json of {subject: [base, control, aligned]}, two without control; nothing is paired."""
    names = ("base", "control", "aligned") if len(next(iter(recall.values()))) == 3 else ("base", "aligned")
    models = {
        name: figures({p: r[i] for p, r in recall.items()}, {p: r[i] for p, r in (loss or {}).items()})
        for i, name in enumerate(names)
    }
    known = {f"retrieval/{pair}/recall@1": chance for pair in recall}
    return {**models, "chance": known, "trained_layer": TRAINED_LAYER}


def scored(rate: float, n: int) -> Metric:
    """The figure of n items, of which the first are right; item i rests on `text i`."""
    return statistics.mean(np.arange(n) < round(rate * n), texts=[(f"text {i}",) for i in range(n)])


def recipe(pairs: Sequence[str] = ("de-en", "en-sw"), evals: Sequence[Eval] = (Answers(),)) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "planted",
            "corpus": {"pairs": list(pairs), "sources": [Planted()]},
            "train": {"base": "seed", "objectives": [{"contrastive": {}}]},
            "eval": list(evals),
        }
    )


def fabricate(root: Path, recipe: Recipe, control: bool = True, rows: int = 80) -> Store:
    """The store of `recipe` with every dataset before `evaluation`; sizes and texts are made up."""
    store = Store.open(root, recipe.name)
    provenance = {
        "planted/v1": {
            "version": "v1", "licence": f"CC-BY 4.0 {HOSTILE}", "citation": "A. Author & B. Author (2026)",
            "url": "https://example.org/?a=1&b=2",
        },
        "evil/v2": {"version": "v2", "licence": "", "citation": HOSTILE, "url": "javascript:alert(1)"},
    }  # fmt: skip
    fixed: dict[str, Any] = {"seconds": 12.5, "peak_memory_bytes": 300 << 20}
    for place, pair in enumerate(recipe.corpus.pairs):
        left = rows * 10 * (place + 1)
        for asset, steps, lost in (
            ("raw_bitext", (), 0),
            ("clean_bitext", STEPS, rows),
            ("deduped_bitext", ("duplicate",), rows // 2),
            ("decontaminated_bitext", ("evaluation_overlap",), rows // 4),
        ):
            ledger, dropped = [], []
            for step in steps:
                for corpus, share in (("planted/v1", 3), ("evil/v2", 1)):
                    into = left * share // 4
                    gone = min(into, lost * share // 4)
                    ledger.append(LedgerRow(step=step, corpus=corpus, into=into, dropped=gone, kept=into - gone))
                left -= sum(row.dropped for row in ledger[-2:])
                score = None if step in ("duplicate", "evaluation_overlap") else 0.125
                dropped += [
                    {"src": f"{HOSTILE} {step} \x00 \u202e", "tgt": "'\"><img src=x onerror=alert(1)>", "reason": step,
                     "score": score},
                    {"src": "صباح الخير & <b>", "tgt": "早上好" * 30, "reason": step, "score": score},
                ]  # fmt: skip
            kept = [{"src": f"Guten Morgen {i}.", "tgt": f"Good morning {i}."} for i in range(3)]
            with store.writing(asset, pair) as out:
                out.write(_bitext(pair, left))
                out.commit(
                    f"{asset} {pair}", {}, ledger=ledger, samples={"kept": kept, "dropped": dropped},
                    corpora=provenance, **fixed,
                )  # fmt: skip
        with store.writing("instructions", pair) as out:
            out.write(_instructions(pair, rows))
            kept = [{"src": f"Translate: {HOSTILE}", "tgt": "Habari ya asubuhi."}]
            out.commit(f"instructions {pair}", {}, samples={"kept": kept}, corpora=provenance, **fixed)
    pairs = recipe.corpus.pairs
    with store.writing("training_mix") as out:
        for pair in pairs:
            out.write(_bitext(pair, rows), "bitext")
            out.write(_instructions(pair, rows // 2), "instructions")
            out.write(_bitext(pair, 5), "dev")
        out.commit("training_mix", {}, **fixed)
    with store.writing("eval_text") as out:
        for item in recipe.eval:
            for pair in pairs:
                texts = [
                    [item.name, str(i), str(pair), lang, f"{item.name} {lang} {i}"] for i in (1, 2) for lang in pair
                ]
                columns = [pa.array(column, pa.string()) for column in zip(*texts, strict=True)]
                out.write(pa.record_batch(columns, schema=EVAL_TEXT))
        heldout = {"heldout/v1": {**provenance["planted/v1"], "licence": "CC0-1.0"}}
        out.commit("eval_text", {}, corpora=heldout, **fixed)
    names = ["base_model", *(["control_model"] if control else []), "align_model"]
    for asset in names:
        with store.writing(asset) as out:
            (out.path / "log.jsonl").write_text("".join(_log(asset)))
            numbers = {"steps": 200, "parameters": 7_900_000, "loss_last/language_model": 4.1234567}
            if asset == "base_model":
                numbers |= {"base": "seed: 7.9M parameters, trained here from nothing on 1,000 pairs"}  # type: ignore[dict-item]
            out.commit(asset, {}, numbers=numbers, **fixed)
    return store


def _log(asset: str) -> Iterator[str]:
    for step in range(200):
        losses = {"language_model": 5 + 3 * 0.97**step}
        if asset == "align_model":
            losses |= {"contrastive": 0.4 + 4 * 0.96**step}
        yield json.dumps({"step": step, "loss": losses, "tokens_per_second": 3000, "eta_seconds": 1.0}) + "\n"


def _bitext(pair: Pair, rows: int) -> pa.RecordBatch:
    columns = [["a"] * rows, ["b"] * rows, [pair.src] * rows, [pair.tgt] * rows, ["planted/v1"] * rows]
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=BITEXT)


def _instructions(pair: Pair, rows: int) -> pa.RecordBatch:
    """Half of them in the other direction."""
    messages = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]] * rows
    langs = [pair if i % 2 else (pair.tgt, pair.src) for i in range(rows)]
    return pa.record_batch(
        [
            pa.array(messages, INSTRUCTION.field("messages").type),
            pa.array([src for src, _ in langs], pa.string()),
            pa.array([tgt for _, tgt in langs], pa.string()),
            pa.array(["planted/v1"] * rows, pa.string()),
            pa.array(["translate/1"] * rows, pa.string()),
        ],
        schema=INSTRUCTION,
    )
