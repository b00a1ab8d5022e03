"""What the figures of metrics.json say: rows for a table, means, and differences with intervals. Arithmetic only."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipelines import languages
from pipelines.evals import Measure, Metric
from pipelines.results.measures import label, measure

MODELS = ("base", "control", "aligned")
MERGED = "merged"
"""Of recipes that merge adapters: shown beside the others where it is there; the verdict is of `aligned`."""
REFERENCES = {
    "chance": "chance", "constant": "always one answer", "random": "random model", "ngrams": "character n-grams",
    "copy": "source copied",
}  # fmt: skip
"""What needs no learning: {name in metrics.json: title}."""
HIGHER, LOWER = "higher", "lower"
ALL = "all"
"""The group of all languages, in the keys of means."""
TRIVIAL_BASELINES = ("chance", "constant")
"""References that know nothing of the question."""
BETTER, WORSE, SAME = "better", "worse", "cannot be told apart"
GUESSED = "better, but not above guessing"
SOURCE, TRANSFER = "source", "transfer"
"""Groups of the languages of one task: those that training taught it in, and the others."""
TRAINED = {SOURCE: "mean of languages trained in", TRANSFER: "mean of languages not trained in"}
Metrics = Mapping[str, Any]
"""What metrics.json holds: {"base": {key: metric}, "control": ..., "aligned": ..., "chance": ...}."""


def models(metrics: Metrics) -> tuple[str, ...]:
    """The models to show: base, control and aligned, and merged where it was evaluated."""
    return (*MODELS, MERGED) if MERGED in metrics else MODELS


def summary(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows for a table: {key, subject, metric, base, control, aligned, chance ...}, one a metric, and last its means.

    `merged` stands before `chance` where it was evaluated.

    `subject` is the language or pair in English. Figures are floats, None where there is none. Figures per layer are
    left out.
    """
    rows = []
    shown = {name: name for name in models(metrics)} | references(metrics)
    for task, metric, keys in groups(metrics):
        for key in keys:
            row = {title: value(metrics, name, key) for name, title in shown.items()}
            rows.append({"key": key, "subject": subject(key), "metric": metric, **row})
        for title, group, some in means_of(metrics, keys):
            row = {shown[name]: _value(mean(metrics, name, some, group)) for name in shown}
            called = "mean" if group == ALL else group
            rows.append({"key": f"{task}/{called}/{metric}", "subject": title, "metric": metric, **row})
    return rows


def means_of(metrics: Metrics, keys: list[str]) -> list[tuple[str, str, list[str]]]:
    """(title, group, keys) of the means to show below the figures of one metric: of all, and by how it was trained."""
    out = [("mean", ALL, keys)] if len(keys) > 1 else []
    for group, langs in metrics.get("task_groups", {}).get(keys[0].split("/")[0], {}).items():
        if own := [key for key in keys if key.split("/")[1] in langs]:
            out.append((TRAINED[group], group, own))
    return out


