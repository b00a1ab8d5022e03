"""Run the recipe's evals on models -> an EvaluationResult, which `evaluate` and `cells` write."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.errors import UserError, error_context
from pipelines.evals import Eval, LanguageModel, Metric, States
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, clock, no_progress
from pipelines.results.comparison import compared, language_groups, task_groups
from pipelines.results.contamination import Overlap
from pipelines.results.evaluation_result import FORMAT, MERGED, EvaluationResult
from pipelines.results.metric_key import MetricKey
from pipelines.schema import EVAL_TEXT
from pipelines.storage.store import Store

RANDOM = "random"
"""The model with random weights, which evals may use for a baseline."""

ASSETS = {"base": "base_model", "control": "control_model", "aligned": "align_model", MERGED: "merged_model"}
DIGITS = 6
EVERY = 1.0  # seconds between reports within one call of an eval


@runtime_checkable
class ReportsItems(Protocol):
    """A model that reports its progress within one call of an eval (`lm.LM`)."""

    on_items: Callable[[int, int, float], None]


class _ItemProgress:
    """An `on_items` that reports the items done in the current call and the time that the others will take."""

    def __init__(self, on_progress: ProgressCallback, done: float, total: float, title: str):
        self.on_progress, self.done, self.total, self.title = on_progress, done, total, title
        self._started = self._reported = time.monotonic()

    def __call__(self, done: int, count: int, share: float) -> None:
        now = time.monotonic()
        if now - self._reported >= EVERY and 0 < share < 1:
            left = clock((now - self._started) * (1 - share) / share)
            self._reported = now
            self.on_progress(self.done, self.total, f"{self.title}: {done:,} of {count:,} items, {left} left of these")
        if done == count:  # the next call begins
            self._started = now


class _Evaluation:
    """The evals of a recipe, run on one model after the other."""

    def __init__(self, recipe: Recipe, store: Store, on_progress: ProgressCallback, total: int):
        table = store.table("eval_text")
        self.evals, self.on_progress, self.done, self.total = recipe.eval, on_progress, 0, total
        self.texts = {item.name: table.filter(pc.equal(table["eval"], item.name)) for item in recipe.eval}
        self.content: dict[str, Any] = {"format": FORMAT, "pivot": recipe.corpus.pivot, "chance": {}}
        """Of metrics.json, numbers rounded."""
        self.figures: dict[str, dict[str, Metric]] = {}
        """{model: figures that are not per layer}, with their resamples."""
        self.samples: dict[str, dict[str, dict[str, str]]] = {}
        """{task/subject: {prompt: {reference, model ...}}}."""
        self.states: dict[str, States] = {}

    def add_baselines(self, random: Callable[[], LanguageModel] | None) -> None:
        """Chance, baselines and signatures, which need no evaluated model."""
        for item in self.evals:
            self.content["chance"] |= _rounded(item.chance(self.texts[item.name]))
        if random:
            self.on_progress(0, 0, "baselines")
        for item in self.evals:
            for name, found in item.baselines(self.texts[item.name], random).items():
                self.content.setdefault(name, {}).update(_rounded(found))
        for item in self.evals:
            if signatures := item.signatures(self.texts[item.name]):
                self.content.setdefault("signatures", {}).update(signatures)

    def add_model(self, name: str, load: Callable[[], LanguageModel]) -> None:
        """Run all evals on one model, which is released afterwards."""
        self.on_progress(self.done, self.total, f"{name} · loading")
        lm = load()
        self.content["trained_layer"] = lm.trained_layer
        figures: dict[str, Metric] = {}
        for item in self.evals:
            new = self._run(item, name, lm)
            if duplicates := sorted(set(new) & set(figures)):
                raise UserError(
                    f"eval.{item.name}: found {duplicates[0]}, which another eval gives too. Expected: each figure "
                    f"once. Fix: remove one of the two evals."
                )
            figures.update(new)
            for sample in item.samples(lm, self.texts[item.name]):
                rows = self.samples.setdefault(sample.key, {})
                rows.setdefault(sample.prompt, {"reference": sample.reference})[name] = sample.output
            self.done += 1
        self.figures[name] = {key: metric for key, metric in figures.items() if MetricKey.parse(key).layer is None}
        self.content[name] = _rounded(figures)
        del lm
        gc.collect()  # models have reference cycles: free this one's memory before the next is loaded

    def _run(self, item: Eval, name: str, lm: LanguageModel) -> dict[str, Metric]:
        """The figures of one eval."""
        title = f"{name} · {item.name}"
        self.on_progress(self.done, self.total, title)
        if isinstance(lm, ReportsItems):
            lm.on_items = _ItemProgress(self.on_progress, self.done, self.total, title)
        with error_context(f"eval '{item.name}' of {name}"):
            figures, states = item.observe(lm, self.texts[item.name])
        if states:
            self.states.setdefault(name, states)
        return figures


def measure(
    recipe: Recipe,
    store: Store,
    lms: Mapping[str, Callable[[], LanguageModel]],
    on_progress: ProgressCallback = no_progress,
    overlap: Overlap | None = None,
    states: dict[str, States] | None = None,
) -> EvaluationResult:
    """Run the recipe's evals on every model, and compare the models.

    Args:
        recipe: Its evals and its pivot.
        store: Has the eval texts.
        lms: {model: loads it}, of ASSETS and RANDOM.
        on_progress: Called before each eval of each model.
        overlap: Which eval texts the mix contains; without it there are no language groups and no contamination.
        states: Filled with the states of each model that the first eval with states gives.
    """
    total = len(set(lms) - {RANDOM}) * max(len(recipe.eval), 1)
    run = _Evaluation(recipe, store, on_progress, total)
    run.add_baselines(lms.get(RANDOM))
    for name in (name for name in ASSETS if name in lms):
        run.add_model(name, lms[name])
    on_progress(total, total, "done")
    if states is not None:
        states.update(run.states)
    content, pivot = run.content, recipe.corpus.pivot
    if run.samples:
        content["samples"] = {
            key: [{"prompt": prompt, **row} for prompt, row in rows.items()] for key, rows in run.samples.items()
        }
    keys, groups = {key for figures in run.figures.values() for key in figures}, dict[str, list[str]]()
    if overlap:
        groups = language_groups(keys, overlap.rows, pivot)
        content |= {"groups": groups, "mix_rows": overlap.rows}
    of_task = task_groups(keys, {task: langs for item in recipe.eval for task, langs in item.trained_in.items()})
    if of_task:
        content["task_groups"] = of_task
    return EvaluationResult.model_validate(content | _rounded(compared(run.figures, pivot, groups, overlap, of_task)))


def dev_recall(
    recipe: Recipe, store: Store, lm: LanguageModel, rows: int, on_progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """The figures of the recipe's retrieval eval on `rows` dev rows of each pair; empty without either."""
    retrieval: Eval | None = next((item for item in recipe.eval if item.name == "retrieval"), None)
    texts = dev_texts(store, rows)
    if retrieval is None or not texts.num_rows:
        return {}
    on_progress(0, 0, f"{retrieval.name} on dev")
    return retrieval.run(lm, texts)


