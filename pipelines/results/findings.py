# pyright: strict
"""Evaluation result -> findings as data: what changed, whether it is significant, and which guards are raised.

`verdict` puts them into words.
"""

from statistics import fmean
from typing import Literal, NamedTuple

from pipelines.evals import Metric
from pipelines.results.evaluation_result import Contamination, clean
from pipelines.results.measures import is_result, measure, measure_of
from pipelines.results.metric_key import MetricKey, languages_of
from pipelines.results.summary import (
    BETTER,
    SAME,
    SOURCE,
    WORSE,
    Metrics,
    by_metric,
    figure,
    keys_of,
    mean,
    mean_key,
    paired_difference,
    reference,
    references,
    share,
    significance,
    significance_vs_chance,
    value,
)

COLLAPSED = 0.25
"""Share of base's effective rank below which, at any layer, the representation counts as collapsed."""
CONTAMINATED = 0.01
"""Share of an eval's texts in the mix from which its figures are not trusted."""
RUINED = 0.1
"""Share by which the pivot's loss may rise over control's before the pivot counts as ruined."""
INVALID = 0.1
"""Share of a task's answers in the required format, in the languages it was trained in, below which none count."""
BASE_ONLY = "better than base only"
"""Recall@1 that beats base but not control: the training text alone explains it."""
RECALL = ("retrieval", "recall@1")
LOSS = ("loss", "nats_per_token")


class Change(NamedTuple):
    """The change of a figure from a reference model to the aligned one."""

    reference: str
    before: Metric
    change: Metric
    """aligned - before; a share of `before` where the measure is relative; {} where that is not defined."""
    significance: str


class Finding(NamedTuple):
    """What happened to one metric, averaged over all its subjects."""

    kind: Literal["retrieval", "loss", "task"]
    keys: list[str]
    aligned: Metric | None
    """None where it is not a number: the model is broken."""
    changes: list[Change]
    """Against control or, without control, base; for retrieval against both, base first."""
    result: str
    """BETTER, WORSE, SAME, NOT_ABOVE_CHANCE or BASE_ONLY."""
    regressions: list[str]
    """Keys of single subjects that got worse: an average must not hide them."""
    compared: list[str]
    """The keys among which `regressions` were looked for."""
    baselines: dict[str, Metric]
    """{name: mean} of what needs no learning."""


class Group(NamedTuple):
    """What happened to one group of languages by one metric."""

    group: str
    """A key of `verdict.GROUPS`; `pivot` is the language that all pairs share, by itself."""
    languages: list[str]
    key: str
    """`task/group/metric`."""
    aligned: Metric
    change: Metric
    """Against the reference; a share of its figure where the measure is relative."""
    result: str


class Collapse(NamedTuple):
    """The layer whose states have lost most directions."""

    layer: int
    rank: float
    base_rank: float
    languages: int


class Ruin(NamedTuple):
    """The rise of the pivot's loss, as a share of the reference's; None where the loss is not a number."""

    rise: float | None


class Clean(NamedTuple):
    """Recall@1 with and without the items whose texts are in the mix."""

    keys: list[str]
    left_out: int
    aligned: Metric | None
    before: Metric | None
    with_all: Metric | None


class Findings(NamedTuple):
    """All findings of an evaluation."""

    retrieval: Finding | None
    loss: Finding | None
    tasks: list[Finding]
    groups: list[Group]
    collapse: Collapse | None
    ruin: Ruin | None
    invalid: dict[str, float]
    """{task: share of valid answers} below INVALID."""
    contamination: Contamination | None
    contaminated: list[str]
    """The evals of which the mix contains too many texts."""
    clean: Clean | None


