"""Figures of several models on the same items -> paired differences, means by language group, gaps to the pivot.

What it gives is part of metrics.json; figures that do not remember their items are compared as if independent.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.evals import Metric
from pipelines.results.contamination import Overlap
from pipelines.results.measures import measure, measure_of
from pipelines.results.summary import ALL, SOURCE, TRANSFER, difference, languages_of
from pipelines.statistics import BootstrappedMetric, average, gap, paired, with_interval, without

LOW_RESOURCE = 2 / 3
"""Share of the largest language's rows in the mix below which a language counts as low-resource."""
Figures = Mapping[str, Metric]
Groups = Mapping[str, list[str]]


def language_groups(keys: Iterable[str], rows: Mapping[str, int], pivot: str) -> dict[str, list[str]]:
    """{group: languages} of those measured beside the pivot: seen and unseen in the mix; high and low of the seen.

    rows: of the mix, by language. High and low only where both are.
    """
    measured = sorted({lang for key in keys for lang in _languages(key, pivot)})
    seen = [lang for lang in measured if rows.get(lang)]
    most = max((rows[lang] for lang in seen), default=0)
    low = [lang for lang in seen if rows[lang] < LOW_RESOURCE * most]
    found = {"seen": seen, "unseen": [lang for lang in measured if lang not in seen]}
    if low:
        found |= {"high": [lang for lang in seen if lang not in low], "low": low}
    return {name: langs for name, langs in found.items() if langs}


def task_groups(keys: Iterable[str], trained_in: Groups) -> dict[str, dict[str, list[str]]]:
    """{task: {SOURCE: languages, TRANSFER: languages}} of those measured; only groups that are not empty."""
    out: dict[str, dict[str, list[str]]] = {}
    for task, trained in trained_in.items():
        langs = sorted({key.split("/")[1] for key in keys if key.startswith(f"{task}/")})
        halves = {SOURCE: [lang for lang in langs if lang in trained]}
        halves[TRANSFER] = [lang for lang in langs if lang not in trained]
        out[task] = {group: some for group, some in halves.items() if some}
    return out


def compared(
    models: Mapping[str, Figures],
    pivot: str,
    groups: Groups,
    overlap: Overlap | None = None,
    of_task: Mapping[str, Groups] | None = None,
) -> dict[str, Any]:
    """{differences, means, gaps} and, with `overlap`, {contamination}, as metrics.json has them.

    models: {base, control, aligned ...: {key: Metric}}; differences are of `aligned` against base and control. of_task:
    groups of single tasks, as `task_groups` gives them; the pivot belongs to one of them too.
    """
    against = [name for name in ("base", "control") if name in models and "aligned" in models]
    keys = sorted({key for found in models.values() for key in found})
    wanted = {ALL: None, **groups}
    members = {group: list(_members(keys, pivot, langs)) for group, langs in wanted.items()}
    for task, own in (of_task or {}).items():
        for group, langs in own.items():
            some = [key for key in keys if key.split("/")[0] == task and key.split("/")[1] in langs]
            members.setdefault(group, []).extend(_members(some, pivot, None))
    out: dict[str, Any] = {
        "differences": {f"aligned-{name}": _differences(models["aligned"], models[name]) for name in against},
        "means": {name: _means(found, members) for name, found in models.items()},
    }
    for name in against:
        out["differences"][f"aligned-{name}"] |= _mean_differences(models["aligned"], models[name], members)
    found = {name: _gaps(figures, pivot) for name, figures in models.items()}
    behind = {
        group: list(_members(sorted({*found.get("aligned", ())}), pivot, langs)) for group, langs in wanted.items()
    }
    out["gaps"] = {name: {**figures, **_means(figures, behind)} for name, figures in found.items()}
    for name in against:
        a, b = found["aligned"], found[name]
        out["gaps"][f"aligned-{name}"] = _differences(a, b) | _mean_differences(a, b, behind)
    if overlap:
        out["contamination"] = {**overlap.counts(), "without": _without(models, against, overlap)}
    return out


