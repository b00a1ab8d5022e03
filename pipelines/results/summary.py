# pyright: strict
"""Queries on an evaluation result: rows for a table, means, paired differences and their significance."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pipelines import languages
from pipelines.evals import Measure, Metric
from pipelines.report.format import has_interval, plain
from pipelines.results.evaluation_result import MERGED, MODELS, EvaluationResult, FiguresByModel, clean
from pipelines.results.measures import label, measure
from pipelines.results.metric_key import LANGUAGE, MetricKey, languages_of

REFERENCES = {
    "chance": "chance", "constant": "always one answer", "random": "random model", "ngrams": "character n-grams",
    "copy": "source copied",
}  # fmt: skip
"""{name in metrics.json: title} of what needs no learning."""
TRIVIAL_BASELINES = ("chance", "constant")
"""References that know nothing of the item."""
ALL = "all"
"""The group of all languages, in the keys of means."""
SOURCE, TRANSFER = "source", "transfer"
"""Groups of the languages of one task: those that training taught it in, and the others."""
GROUP_MEANS = {SOURCE: "mean of languages trained in", TRANSFER: "mean of languages not trained in"}
BETTER, WORSE, SAME = "better", "worse", "no significant difference"
NOT_ABOVE_CHANCE = "better, but not above chance"
HIGHER, LOWER = "higher", "lower"
"""BETTER and WORSE of a metric that is neutral."""
Metrics = EvaluationResult


class GapRow(NamedTuple):
    """How far one language, or the mean of all, lies behind the pivot by one metric."""

    key: MetricKey
    name: str
    """Of the language, or `Mean`."""
    cells: dict[str, Metric | None]
    """By model."""
    change: Metric | None
    """Of aligned against the reference; less is better."""


def models(metrics: Metrics) -> tuple[str, ...]:
    """The models to show: base, control and aligned, and merged where it was evaluated."""
    return (*MODELS, MERGED) if MERGED in metrics.models else MODELS


def reference(metrics: Metrics) -> str:
    """The model that aligned is compared with: control, or base where there is no control."""
    return "control" if metrics.figures("control") else "base"


def references(metrics: Metrics) -> dict[str, str]:
    """{name: title} of chance and of the baselines that were measured."""
    return {name: title for name, title in REFERENCES.items() if name == "chance" or metrics.figures(name)}


def summary(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows for a table: {key, subject, metric, base, control, aligned, chance ...}; the means of a metric come last.

    `subject` is the language or pair in English. Figures are floats, None where there is none. Figures per layer are
    left out.
    """
    rows: list[dict[str, Any]] = []
    titles = {name: name for name in models(metrics)} | references(metrics)
    for task, metric, keys in by_metric(metrics):
        for key in keys:
            row = {title: value(metrics, name, key) for name, title in titles.items()}
            rows.append({"key": key, "subject": subject(key), "metric": metric, **row})
        for title, group, members in group_means(metrics, keys):
            row = {titles[name]: _value(mean(metrics, name, members, group)) for name in titles}
            key = str(MetricKey(task, "mean" if group == ALL else group, metric))
            rows.append({"key": key, "subject": title, "metric": metric, **row})
    return rows


def group_means(metrics: Metrics, keys: list[str]) -> list[tuple[str, str, list[str]]]:
    """(title, group, keys) of the means to show below a metric: of all, and by whether training taught the task."""
    out = [("mean", ALL, keys)] if len(keys) > 1 else []
    for group, langs in metrics.task_groups.get(MetricKey.parse(keys[0]).task, {}).items():
        if members := [key for key in keys if MetricKey.parse(key).subject in langs]:
            out.append((GROUP_MEANS[group], group, members))
    return out