def table(metrics: Metrics, wanted: Callable[[str, str], bool] = lambda task, metric: True) -> str:
    """`summary` as plain text, of the metrics that are `wanted`; rates in percent."""
    titles = (*models(metrics), *references(metrics).values())
    rows: list[tuple[str, ...]] = [("", "", *titles)]
    for row in summary(metrics):
        task = row["key"].partition("/")[0]
        if not wanted(task, row["metric"]):
            continue
        shown = [plain(row[name], measure(task, row["metric"])) for name in titles]
        rows.append((row["subject"], label(task, row["metric"]), *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join("  ".join(line) for line in lines)


def plain(number: float | None, what: Measure) -> str:
    """`26.9 %` of a rate, `45.3` of a score, `2.13` of what is neither."""
    if number is None:
        return "–"
    if what.rate:
        return f"{number * 100:.1f} %"
    return f"{number:.1f}" if what.score else f"{number:.2f}"


def as_rate(item: Metric, what: Measure) -> Metric:
    """A figure, or a difference, of a score as if it were a rate, so that `points` may be said of it; others as is."""
    if not what.score:
        return item
    return {part: number if number is None or part in ("n", "p") else number / 100 for part, number in item.items()}


def references(metrics: Metrics) -> dict[str, str]:
    """{name: title} of chance and of the baselines that were measured."""
    return {name: title for name, title in REFERENCES.items() if name == "chance" or metrics.get(name)}


def groups(metrics: Metrics) -> list[tuple[str, str, list[str]]]:
    """(task, metric, keys) of all figures that are not per layer, in sorted order; a metric has one key a subject."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in models(metrics):
        for key in metrics.get(name, {}):
            task, _, rest = key.partition("/")
            _, _, metric = rest.partition("/")
            if metric and "/" not in metric:
                found.setdefault((task, metric), set()).add(key)
    order = sorted(found, key=lambda group: (group[0] != "retrieval", group[1] != "recall@1", group))
    return [(task, metric, sorted(found[task, metric])) for task, metric in order]


def keys_of(metrics: Metrics, task: str, metric: str) -> list[str]:
    """The keys of one metric, one a language or pair."""
    return next((keys for *group, keys in groups(metrics) if group == [task, metric]), [])


def by_layer(metrics: Metrics, name: str, metric: str = "recall@1", task: str = "retrieval") -> dict[int, Metric]:
    """{layer: mean over pairs or languages} of a metric of one model."""
    layers: dict[int, list[Metric]] = {}
    for key in sorted(metrics.get(name, {})):
        if found := re.fullmatch(rf"{task}/[^/]+/{re.escape(metric)}/layer=(\d+)", key):
            layers.setdefault(int(found[1]), []).append(_figure(metrics[name][key]))
    return {layer: _mean(found) for layer, found in sorted(layers.items())}


def at_layer(metrics: Metrics) -> str:
    """` at the trained layer (3)` or ` at layer 5`: of which layer recall@1 without a layer in its key is."""
    aligned = metrics.get("aligned", {})
    keys, trained = keys_of(metrics, "retrieval", "recall@1"), metrics.get("trained_layer")
    layers = [
        n for n in by_layer(metrics, "aligned") if all(aligned.get(f"{k}/layer={n}") == aligned.get(k) for k in keys)
    ]
    if not keys or not layers:
        return ""
    return f" at the trained layer ({trained})" if trained in layers else f" at layer {layers[0]}"


def figure(metrics: Metrics, name: str, key: str) -> Metric | None:
    """A metric of a model as {value, low, high, n}; None where there is none or it is not a number."""
    found = metrics.get(name, {}).get(key)
    return None if found is None or _value(_figure(found)) is None else _figure(found)


def value(metrics: Metrics, name: str, key: str) -> float | None:
    return _value(figure(metrics, name, key))


def mean(metrics: Metrics, name: str, keys: Iterable[str], group: str = ALL) -> Metric | None:
    """The mean over `keys`; None where one of them is missing, so that means of different sets are not compared.

    keys: of one metric, all or those of `group`. Where the figures did not remember their items, the interval is the
    mean of the intervals, as if all keys erred together: pairs share the texts of their common language, so this is
    never too narrow.
    """
    keys = list(keys)
    if len(keys) > 1 and (known := metrics.get("means", {}).get(name, {}).get(mean_key(keys, group))):
        return dict(known)
    found = [figure(metrics, name, key) for key in keys]
    whole = [item for item in found if item is not None]
    return _mean(whole) if whole and len(whole) == len(found) else None


def mean_key(keys: Iterable[str], group: str = ALL) -> str:
    """`retrieval/all/recall@1`: what a mean of several figures is called."""
    task, _, metric = next(iter(keys)).split("/", 2)
    return f"{task}/{group}/{metric}"


def paired_difference(metrics: Metrics, against: str, keys: Iterable[str], group: str = ALL) -> Metric | None:
    """aligned − `against` of one figure, or of the mean of several: the paired one, {value, low, high, n, p,
    detectable}, where metrics.json has it, else `difference`.
    """
    keys = list(keys)
    a, b = (mean(metrics, name, keys, group) for name in ("aligned", against))
    if not a or not b:
        return None
    found = metrics.get("differences", {}).get(f"aligned-{against}", {})
    known = found.get(keys[0] if len(keys) == 1 else mean_key(keys, group))
    return dict(known) if known and _value(known) is not None else difference(a, b)


def share(difference: Metric, of: Metric) -> Metric:
    """A difference as a share of the figure it is measured from; {} where that is not positive.

    The figure counts as known: its own error moves the share by a share of the share.
    """
    if of["value"] <= 0:
        return {}
    parts = ("value", "low", "high", "detectable")
    scaled = {part: difference[part] / of["value"] for part in parts if difference.get(part) is not None}
    return {**difference, **scaled}


def difference(a: Metric, b: Metric) -> Metric:
    """a − b with a 95 % interval where both have one, of figures that did not remember their items.

    The distances to the bounds combine in quadrature, as if the two were independent. Figures of two models on the
    same items rise and fall together, so this is conservative.
    """
    out: Metric = {"value": a["value"] - b["value"]}
    if bounded(a) and bounded(b):
        out["low"] = out["value"] - math.hypot(a["value"] - a["low"], b["high"] - b["value"])
        out["high"] = out["value"] + math.hypot(a["high"] - a["value"], b["value"] - b["low"])
    return out


def significance(diff: Metric | None, lower_is_better: bool = False) -> str:
    """`better`, `worse`, or `cannot be told apart` where the interval holds 0 or there is none."""
    if not diff or not bounded(diff) or diff["low"] <= 0 <= diff["high"]:
        return SAME
    return BETTER if (diff["value"] > 0) != lower_is_better else WORSE


def best_trivial(metrics: Metrics, keys: Iterable[str]) -> float | None:
    """The most that knowing nothing of the question gives, in the mean over `keys`; None where that is not known."""
    keys = list(keys)
    return max((item["value"] for name in TRIVIAL_BASELINES if (item := mean(metrics, name, keys))), default=None)


def significance_vs_chance(
    metrics: Metrics, keys: Iterable[str], aligned: Metric | None, diff: Metric | None, what: Measure
) -> str:
    """`told` of a figure or mean of `keys`; GUESSED where what got better is, by its interval, no more than GUESSES.

    A model that knows nothing may still change which answer it always gives, and be right more often by it.
    """
    found = significance(diff, what.lower_is_better)
    if found != BETTER or what.lower_is_better or not aligned:
        return found
    least = best_trivial(metrics, keys)
    return found if least is None or aligned.get("low", aligned["value"]) > least else GUESSED


def word(found: str, what: Measure) -> str:
    """What was told of a metric; of a neutral one `higher` or `lower`."""
    return {BETTER: HIGHER, WORSE: LOWER}.get(found, found) if what.neutral else found


class GapRow(NamedTuple):
    """How far one language, or the mean of all, lies behind the pivot by one metric."""

    task: str
    metric: str
    name: str
    cells: dict[str, Metric | None]
    """By model."""
    moved: Metric | None
    """Of aligned against control, or base where there is no control; less is better."""


def gap_rows(metrics: Metrics) -> list[GapRow]:
    """All gaps of metrics.json, by metric; the mean of several languages last."""
    found = metrics.get("gaps", {})
    against = "control" if metrics.get("control") else "base"
    out = []
    keys = sorted(found.get("aligned", {}), key=lambda key: (key.split("/")[0], key.split("/")[2], ALL in key, key))
    for key in keys:
        task, lang, metric = key.split("/", 2)
        alone = sum(other.startswith(f"{task}/") and other.endswith(f"/{metric}") for other in keys) < 3
        if alone if lang == ALL else not re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", lang):
            continue
        cells = {name: found[name].get(key) for name in models(metrics) if name in found}
        name = "Mean" if lang == ALL else languages.name(lang)
        out.append(GapRow(task, metric, name, cells, found.get(f"aligned-{against}", {}).get(key)))
    return out


def subject(key: str) -> str:
    """What a key is of, in English: `retrieval/deu_Latn-eng_Latn/recall@1` -> `German – English`.

    Of a direction, `translation/deu_Latn>eng_Latn/chrF`, it is `German → English`.
    """
    code = key.split("/")[1]
    if found := languages_of(code):
        return f"\u00a0{'→' if '>' in code else '–'} ".join(languages.name(part) for part in found)
    return code


def languages_of(code: str) -> list[str]:
    """The languages that the subject of a key names: a language, a pair or a direction; none where it is no such."""
    parts = re.split("[->]", code)
    return parts if all(re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", part) for part in parts) else []


def digits(number: float) -> int:
    """Decimals of a rate in percent: two where it is below 1 %."""
    return 2 if 0 < abs(number) < 0.01 else 1


def percent(number: float) -> str:
    """0.2693 -> `26.9 %`, with a true minus sign and a space that does not break."""
    return f"{number * 100:.{digits(number)}f}\u00a0%".replace("-", "−")


def points(number: float) -> str:
    """0.2271 -> `22.7 points`."""
    return f"{abs(number) * 100:.{digits(number)}f} points"


def interval(item: Metric, unit: str = "\u00a0%") -> str:
    """` (24.1 to 29.7 %)`, the bounds of an interval of rates or, signed, of their differences."""
    if not bounded(item):
        return ""
    sign, places = "+" if item["low"] < 0 or "points" in unit else "", digits(item["value"])
    low, high = (f"{item[part] * 100:{sign}.{places}f}" for part in ("low", "high"))
    return f" ({low} to {high}{unit})".replace("-", "−")


def _figure(found: Any) -> Metric:
    return dict(found) if isinstance(found, Mapping) else {"value": found}


def _value(item: Metric | None) -> float | None:
    number = item.get("value") if item else None
    return None if number is None or not math.isfinite(number) else float(number)


def bounded(item: Metric) -> bool:
    """Whether the figure has an interval."""
    return item.get("low") is not None and item.get("high") is not None


def _mean(found: list[Metric]) -> Metric:
    parts = ("value", "low", "high") if all(bounded(item) for item in found) else ("value",)
    return {part: sum(item[part] for item in found) / len(found) for part in parts}