def _members(keys: list[str], pivot: str, langs: list[str] | None) -> Iterable[tuple[str, list[str]]]:
    """(`task/…/metric` with a gap for the group, keys) of the figures of `langs`, or of all, layers left out."""
    found: dict[str, list[str]] = {}
    for key in keys:
        task, subject, metric = [*key.split("/", 2), "", ""][:3]
        own = _languages(key, pivot)
        if not metric or "/" in metric or (langs is not None and (measure(task, metric).role == "guard" or not own)):
            continue
        if langs is None or all(lang in langs for lang in own):
            found.setdefault(f"{task}/%s/{metric}", []).append(f"{task}/{subject}/{metric}")
    return found.items()


def _languages(key: str, pivot: str) -> list[str]:
    """The languages of a key beside the pivot; none where its subject is no language, pair or direction."""
    return [lang for lang in languages_of(key.split("/")[1]) if lang != pivot]


def _differences(aligned: Figures, other: Figures) -> dict[str, Metric]:
    out = {}
    for key in sorted(aligned.keys() & other.keys()):
        a, b = aligned[key], other[key]
        if isinstance(a, BootstrappedMetric) and isinstance(b, BootstrappedMetric) and a["n"] == b["n"]:
            out[key] = with_interval(paired(a, b))
        elif all(math.isfinite(item.get("value", math.nan)) for item in (a, b)):
            out[key] = difference(a, b)
    return out


def _means(figures: Figures, members: Mapping[str, Iterable[tuple[str, list[str]]]]) -> dict[str, Metric]:
    """{`task/group/metric`: mean} of the groups of which all figures remember their items."""
    out = {}
    for group, parts in members.items():
        for name, keys in parts:
            found = [figure for key in keys if isinstance(figure := figures.get(key), BootstrappedMetric)]
            if len(found) == len(keys):
                out[name % group] = average(found)
    return out


def _mean_differences(
    aligned: Figures, other: Figures, members: Mapping[str, Iterable[tuple[str, list[str]]]]
) -> dict[str, Metric]:
    out = {}
    for group, parts in members.items():
        for name, keys in parts:
            both = [(aligned.get(key), other.get(key)) for key in keys]
            found = [
                paired(a, b)
                for a, b in both
                if isinstance(a, BootstrappedMetric) and isinstance(b, BootstrappedMetric) and a["n"] == b["n"]
            ]  # fmt: skip
            if len(found) == len(keys):
                out[name % group] = with_interval(average(found))
    return out


def _gaps(figures: Figures, pivot: str) -> dict[str, BootstrappedMetric]:
    """{`task/language/metric`: how far the language lies behind the pivot} where both were measured."""
    out = {}
    for key, other in figures.items():
        task, subject, metric = [*key.split("/", 2), "", ""][:3]
        own = figures.get(f"{task}/{pivot}/{metric}")
        what = measure_of(key)
        if "/" in metric or what.role != "result" or subject == pivot or not isinstance(own, BootstrappedMetric):
            continue
        if isinstance(other, BootstrappedMetric) and own["value"]:
            out[key] = gap(own, other, what.lower_is_better)
    return out


def _without(models: Mapping[str, Figures], against: list[str], overlap: Overlap) -> dict[str, Any]:
    """{model: {key: figure on the items that the mix does not hold}}, `left_out`, and differences, where items go."""
    held = set[str]().union(*(overlap.held(name) for name in overlap.texts))
    left: dict[str, dict[str, BootstrappedMetric]] = {}
    gone: dict[str, int] = {}
    for name, figures in models.items() if held else ():
        for key, metric in figures.items():
            if not isinstance(metric, BootstrappedMetric) or "/layer=" in key:
                continue
            count, rest = without(metric, held)
            if count:
                gone[key] = count
            if rest:
                left.setdefault(name, {})[key] = rest
    out: dict[str, Any] = {"left_out": gone, **left}
    for name in against:
        if name in left and "aligned" in left:
            out[f"aligned-{name}"] = _differences(left["aligned"], left[name])
    return out
