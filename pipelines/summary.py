"""What the figures say: rows for a table, differences with intervals, and a verdict in words. Arithmetic only."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pipelines import languages
from pipelines.evals import Metric

MODELS = ("base", "control", "aligned")
MERGED = "merged"
"""Of recipes that merge adapters: shown beside the others where it is there; the verdict is of `aligned`."""
REFERENCES = {"chance": "chance", "random": "random model", "ngrams": "character n-grams"}
"""What needs no learning: {name in metrics.json: title}."""
LOWER_IS_BETTER = frozenset({"nats_per_token", "uniformity"})
NEUTRAL = frozenset({"variance_ratio", "language_probe"})
"""Metrics of which neither more nor less is better by itself."""
PLAIN = frozenset({"nats_per_token", "uniformity", "effective_rank", "cosine_gap"})
"""Metrics that are no rates, shown as they are."""
HIGHER, LOWER = "higher", "lower"
BETTER, WORSE, SAME = "better", "worse", "cannot be told apart"
HEADLINES = {
    BETTER: "Better: translations find each other more often after aligning",
    WORSE: "Worse: translations find each other less often after aligning",
    SAME: "Cannot be told apart: aligning shows no effect on finding translations",
    "text": "Cannot be told apart from control: the training text helped, aligning shows no effect of its own",
}

Metrics = Mapping[str, Any]
"""What metrics.json holds: {"base": {key: metric}, "control": ..., "aligned": ..., "chance": ...}."""


class Verdict(NamedTuple):
    """The result in words."""

    tone: str
    """`better`, `mixed`, `worse` or `same`."""
    headline: str
    sentences: list[str]


def models(metrics: Metrics) -> tuple[str, ...]:
    """The models to show: base, control and aligned, and merged where it was evaluated."""
    return (*MODELS, MERGED) if MERGED in metrics else MODELS


def summary(metrics: Metrics) -> list[dict[str, Any]]:
    """Rows for a table: {key, subject, metric, base, control, aligned, chance ...}, one a metric and its mean last.

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
        if len(keys) > 1:
            row = {title: _value(mean(metrics, name, keys)) for name, title in shown.items()}
            rows.append({"key": f"{task}/mean/{metric}", "subject": "mean", "metric": metric, **row})
    return rows