def find(metrics: Metrics, pivot: str) -> Findings:
    """Everything that the verdict is made of."""
    contamination = metrics.contamination
    evals = contamination.evals if contamination else {}
    return Findings(
        retrieval=_retrieval(metrics),
        loss=_loss(metrics, pivot),
        tasks=_tasks(metrics),
        groups=by_group(metrics, pivot),
        collapse=_collapse(metrics),
        ruin=_ruin(metrics, pivot),
        invalid=_invalid(metrics),
        contamination=contamination,
        contaminated=[name for name, row in evals.items() if row.exact + row.near >= CONTAMINATED * row.texts]
        if any(row.exact + row.near for row in evals.values())
        else [],
        clean=_clean(metrics),
    )


def by_group(metrics: Metrics, pivot: str = "eng_Latn") -> list[Group]:
    """Every metric of the pivot, and its mean over every group of languages of metrics.json, where it has one."""
    out: list[Group] = []
    against = reference(metrics)
    for task, metric, keys in by_metric(metrics):
        if not is_result(task, metric):
            continue
        what, own = measure(task, metric), str(MetricKey(task, pivot, metric))
        aligned, before = figure(metrics, "aligned", own), figure(metrics, against, own)
        if aligned and before and (diff := paired_difference(metrics, against, [own])):
            change = share(diff, before) if what.relative else diff
            result = significance_vs_chance(metrics, [own], aligned, diff, what)
            out.append(Group("pivot", [pivot], own, aligned, change, result))
        for group, langs in {**metrics.groups, **metrics.task_groups.get(task, {})}.items():
            key = mean_key(keys, group)
            aligned, before = (clean(metrics.means.get(name, {}).get(key)) for name in ("aligned", against))
            diff = clean(metrics.differences.get(f"aligned-{against}", {}).get(key))
            if not aligned or not diff or not before:
                continue
            change = share(diff, before) if what.relative else diff
            members = [item for item in keys if {*languages_of(MetricKey.parse(item).subject)} <= {*langs, pivot}]
            result = significance_vs_chance(metrics, members, aligned, diff, what)
            out.append(Group(group, langs, key, aligned, change, result))
    return out


def _retrieval(metrics: Metrics) -> Finding | None:
    """Recall@1 at the trained layer against base and control."""
    keys = keys_of(metrics, *RECALL)
    if not keys:
        return None
    aligned = mean(metrics, "aligned", keys)
    if aligned is None:
        return Finding("retrieval", keys, None, [], WORSE, [], keys, {})
    changes = [
        Change(name, before, diff, significance(diff))
        for name in ("base", "control")
        if (before := mean(metrics, name, keys)) and (diff := paired_difference(metrics, name, keys))
    ]
    results = {change.reference: change.significance for change in changes}
    if WORSE in results.values():
        result = WORSE
    elif results and all(item == BETTER for item in results.values()):
        result = BETTER
    else:
        result = BASE_ONLY if results.get("base") == BETTER else SAME
    return Finding(
        "retrieval", keys, aligned, changes, result, _regressions(metrics, keys), keys, _baselines(metrics, keys)
    )


def _loss(metrics: Metrics, pivot: str) -> Finding | None:
    """The pivot's loss against the reference's; its regressions are of the other languages."""
    keys, key = keys_of(metrics, *LOSS), str(MetricKey("loss", pivot, "nats_per_token"))
    if key not in keys:
        return None
    against = reference(metrics)
    aligned, before = figure(metrics, "aligned", key), figure(metrics, against, key)
    if aligned is None:
        return Finding("loss", [key], None, [], WORSE, [], [], {})
    if before is None:
        return None
    diff = paired_difference(metrics, against, [key])
    change = share(diff, before) if diff else {}
    result = significance(diff, lower_is_better=True)
    others = [item for item in keys if item != key]
    changes = [Change(against, before, change, result)]
    return Finding("loss", [key], aligned, changes, result, _regressions(metrics, others), others, {})