def table(metrics: Metrics, is_wanted: Callable[[str, str], bool] = lambda task, metric: True) -> str:
    """`summary` as plain text, of the metrics that are wanted; rates in percent."""
    titles = (*models(metrics), *references(metrics).values())
    rows: list[tuple[str, ...]] = [("", "", *titles)]
    for row in summary(metrics):
        key = MetricKey.parse(row["key"])
        if is_wanted(key.task, key.metric):
            cells = [plain(row[name], measure(key.task, key.metric)) for name in titles]
            rows.append((row["subject"], label(key.task, key.metric), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join("  ".join(line) for line in lines)


def by_metric(metrics: Metrics) -> list[tuple[str, str, list[str]]]:
    """(task, metric, keys) of all overall figures, recall@1 first; a metric has one key per subject."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in models(metrics):
        for text in metrics.figures(name):
            key = MetricKey.parse(text)
            if key.is_overall:
                found.setdefault((key.task, key.metric), set()).add(text)
    order = sorted(found, key=lambda group: (group[0] != "retrieval", group[1] != "recall@1", group))
    return [(task, metric, sorted(found[task, metric])) for task, metric in order]


def keys_of(metrics: Metrics, task: str, metric: str) -> list[str]:
    """The keys of one metric, one per language or pair."""
    return next((keys for t, m, keys in by_metric(metrics) if (t, m) == (task, metric)), list[str]())


def by_layer(metrics: Metrics, name: str, metric: str = "recall@1", task: str = "retrieval") -> dict[int, Metric]:
    """{layer: mean over pairs or languages} of a metric of one model."""
    layers: dict[int, list[Metric]] = {}
    for text, figure in sorted(metrics.figures(name).items()):
        key = MetricKey.parse(text)
        if (key.task, key.metric) == (task, metric) and key.layer is not None:
            layers.setdefault(key.layer, []).append(clean(figure) or {"value": math.nan})
    return {layer: _mean(figures) for layer, figures in sorted(layers.items())}


def at_layer(metrics: Metrics) -> str:
    """` at the trained layer (3)` or ` at layer 5`: the layer of the recall@1 that has no layer in its key."""
    aligned, trained = metrics.figures("aligned"), metrics.trained_layer
    keys = keys_of(metrics, "retrieval", "recall@1")
    layers = [
        layer
        for layer in by_layer(metrics, "aligned")
        if all(aligned.get(str(MetricKey.parse(key)._replace(layer=layer))) == aligned.get(key) for key in keys)
    ]
    if not keys or not layers:
        return ""
    return f" at the trained layer ({trained})" if trained in layers else f" at layer {layers[0]}"


def figure(metrics: FiguresByModel, name: str, key: str) -> Metric | None:
    """A figure of a model as {value, low, high, n}; None where there is none or it is not a number."""
    return metrics.figure(name, key)


def value(metrics: FiguresByModel, name: str, key: str) -> float | None:
    """The value of a figure; None where there is none or it is not a number."""
    return _value(metrics.figure(name, key))


def mean(metrics: FiguresByModel, name: str, keys: Iterable[str], group: str = ALL) -> Metric | None:
    """The mean over `keys`; None where one of them is missing, so that means of different sets are not compared.

    keys: of one metric, all or those of `group`. The mean of metrics.json is taken where it is there; else the interval
    is the mean of the intervals, as if all keys had the same error: pairs share the texts of their common language, so
    it is never too narrow.
    """
    keys = list(keys)
    if len(keys) > 1 and isinstance(metrics, EvaluationResult):
        known = clean(metrics.means.get(name, {}).get(mean_key(keys, group)))
        if known is not None:
            return known
    figures = [figure for key in keys if (figure := metrics.figure(name, key)) is not None]
    return _mean(figures) if figures and len(figures) == len(keys) else None


def mean_key(keys: Iterable[str], group: str = ALL) -> str:
    """`retrieval/all/recall@1`: the key of the mean of several figures."""
    return str(MetricKey.parse(next(iter(keys))).with_subject(group))


def paired_difference(metrics: Metrics, against: str, keys: Iterable[str], group: str = ALL) -> Metric | None:
    """aligned - `against` of one figure or of the mean of several, as {value, low, high, n, p, detectable}.

    The paired difference of metrics.json is taken where it is there, else `difference`.
    """
    keys = list(keys)
    a, b = (mean(metrics, name, keys, group) for name in ("aligned", against))
    if not a or not b:
        return None
    known = metrics.differences.get(f"aligned-{against}", {})
    return clean(known.get(keys[0] if len(keys) == 1 else mean_key(keys, group))) or difference(a, b)


def share(difference: Metric, reference: Metric) -> Metric:
    """A difference as a share of the figure it is measured from; {} where that is not positive.

    The reference counts as known: its own error moves the share by a share of the share.
    """
    if reference["value"] <= 0:
        return {}
    parts = ("value", "low", "high", "detectable")
    return {**difference, **{part: difference[part] / reference["value"] for part in parts if part in difference}}


def difference(a: Metric, b: Metric) -> Metric:
    """a - b of figures that are not paired, with a 95 % interval where both have one.

    The distances to the bounds combine in quadrature, as if the two were independent. Figures of two models on the
    same items are correlated, so this is conservative.
    """
    out: Metric = {"value": a["value"] - b["value"]}
    if has_interval(a) and has_interval(b):
        out["low"] = out["value"] - math.hypot(a["value"] - a["low"], b["high"] - b["value"])
        out["high"] = out["value"] + math.hypot(a["high"] - a["value"], b["value"] - b["low"])
    return out


def significance(diff: Metric | None, lower_is_better: bool = False) -> str:
    """BETTER, WORSE, or SAME where the interval contains 0 or there is none."""
    if not diff or not has_interval(diff) or diff["low"] <= 0 <= diff["high"]:
        return SAME
    return BETTER if (diff["value"] > 0) != lower_is_better else WORSE


def best_trivial(metrics: Metrics, keys: Iterable[str]) -> float | None:
    """The highest mean over `keys` of TRIVIAL_BASELINES; None where none was measured."""
    keys = list(keys)
    return max((item["value"] for name in TRIVIAL_BASELINES if (item := mean(metrics, name, keys))), default=None)


def significance_vs_chance(
    metrics: Metrics, keys: Iterable[str], aligned: Metric | None, diff: Metric | None, what: Measure
) -> str:
    """`significance` of `keys`; NOT_ABOVE_CHANCE where the interval of a better figure reaches a trivial baseline.

    A model that knows nothing may still change which answer it always gives, and be right more often by it.
    """
    result = significance(diff, what.lower_is_better)
    if result != BETTER or what.lower_is_better or not aligned:
        return result
    least = best_trivial(metrics, keys)
    return result if least is None or aligned.get("low", aligned["value"]) > least else NOT_ABOVE_CHANCE


def word(result: str, what: Measure) -> str:
    """A significance as a word; of a neutral metric HIGHER or LOWER."""
    return {BETTER: HIGHER, WORSE: LOWER}.get(result, result) if what.neutral else result


def gap_rows(metrics: Metrics) -> list[GapRow]:
    """All gaps of metrics.json, by metric; the mean of several languages last."""
    gaps, out = metrics.gaps, list[GapRow]()
    keys = sorted(
        map(MetricKey.parse, gaps.get("aligned", {})), key=lambda k: (k.task, k.metric, k.subject == ALL, k.subject)
    )
    for key in keys:
        is_single = sum((other.task, other.metric) == (key.task, key.metric) for other in keys) < 3
        if is_single if key.subject == ALL else not LANGUAGE.fullmatch(key.subject):
            continue
        cells = {name: clean(gaps[name].get(str(key))) for name in models(metrics) if name in gaps}
        name = "Mean" if key.subject == ALL else languages.name(key.subject)
        change = gaps.get(f"aligned-{reference(metrics)}", {}).get(str(key))
        out.append(GapRow(key, name, cells, clean(change)))
    return out


def subject(key: str) -> str:
    """The subject of a key in English: `retrieval/deu_Latn-eng_Latn/recall@1` -> `German – English`.

    Of a direction, `translation/deu_Latn>eng_Latn/chrF`, it is `German → English`.
    """
    return subject_name(MetricKey.parse(key).subject)


def subject_name(code: str) -> str:
    """A language, pair or direction in English; anything else as it is."""
    if langs := languages_of(code):
        return f"\u00a0{'→' if '>' in code else '–'} ".join(languages.name(lang) for lang in langs)
    return code


def _value(item: Metric | None) -> float | None:
    return float(item["value"]) if item else None


def _mean(figures: list[Metric]) -> Metric:
    parts = ("value", "low", "high") if all(has_interval(item) for item in figures) else ("value",)
    return {part: sum(item[part] for item in figures) / len(figures) for part in parts}
