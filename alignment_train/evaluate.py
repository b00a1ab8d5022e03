"""Stage: ask the recipe's evals of base, control and aligned -> evaluation: metrics.json, report.html, plots."""

import gc
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.compute as pc

from alignment_train import page, plots
from pipelines import contamination
from pipelines.comparison import compared, language_groups, task_groups
from pipelines.config import Recipe
from pipelines.contamination import Overlap
from pipelines.errors import UserError
from pipelines.evals import LanguageModel, Metric, States
from pipelines.progress import Tell, silent
from pipelines.store import Manifest, Meter, Store, fingerprint
from pipelines.summary import MERGED, MODELS, Metrics, models, summary
from pipelines.verdict import verdict

FORMAT = 3
"""Of metrics.json: 3 has paired differences, means, gaps, language groups and contamination."""

RANDOM = "random"
"""The model, beside those of ASSETS, whose weights are random; evals may show what it finds as a baseline."""

ASSETS = {"base": "base_model", "control": "control_model", "aligned": "align_model", MERGED: "merged_model"}
SOURCES = (
    *(f"alignment_train.{name}" for name in ("page", "plots", "lm", "scoring", "model", "data", "losses")),
    *(f"pipelines.{name}" for name in ("summary", "verdict", "comparison", "contamination", "statistics")),
    *(f"pipelines.{name}" for name in ("near", "matching", "characters")),
)
LIBRARIES = ("torch", "transformers", "matplotlib", "umap-learn")
DIGITS = 6


def run(recipe: Recipe, store: Store, lms: Mapping[str, Callable[[], LanguageModel]], tell: Tell = silent) -> Manifest:
    """Evaluate the models named in `lms`: of base, control and aligned at least base and aligned, and `random`.

    A model is made when its turn comes and let go after it, so that one at a time is in memory.
    """
    if unknown := [name for name in lms if name not in (*ASSETS, RANDOM)]:
        allowed = ", ".join((*ASSETS, RANDOM))
        raise UserError(f"evaluation: found {', '.join(unknown)}. Allowed: {allowed}. Rename the model.")
    if missing := [name for name in ("base", "aligned") if name not in lms]:
        raise UserError(f"evaluation: no {' and no '.join(missing)} model. Needed: base and aligned. Add them.")
    assets = [ASSETS[name] for name in ASSETS if name in lms] + ["training_mix", "eval_text"]
    inputs = {asset: store.require(asset).fingerprint for asset in assets}
    template = hashlib.sha256((page.template() + page.script()).encode()).hexdigest()
    print_ = fingerprint(__name__, {"page": template, "seed": recipe.seed}, inputs, recipe.eval, SOURCES, LIBRARIES)
    if done := store.unchanged("evaluation", None, print_):
        return done
    with store.writing("evaluation") as out:
        meter = Meter()
        held = contamination.overlap(store, recipe.corpus.decontaminate.near, tell)
        states: dict[str, States] = {}
        metrics = measure(recipe, store, lms, tell, held, states)
        (out.path / "metrics.json").write_text(_written(metrics), encoding="utf-8")
        logs = {name: store.fetched(ASSETS[name], under="log.jsonl") / "log.jsonl" for name in MODELS if name in lms}
        pictures = {
            "recall_by_layer": plots.recall_by_layer(metrics),
            "gaps": plots.gaps(metrics),
            "loss_curves": plots.loss_curves(logs),
            "heat_map": plots.heat_map(metrics),
            "guards": plots.guards(metrics),
            **plots.language_maps(states),
        }
        for name, png in pictures.items():
            if png is not None:
                (out.path / f"{name}.png").write_bytes(png)
        spent = (meter.seconds(), meter.peak_bytes())
        more = {name: png for name, png in pictures.items() if png is not None and name not in page.DRAWN}
        report = page.render(recipe, store, metrics, spent, more)
        (out.path / "report.html").write_text(report, encoding="utf-8", errors="replace")
        return out.commit(
            print_,
            recipe.resolved(),
            inputs=inputs,
            numbers=_numbers(metrics, recipe.corpus.pivot),
            corpora=store.require("eval_text").corpora,
        )