def _tasks(metrics: Metrics) -> list[Finding]:
    """Every result that is neither recall@1 nor loss, by its mean over all languages."""
    out: list[Finding] = []
    against = reference(metrics)
    for task, metric, keys in by_metric(metrics):
        if (task, metric) in (RECALL, LOSS) or not is_result(task, metric):
            continue
        aligned, before = (mean(metrics, name, keys) for name in ("aligned", against))
        diff = paired_difference(metrics, against, keys)
        if not aligned or not before or not diff:
            continue
        what = measure(task, metric)
        result = significance_vs_chance(metrics, keys, aligned, diff, what)
        change = (share(diff, before) if what.relative else {}) or diff
        changes = [Change(against, before, change, result)]
        regressions, baselines = _regressions(metrics, keys), _baselines(metrics, keys)
        out.append(Finding("task", keys, aligned, changes, result, regressions, keys, baselines))
    return out


def _regressions(metrics: Metrics, keys: list[str]) -> list[str]:
    """Which of several subjects got worse than the reference."""
    if len(keys) < 2:
        return []
    against, out = reference(metrics), list[str]()
    for key in keys:
        if not figure(metrics, against, key):
            continue
        diff = paired_difference(metrics, against, [key])
        if not figure(metrics, "aligned", key) or significance(diff, measure_of(key).lower_is_better) == WORSE:
            out.append(key)
    return out


def _baselines(metrics: Metrics, keys: list[str]) -> dict[str, Metric]:
    return {name: item for name in references(metrics) if (item := mean(metrics, name, keys))}


def _collapse(metrics: Metrics) -> Collapse | None:
    """The layer at which the states of held-out text fill far fewer directions than base's, mean over languages."""
    ranks: dict[int, list[tuple[float, float]]] = {}
    for text in sorted(metrics.figures("aligned")):
        key = MetricKey.parse(text)
        if (key.task, key.metric) == ("representation", "effective_rank") and key.layer is not None:
            aligned, base = value(metrics, "aligned", text), value(metrics, "base", text)
            if aligned is not None and base is not None:
                ranks.setdefault(key.layer, []).append((aligned, base))
    means = [
        Collapse(layer, fmean(a for a, _ in pairs), fmean(b for _, b in pairs), len(pairs))
        for layer, pairs in ranks.items()
        if any(b for _, b in pairs)
    ]
    lowest = min(means, key=lambda item: (item.rank / item.base_rank, item.layer), default=None)
    return lowest if lowest and lowest.rank / lowest.base_rank < COLLAPSED else None


def _ruin(metrics: Metrics, pivot: str) -> Ruin | None:
    """Whether the pivot's loss rose beyond the bound, significantly, or is not a number."""
    key, against = str(MetricKey("loss", pivot, "nats_per_token")), reference(metrics)
    aligned, before = value(metrics, "aligned", key), value(metrics, against, key)
    if key not in metrics.figures("aligned") or before is None:
        return None
    if aligned is None:
        return Ruin(None)
    is_worse = significance(paired_difference(metrics, against, [key]), lower_is_better=True) == WORSE
    rise = aligned / before - 1
    return Ruin(rise) if rise > RUINED and is_worse else None


def _invalid(metrics: Metrics) -> dict[str, float]:
    """{task: share of answers in the required format in the languages it was trained in}, where that is low."""
    out: dict[str, float] = {}
    for text, item in sorted(metrics.means.get("aligned", {}).items()):
        key, valid = MetricKey.parse(text), clean(item)
        if (key.subject, key.metric) == (SOURCE, "valid") and valid and valid["value"] < INVALID:
            out[key.task] = valid["value"]
    return out


def _clean(metrics: Metrics) -> Clean | None:
    """Recall@1 of the pairs that have items in the mix, without these items; None without such pairs."""
    if not metrics.contamination:
        return None
    without = metrics.contamination.without
    keys = [key for key in keys_of(metrics, *RECALL) if key in without.left_out]
    if not keys:
        return None
    aligned, before = (mean(without, name, keys) for name in ("aligned", reference(metrics)))
    with_all = mean(metrics, "aligned", keys, "concerned")
    return Clean(keys, sum(without.left_out[key] for key in keys), aligned, before, with_all)
