"""Stage: evaluate base, control and aligned with the recipe's evals -> evaluation: metrics.json, report.html, plots."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from alignment_train.evaluation.measure import ASSETS, DIGITS, RANDOM, measure
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.evals import LanguageModel, States
from pipelines.progress import ProgressCallback, no_progress
from pipelines.report import evaluation, plot_states, plot_training, plots
from pipelines.results import contamination
from pipelines.results.evaluation_result import MODELS, EvaluationResult, write_result
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import models, summary
from pipelines.results.verdict import verdict
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.meter import Meter
from pipelines.storage.store import Store

MODULES = ("alignment_train.evaluation.lm", "alignment_train.layers", "alignment_train.models.load")  # what `lms` are
LIBRARIES = ("torch", "transformers", "matplotlib", "umap-learn")


def run(
    recipe: Recipe,
    store: Store,
    lms: Mapping[str, Callable[[], LanguageModel]],
    on_progress: ProgressCallback = no_progress,
) -> Manifest:
    """Evaluate the models named in `lms`: base and aligned, and optionally control, merged and `random`.

    A model is created when its turn comes and released after it, so that one at a time is in memory.
    """
    if unknown := [name for name in lms if name not in (*ASSETS, RANDOM)]:
        allowed = ", ".join((*ASSETS, RANDOM))
        raise UserError(f"evaluation: found {', '.join(unknown)}. Expected: {allowed}. Fix: rename the model.")
    if missing := [name for name in ("base", "aligned") if name not in lms]:
        raise UserError(
            f"evaluation: found no {' and no '.join(missing)} model. Expected: base and aligned. Fix: add them."
        )
    assets = [ASSETS[name] for name in ASSETS if name in lms] + ["training_mix", "eval_text"]
    inputs = {asset: store.require(asset).fingerprint for asset in assets}
    template = hashlib.sha256(evaluation.sources().encode()).hexdigest()
    settings = {"page": template, "seed": recipe.seed}
    fingerprint = compute_fingerprint(__name__, settings, inputs, recipe.eval, LIBRARIES, MODULES)
    if done := store.unchanged("evaluation", None, fingerprint):
        return done
    with store.writing("evaluation") as out:
        meter = Meter()
        overlap = contamination.overlap(store, recipe.corpus.decontaminate.near, on_progress)
        states: dict[str, States] = {}
        metrics = measure(recipe, store, lms, on_progress, overlap, states)
        write_result(metrics, out.path)
        logs = {name: store.fetched(ASSETS[name], under="log.jsonl") / "log.jsonl" for name in MODELS if name in lms}
        pictures = {
            "recall_by_layer": plots.recall_by_layer(metrics),
            "gaps": plots.gaps(metrics),
            "loss_curves": plot_training.loss_curves(logs),
            "heat_map": plots.heat_map(metrics),
            "guards": plots.guards(metrics),
            **plot_states.language_maps(states),
        }
        for name, png in pictures.items():
            if png is not None:
                (out.path / f"{name}.png").write_bytes(png)
        spent = (meter.seconds(), meter.peak_bytes())
        more = {name: png for name, png in pictures.items() if png is not None and name not in evaluation.DRAWN}
        report = evaluation.render(recipe, store, metrics, spent, more)
        (out.path / "report.html").write_text(report, encoding="utf-8", errors="replace")
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs=inputs,
            numbers=_numbers(metrics, recipe.corpus.pivot),
            corpora=store.require("eval_text").corpora,
        )


def _numbers(metrics: EvaluationResult, pivot: str) -> dict[str, Any]:
    """The leading figures and the verdict, for the manifest."""
    rows = summary(metrics)
    wanted = {str(MetricKey("retrieval", "mean", "recall@1")), str(MetricKey("loss", pivot, "nats_per_token"))}
    if not any(MetricKey.parse(row["key"])[:2] == ("retrieval", "mean") for row in rows):  # one pair has no mean
        wanted |= {row["key"] for row in rows if row["metric"] == "recall@1"}
    numbers = {
        f"{name}/{row['key']}": round(row[name], DIGITS)
        for row in rows
        if row["key"] in wanted
        for name in (*models(metrics), "chance")
        if row[name] is not None
    }
    found = verdict(metrics, pivot)
    evals = metrics.contamination.evals.values() if metrics.contamination else ()
    return {
        **numbers,
        "trained_layer": metrics.trained_layer,
        "verdict": found.headline,
        "tone": found.tone,
        "guards": ", ".join(found.guards) or "none raised",
        "eval_texts_in_mix": sum(row.exact + row.near for row in evals),
    }
