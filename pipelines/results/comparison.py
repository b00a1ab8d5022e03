# pyright: strict
"""Figures of several models on the same items -> paired differences, means by language group, gaps to the pivot.

The output is part of metrics.json. Figures without resamples are compared as if they were independent.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.evals import Metric
from pipelines.results.contamination import Overlap
from pipelines.results.evaluation_result import clean
from pipelines.results.measures import measure, measure_of
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import ALL, SOURCE, TRANSFER, difference
from pipelines.statistics import BootstrappedMetric, average, gap, paired, with_interval, without

LOW_RESOURCE = 2 / 3
"""Share of the largest language's rows in the mix below which a language counts as low-resource."""
Figures = Mapping[str, Metric]
Groups = Mapping[str, list[str]]
Members = dict[str, dict[str, list[str]]]
"""{group: {key of the mean: keys of its figures}}."""


def language_groups(keys: Iterable[str], rows: Mapping[str, int], pivot: str) -> dict[str, list[str]]:
    """{group: languages} of those measured beside the pivot: seen and unseen in the mix; high and low of the seen.

    rows: of the mix, by language. High and low only where both exist.
    """
    measured = sorted({lang for key in keys for lang in _languages(MetricKey.parse(key), pivot)})
    seen = [lang for lang in measured if rows.get(lang)]
    most = max((rows[lang] for lang in seen), default=0)
    low = [lang for lang in seen if rows[lang] < LOW_RESOURCE * most]
    groups = {"seen": seen, "unseen": [lang for lang in measured if lang not in seen]}
    if low:
        groups |= {"high": [lang for lang in seen if lang not in low], "low": low}
    return {name: langs for name, langs in groups.items() if langs}


def task_groups(keys: Iterable[str], trained_in: Groups) -> dict[str, dict[str, list[str]]]:
    """{task: {SOURCE: languages, TRANSFER: languages}} of those measured; only groups that are not empty."""
    out: dict[str, dict[str, list[str]]] = {}
    parsed = [MetricKey.parse(key) for key in keys]
    for task, trained in trained_in.items():
        langs = sorted({key.subject for key in parsed if key.task == task})
        groups = {SOURCE: [lang for lang in langs if lang in trained]}
        groups[TRANSFER] = [lang for lang in langs if lang not in trained]
        out[task] = {group: members for group, members in groups.items() if members}
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
    keys = sorted({key for figures in models.values() for key in figures})
    members = _members(keys, pivot, groups)
    for task, languages in (of_task or {}).items():
        for group, langs in languages.items():
            some = [key for key in keys if (parsed := MetricKey.parse(key)).task == task and parsed.subject in langs]
            members.setdefault(group, {}).update(_members_of_group(some, pivot, group, None))
    gaps = {name: _gaps(figures, pivot) for name, figures in models.items()}
    gap_members = _members(sorted(gaps.get("aligned", ())), pivot, groups)
    out: dict[str, Any] = {
        "differences": {f"aligned-{name}": _with_means(models["aligned"], models[name], members) for name in against},
        "means": {name: _means(figures, members) for name, figures in models.items()},
        "gaps": {name: {**figures, **_means(figures, gap_members)} for name, figures in gaps.items()}
        | {f"aligned-{name}": _with_means(gaps["aligned"], gaps[name], gap_members) for name in against},
    }
    if overlap:
        out["contamination"] = {**overlap.counts(), "without": _without(models, against, overlap)}
    return out


def _members(keys: list[str], pivot: str, groups: Groups) -> Members:
    """The keys of every mean over all languages and over each group."""
    wanted: dict[str, list[str] | None] = {ALL: None, **groups}
    return {group: _members_of_group(keys, pivot, group, langs) for group, langs in wanted.items()}


def _members_of_group(keys: list[str], pivot: str, group: str, langs: list[str] | None) -> dict[str, list[str]]:
    """{key of the mean: overall figures of `langs`, or of all}; guards have a mean over all alone."""
    members: dict[str, list[str]] = {}
    for text in keys:
        key = MetricKey.parse(text)
        own = _languages(key, pivot)
        if not key.is_overall or (langs is not None and (measure(key.task, key.metric).role == "guard" or not own)):
            continue
        if langs is None or all(lang in langs for lang in own):
            members.setdefault(str(key.with_subject(group)), []).append(text)
    return members


def _languages(key: MetricKey, pivot: str) -> list[str]:
    """The languages of a key beside the pivot."""
    return [lang for lang in key.languages if lang != pivot]


def _pair(a: Metric | None, b: Metric | None) -> BootstrappedMetric | None:
    """a - b of the same items; None where the two are not paired."""
    if isinstance(a, BootstrappedMetric) and isinstance(b, BootstrappedMetric) and a["n"] == b["n"]:
        return paired(a, b)
    return None


def _differences(aligned: Figures, other: Figures) -> dict[str, Metric]:
    out: dict[str, Metric] = {}
    for key in sorted(aligned.keys() & other.keys()):
        if (diff := _pair(aligned[key], other[key])) is not None:
            out[key] = with_interval(diff)
        elif (a := clean(aligned[key])) and (b := clean(other[key])):
            out[key] = difference(a, b)
    return out


def _with_means(aligned: Figures, other: Figures, members: Members) -> dict[str, Metric]:
    """`_differences`, and the differences of the means of which all members are paired."""
    out = _differences(aligned, other)
    for parts in members.values():
        for name, keys in parts.items():
            diffs = [diff for key in keys if (diff := _pair(aligned.get(key), other.get(key))) is not None]
            if len(diffs) == len(keys):
                out[name] = with_interval(average(diffs))
    return out


def _means(figures: Figures, members: Members) -> dict[str, Metric]:
    """{key: mean} of the groups of which all figures have resamples."""
    out: dict[str, Metric] = {}
    for parts in members.values():
        for name, keys in parts.items():
            found = [figure for key in keys if isinstance(figure := figures.get(key), BootstrappedMetric)]
            if len(found) == len(keys):
                out[name] = average(found)
    return out


def _gaps(figures: Figures, pivot: str) -> dict[str, BootstrappedMetric]:
    """{`task/language/metric`: how far the language lies behind the pivot} where both were measured."""
    out: dict[str, BootstrappedMetric] = {}
    for text, other in figures.items():
        key, what = MetricKey.parse(text), measure_of(text)
        own = figures.get(str(key.with_subject(pivot)))
        if not key.is_overall or what.role != "result" or key.subject == pivot:
            continue
        if isinstance(own, BootstrappedMetric) and isinstance(other, BootstrappedMetric) and own["value"]:
            out[text] = gap(own, other, what.lower_is_better)
    return out


def _without(models: Mapping[str, Figures], against: list[str], overlap: Overlap) -> dict[str, Any]:
    """{model: {key: figure without the items in the mix}}, `left_out`, and their differences."""
    contained = set[str]().union(*(overlap.contained(name) for name in overlap.texts))
    figures_left: dict[str, dict[str, BootstrappedMetric]] = {}
    left_out: dict[str, int] = {}
    for name, figures in models.items() if contained else ():
        for key, metric in figures.items():
            if not isinstance(metric, BootstrappedMetric) or MetricKey.parse(key).layer is not None:
                continue
            count, rest = without(metric, contained)
            if count:
                left_out[key] = count
            if rest:
                figures_left.setdefault(name, {})[key] = rest
    out: dict[str, Any] = {"left_out": left_out, **figures_left}
    for name in against:
        if name in figures_left and "aligned" in figures_left:
            out[f"aligned-{name}"] = _differences(figures_left["aligned"], figures_left[name])
    return out
