"""Ask the recipe's evals of models: what metrics.json holds. Written nowhere here; `evaluate` and `cells` do that."""

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
from pipelines.results.summary import MERGED
from pipelines.schema import EVAL_TEXT
from pipelines.storage.store import Store

FORMAT = 3
"""Of metrics.json: 3 has paired differences, means, gaps, language groups and contamination."""

RANDOM = "random"
"""The model, beside those of ASSETS, whose weights are random; evals may show what it finds as a baseline."""

ASSETS = {"base": "base_model", "control": "control_model", "aligned": "align_model", MERGED: "merged_model"}
DIGITS = 6
EVERY = 1.0  # seconds between lines about the items of one question


@runtime_checkable
class ReportsItems(Protocol):
    """A model that says how far it is with a question (`lm.LM`)."""

    on_items: Callable[[int, int, float], None]


class _ItemsLeft:
    """An `on_items` that tells the items done of the question at hand and the time that the others will take."""

    def __init__(self, on_progress: ProgressCallback, done: float, total: float, title: str):
        self.on_progress, self.done, self.total, self.title = on_progress, done, total, title
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, count: int, share: float) -> None:
        now = time.monotonic()
        if now - self._told >= EVERY and 0 < share < 1:
            left = clock((now - self._began) * (1 - share) / share)
            self._told = now
            self.on_progress(self.done, self.total, f"{self.title}: {done:,} of {count:,} items, {left} left of these")
        if done == count:  # the next question begins
            self._began = now


def measure(
    recipe: Recipe,
    store: Store,
    lms: Mapping[str, Callable[[], LanguageModel]],
    on_progress: ProgressCallback = no_progress,
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
        on_progress(0, 0, "baselines")
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
        on_progress(done, total, f"{name} · loading")
        lm = lms[name]()
        metrics["trained_layer"] = lm.trained_layer
        found: dict[str, Metric] = {}
        for item in recipe.eval:
            on_progress(done, total, f"{name} · {item.name}")
            if isinstance(lm, ReportsItems):
                lm.on_items = _ItemsLeft(on_progress, done, total, f"{name} · {item.name}")
            with error_context(f"eval '{item.name}' of {name}"):
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
    on_progress(total, total, "done")
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


def dev_recall(
    recipe: Recipe, store: Store, lm: LanguageModel, rows: int, on_progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """What the recipe's retrieval eval finds on `rows` dev rows of each pair; empty without that eval or dev rows."""
    retrieval: Eval | None = next((item for item in recipe.eval if item.name == "retrieval"), None)
    texts = dev_texts(store, rows)
    if retrieval is None or not texts.num_rows:
        return {}
    on_progress(0, 0, f"{retrieval.name} on dev")
    return retrieval.run(lm, texts)


def dev_texts(store: Store, rows: int) -> pa.Table:
    """The first rows of each pair of the mix's dev part as EVAL_TEXT; none that has a segment of an earlier one."""
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
        for pair, held in found.items()
        for item, both in enumerate(held)
        for lang, text in zip(Pair.parse(pair.split("-")), both, strict=True)
    ]
    columns = zip(*texts, strict=True) if texts else [()] * len(EVAL_TEXT)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=EVAL_TEXT)


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