def measure(
    recipe: Recipe,
    store: Store,
    lms: Mapping[str, Callable[[], LanguageModel]],
    tell: Tell = silent,
    overlap: Overlap | None = None,
    states: dict[str, States] | None = None,
) -> dict[str, Any]:
    """What metrics.json holds: figures by model and baseline, chance, the trained layer, what `compared` makes of them.

    overlap: which eval texts the mix holds; without it there are no language groups and no figures without them.
    states: filled with those of each model that an eval gives to look at, the first that does.
    """
    table = store.table("eval_text")
    texts = {item.name: table.filter(pc.equal(table["eval"], item.name)) for item in recipe.eval}
    metrics: dict[str, Any] = {"format": FORMAT, "pivot": recipe.corpus.pivot, "chance": {}}
    for item in recipe.eval:
        metrics["chance"].update({key: _rounded(number) for key, number in item.chance(texts[item.name]).items()})
    if RANDOM in lms:
        tell(0, 0, "baselines")
    for item in recipe.eval:
        for name, found in item.baselines(texts[item.name], lms.get(RANDOM)).items():
            metrics.setdefault(name, {}).update({key: _rounded(metric) for key, metric in found.items()})
    for item in recipe.eval:
        if said := item.signatures(texts[item.name]):
            metrics.setdefault("signatures", {}).update(said)
    samples: dict[str, dict[str, dict[str, str]]] = {}
    scored: dict[str, dict[str, Metric]] = {}
    done, total = 0, len(set(lms) - {RANDOM}) * max(len(recipe.eval), 1)
    for name in (name for name in ASSETS if name in lms):
        tell(done, total, f"{name} · loading")
        lm = lms[name]()
        metrics["trained_layer"] = lm.trained_layer
        found: dict[str, Metric] = {}
        for item in recipe.eval:
            tell(done, total, f"{name} · {item.name}")
            new, seen = item.observe(lm, texts[item.name])
            if states is not None and seen:
                states.setdefault(name, seen)
            if twice := sorted(set(new) & set(found)):
                raise UserError(
                    f"eval.{item.name}: found {twice[0]}, which another eval gives too. Allowed: each figure once. "
                    f"Remove one of the two evals."
                )
            found.update(new)
            for sample in item.samples(lm, texts[item.name]):
                row = samples.setdefault(sample.key, {}).setdefault(sample.prompt, {"reference": sample.reference})
                row[name] = sample.output
            done += 1
        scored[name] = {key: metric for key, metric in found.items() if "/layer=" not in key}
        metrics[name] = {key: _rounded(metric) for key, metric in found.items()}
        del lm
        gc.collect()  # models hold cycles: the next one must not wait for the collector to find its memory
    tell(total, total, "done")
    keys = {key for found in scored.values() for key in found}
    if samples:
        metrics["samples"] = {
            key: [{"prompt": prompt, **row} for prompt, row in rows.items()] for key, rows in samples.items()
        }
    groups = {}
    if overlap:
        groups = language_groups(keys, overlap.rows, recipe.corpus.pivot)
        metrics |= {"groups": groups, "mix_rows": overlap.rows}
    of_task = task_groups(keys, {task: langs for item in recipe.eval for task, langs in item.trained_in.items()})
    if of_task:
        metrics["task_groups"] = of_task
    return metrics | _rounded(compared(scored, recipe.corpus.pivot, groups, overlap, of_task))


def _written(metrics: Mapping[str, Any]) -> str:
    """JSON with sorted keys, each figure in one line."""

    def text(item: Any, indent: str = "") -> str:
        if not isinstance(item, Mapping) or "value" in item:
            return json.dumps(item, sort_keys=True, ensure_ascii=False, allow_nan=False)
        lines = (f"{indent} {json.dumps(key)}: {text(item[key], indent + ' ')}" for key in sorted(item))
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

    return text(metrics) + "\n"


def _rounded(item: Any) -> Any:
    """Numbers to DIGITS digits, so that JSON is the same where the last bits differ; None for NaN and infinity."""
    if isinstance(item, Mapping):
        return {key: _rounded(number) for key, number in item.items()}
    if isinstance(item, list):
        return [_rounded(each) for each in item]
    if isinstance(item, int | str):
        return item
    number = float(item)
    return round(number, DIGITS) + 0.0 if math.isfinite(number) else None


def _numbers(metrics: Metrics, pivot: str) -> dict[str, Any]:
    """The leading figures and the verdict, to show beside the manifest."""
    wanted = ("retrieval/mean/recall@1", f"loss/{pivot}/nats_per_token")
    rows = summary(metrics)
    if not any(row["key"] == wanted[0] for row in rows):  # a single pair has no mean
        wanted = (*wanted, *(row["key"] for row in rows if row["metric"] == "recall@1"))
    numbers = {
        f"{name}/{row['key']}": round(row[name], DIGITS)
        for row in rows
        if row["key"] in wanted
        for name in (*models(metrics), "chance")
        if row[name] is not None
    }
    found = verdict(metrics, pivot)
    texts = metrics.get("contamination", {}).get("evals", {}).values()
    return {
        **numbers,
        "trained_layer": metrics.get("trained_layer"),
        "verdict": found.headline,
        "tone": found.tone,
        "guards": ", ".join(found.guards) or "none raised",
        "eval_texts_in_mix": sum(row["exact"] + row["near"] for row in texts),
    }