def dev_texts(store: Store, rows: int) -> pa.Table:
    """The first rows of each pair of the mix's dev part as EVAL_TEXT, without rows that repeat a segment."""
    found: dict[str, list[tuple[str, str]]] = {}
    seen: set[tuple[str, str, str]] = set()
    for row in store.table("training_mix", part="dev").to_pylist():
        pair = f"{row['src_lang']}-{row['tgt_lang']}"
        sides = {(pair, row[f"{side}_lang"], row[side]) for side in ("src", "tgt")}
        if not sides & seen and len(found.setdefault(pair, [])) < rows:
            found[pair].append((row["src"], row["tgt"]))
            seen |= sides
    texts = [
        ("dev", str(item), pair, lang, text)
        for pair, rows_of_pair in found.items()
        for item, both in enumerate(rows_of_pair)
        for lang, text in zip(Pair.parse(pair.split("-")), both, strict=True)
    ]
    columns = zip(*texts, strict=True) if texts else [()] * len(EVAL_TEXT)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=EVAL_TEXT)


def _rounded(item: Any) -> Any:
    """Numbers rounded to DIGITS decimals, so that JSON does not depend on the last bits; None where not finite."""
    if isinstance(item, Mapping):
        return {key: _rounded(number) for key, number in item.items()}
    if isinstance(item, list):
        return [_rounded(each) for each in item]
    if isinstance(item, int | str):
        return item
    number = float(item)
    return round(number, DIGITS) + 0.0 if math.isfinite(number) else None