def table(metrics: Metrics) -> str:
    """`summary` as plain text; rates in percent."""
    titles = (*models(metrics), *references(metrics).values())
    rows: list[tuple[str, ...]] = [("", "", *titles)]
    for row in summary(metrics):
        scale, unit = (1, "") if row["metric"] in PLAIN else (100, " %")
        cells = [row[name] for name in titles]
        shown = ["–" if cell is None else f"{cell * scale:.{2 if scale == 1 else 1}f}{unit}" for cell in cells]
        rows.append((row["subject"], row["metric"].replace("_", " "), *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        [cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(cells)]
        for cells in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join("  ".join(line) for line in lines)


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


def mean(metrics: Metrics, name: str, keys: Iterable[str]) -> Metric | None:
    """The mean over `keys`; None where one of them is missing, so that means of different sets are not compared.

    Its interval is the mean of the intervals, as if all keys erred together: pairs share the texts of their common
    language, so this is never too narrow.
    """
    found = [figure(metrics, name, key) for key in keys]
    whole = [item for item in found if item is not None]
    return _mean(whole) if whole and len(whole) == len(found) else None


def difference(a: Metric, b: Metric) -> Metric:
    """a − b with a 95 % interval where both have one.

    The distances to the bounds combine in quadrature, as if the two were independent. They are figures of two models
    on the same items, which rise and fall together, so this is conservative; a paired bootstrap would be narrower.
    """
    out: Metric = {"value": a["value"] - b["value"]}
    if _bounded(a) and _bounded(b):
        out["low"] = out["value"] - math.hypot(a["value"] - a["low"], b["high"] - b["value"])
        out["high"] = out["value"] + math.hypot(a["high"] - a["value"], b["value"] - b["low"])
    return out


def change(a: Metric, b: Metric) -> Metric:
    """a / b − 1 for positive figures; its interval is `difference` of the logarithms."""
    if min(item.get(part, 1) for item in (a, b) for part in ("value", "low", "high")) <= 0:
        return {}
    logs = [{part: math.log(number) for part, number in item.items() if part != "n"} for item in (a, b)]
    return {part: math.expm1(number) for part, number in difference(*logs).items()}


def told(diff: Metric | None, lower_is_better: bool = False) -> str:
    """`better`, `worse`, or `cannot be told apart` where the interval holds 0 or there is none."""
    if not diff or not _bounded(diff) or diff["low"] <= 0 <= diff["high"]:
        return SAME
    return BETTER if (diff["value"] > 0) != lower_is_better else WORSE


def word(diff: Metric | None, metric: str) -> str:
    """`told` of a metric; of a neutral one `higher` or `lower`."""
    found = told(diff, metric in LOWER_IS_BETTER)
    return found if metric not in NEUTRAL else {BETTER: HIGHER, WORSE: LOWER}.get(found, found)


def subject(key: str) -> str:
    """The language or pair of a key in English: `retrieval/deu_Latn-eng_Latn/recall@1` -> `German – English`."""
    code = key.split("/")[1]
    parts = code.split("-")
    if all(re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", part) for part in parts):
        return "\u00a0– ".join(languages.name(part) for part in parts)
    return code


def digits(number: float) -> int:
    """Decimals of a rate in percent: two where it is below 1 %."""
    return 2 if 0 < abs(number) < 0.01 else 1


def percent(number: float) -> str:
    """0.2693 -> `26.9 %`, with a true minus sign and a space that does not break."""
    return f"{number * 100:.{digits(number)}f}\u00a0%".replace("-", "−")


def points(number: float) -> str:
    """0.2271 -> `22.7 points`."""
    return f"{abs(number) * 100:.{digits(number)}f} points"


def verdict(metrics: Metrics, pivot: str = "eng_Latn") -> Verdict:
    """Whether aligning made the model better, in words: recall@1 against base and control, the pivot's loss."""
    sentences: list[str] = []
    recall = _recall(metrics, sentences)
    loss = _loss(metrics, pivot, sentences)
    name = languages.name(pivot)
    if recall is None and loss is None:
        return Verdict("same", "Nothing to compare: the recipe's evals give no figure of this kind", sentences)
    if recall is None:
        tone = {BETTER: "better", WORSE: "worse"}.get(str(loss), "same")
        return Verdict(tone, f"{name} after aligning: {loss}; no retrieval was measured", sentences)
    headline = HEADLINES[recall]
    if loss == WORSE:
        both = {BETTER: "mixed"}.get(recall, "worse")
        text = f"Mixed: translations find each other more often, but {name} got worse"
        return Verdict(both, text if both == "mixed" else f"{headline}, and {name} got worse", sentences)
    tone = {BETTER: "better", WORSE: "worse"}.get(recall, "same")
    if recall == BETTER and loss == SAME:
        headline += f", and no harm to {name} can be told"
    return Verdict(tone, headline, sentences)


def _recall(metrics: Metrics, sentences: list[str]) -> str | None:
    """Key of HEADLINES for recall@1 at the trained layer; appends what was found."""
    keys = [
        key for task, metric, found in groups(metrics) if (task, metric) == ("retrieval", "recall@1") for key in found
    ]
    aligned = mean(metrics, "aligned", keys)
    if aligned is None:
        if keys:
            sentences.append("Recall@1 after aligning is not a number: the model is broken.")
        return WORSE if keys else None
    against = {name: other for name in ("base", "control") if (other := mean(metrics, name, keys))}
    diffs = {name: difference(aligned, other) for name, other in against.items()}
    chance = mean(metrics, "chance", keys)
    text = f"Recall@1{at_layer(metrics)}"
    text += f", averaged over {len(keys)} pairs," if len(keys) > 1 else f" of {subject(keys[0])}"
    text += f" is {percent(aligned['value'])}{_interval(aligned)} after aligning"
    parts = [
        f"{points(diff['value'])} {'above' if diff['value'] >= 0 else 'below'} {name}'s "
        f"{percent(against[name]['value'])}{_interval(diff, ' points')}, {_word(told(diff))}"
        for name, diff in diffs.items()
    ]
    text += "".join(f"{': ' if i == 0 else '; '}{part}" for i, part in enumerate(parts))
    sentences.append(text + (f". Guessing gives {percent(chance['value'])}." if chance else "."))
    _minority(metrics, keys, "pairs", sentences)
    found = {name: told(diff) for name, diff in diffs.items()}
    if WORSE in found.values():
        return WORSE
    if found and all(item == BETTER for item in found.values()):
        return BETTER
    return "text" if found.get("base") == BETTER else SAME


def _loss(metrics: Metrics, pivot: str, sentences: list[str]) -> str | None:
    """The pivot's loss against control, or base where there is no control; appends what was found."""
    keys = [
        key for task, metric, found in groups(metrics) if (task, metric) == ("loss", "nats_per_token") for key in found
    ]
    key, name = f"loss/{pivot}/nats_per_token", languages.name(pivot)
    if key not in keys:
        return None
    reference = "control" if metrics.get("control") else "base"
    aligned, other = figure(metrics, "aligned", key), figure(metrics, reference, key)
    if aligned is None:
        sentences.append(f"{name} loss after aligning is not a number: the model is broken, worse.")
        return WORSE
    if other is None:
        return None
    moved = change(aligned, other)
    result = told(moved, lower_is_better=True)
    text = f"{name} loss is {aligned['value']:.2f} nats per token"
    if moved:
        side = "above" if moved["value"] >= 0 else "below"
        text += f", {percent(abs(moved['value']))} {side} {reference}'s {other['value']:.2f}{_interval(moved)}"
    sentences.append(f"{text}, {_word(result)}.")
    _minority(metrics, [item for item in keys if item != key], "other languages", sentences)
    return result


def _minority(metrics: Metrics, keys: list[str], what: str, sentences: list[str]) -> None:
    """Append which of several subjects got worse than control; an average must not hide them."""
    reference = "control" if metrics.get("control") else "base"
    worse = []
    for key in keys:
        aligned, other = figure(metrics, "aligned", key), figure(metrics, reference, key)
        lower = key.rpartition("/")[2] in LOWER_IS_BETTER
        if other and (aligned is None or told(difference(aligned, other), lower) == WORSE):
            worse.append(subject(key))
    if worse and len(keys) > 1:
        kind = "Recall@1" if what == "pairs" else "Loss"
        which = f"all {len(keys)} {what}"
        if len(worse) < len(keys):
            which = f"{len(worse)} of {len(keys)} {what}: {', '.join(worse)}"
        sentences.append(f"{kind} is worse than {reference}'s in {which}.")


def _word(result: str) -> str:
    return {BETTER: "better", WORSE: "worse"}.get(result, "which cannot be told apart from no change")


def _interval(item: Metric, unit: str = "\u00a0%") -> str:
    """` (24.1 to 29.7 %)`, the bounds of an interval of rates or, signed, of their differences."""
    if not _bounded(item):
        return ""
    sign, places = "+" if item["low"] < 0 or "points" in unit else "", digits(item["value"])
    low, high = (f"{item[part] * 100:{sign}.{places}f}" for part in ("low", "high"))
    return f" ({low} to {high}{unit})".replace("-", "−")


def _figure(found: Any) -> Metric:
    return dict(found) if isinstance(found, Mapping) else {"value": found}


def _value(item: Metric | None) -> float | None:
    number = item.get("value") if item else None
    return None if number is None or not math.isfinite(number) else float(number)


def _bounded(item: Metric) -> bool:
    return item.get("low") is not None and item.get("high") is not None


def _mean(found: list[Metric]) -> Metric:
    parts = ("value", "low", "high") if all(_bounded(item) for item in found) else ("value",)
    return {part: sum(item[part] for item in found) / len(found) for part in parts}
