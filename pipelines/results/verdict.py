# pyright: strict
"""Findings -> words: a headline, at most five short findings, and the details behind them."""

from collections.abc import Iterator
from typing import NamedTuple

from pipelines import languages
from pipelines.evals import Metric
from pipelines.report.format import SPACE, change_style, figure_style, has_interval, percent
from pipelines.results.comparison import LOW_RESOURCE
from pipelines.results.findings import (
    BASE_ONLY,
    COLLAPSED,
    CONTAMINATED,
    INVALID,
    RUINED,
    Clean,
    Finding,
    Findings,
    Group,
    by_group,
    find,
)
from pipelines.results.measures import is_result, measure_of
from pipelines.results.measures import name as name_of
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import (
    BETTER,
    REFERENCES,
    SAME,
    SOURCE,
    TRANSFER,
    WORSE,
    Metrics,
    at_layer,
    reference,
    subject,
)

__all__ = ["GROUPS", "Group", "Verdict", "by_group", "is_result", "reference", "verdict"]
GROUPS = {
    "pivot": "pivot language",
    "seen": "languages seen in alignment",
    "unseen": "languages not seen in alignment",
    "high": "high-resource languages",
    "low": "low-resource languages",
    SOURCE: "languages that the task was trained in",
    TRANSFER: "languages that the task was not trained in",
}
MAX_FINDINGS = 5
MAX_NAMES = 2
"""Names that a headline or a finding lists; the others are counted."""
WORDS = {BETTER: "significantly better", WORSE: "significantly worse"}


class Verdict(NamedTuple):
    """The result in words."""

    tone: str
    """`better`, `mixed`, `worse` or `same`."""
    headline: str
    """One short sentence without its full stop."""
    findings: list[str]
    """At most MAX_FINDINGS lines without a full stop: number, interval, significance; the most important first."""
    details: list[str]
    """Sentences behind the findings."""
    guards: list[str] = []
    """Results that no figure can offset: collapsed representation, contaminated mix, ruined pivot, invalid answers."""
    groups: list[Group] = []


def verdict(metrics: Metrics, pivot: str = "eng_Latn") -> Verdict:
    """Word the findings: recall@1 against base and control, the pivot's loss and all tasks against control, guards."""
    found, name = find(metrics, pivot), languages.name(pivot)
    tone, headline = _headline(found, name)
    regressed = _regressed_groups(found.groups)
    if regressed:
        tone = "mixed" if tone == "better" else tone
        headline += f", worse for {' and '.join(GROUPS[rows[0].group] for rows in regressed)}"
    raised = _guards(found, metrics, name)
    if raised:
        headline = f"{', '.join(raised)}: {headline[0].lower()}{headline[1:]}"
        tone = "worse" if found.collapse or tone == "worse" else "mixed"
    tasks = sorted(found.tasks, key=lambda item: [WORSE, BETTER].index(item.result) if item.result in WORDS else 2)
    lines = [*raised.values()]
    lines += [_line(item, metrics) for item in (found.retrieval, found.loss) if item]
    lines += [f"{_title(rows[0])}: {_group_change(rows[0])}" for rows in regressed]
    lines += [_line(item, metrics) for item in tasks]
    details = [f"{line}." for line in lines[MAX_FINDINGS:]]
    for item in (found.retrieval, found.loss, *tasks):
        details += _details(item, metrics) if item else []
    details += [*_group_details(found.groups, metrics), *_contamination_details(found, metrics)]
    return Verdict(tone, _capitalise(headline), lines[:MAX_FINDINGS], details, list(raised), found.groups)


def _headline(found: Findings, pivot: str) -> tuple[str, str]:
    """(tone, headline) of all findings but groups and guards."""
    results = {"finding translations": found.retrieval.result} if found.retrieval else {}
    results |= {_metric_name(item.keys[0]): item.result for item in found.tasks}
    loss = found.loss.result if found.loss else None
    if loss == WORSE or (loss and not results):
        results[pivot] = loss
    better, worse = ([what for what, result in results.items() if result == wanted] for wanted in (BETTER, WORSE))
    tone = "mixed" if better and worse else "better" if better else "worse" if worse else "same"
    if not results:
        return tone, "Nothing to compare: the recipe's evals give no figure of this kind"
    if tone == "same":
        is_base_only = found.retrieval is not None and found.retrieval.result == BASE_ONLY
        return (
            tone,
            f"No significant effect{': control, trained on the same text, gains as much' if is_base_only else ''}",
        )
    text = ", ".join(f"{word} at {_listed(names)}" for word, names in (("better", better), ("worse", worse)) if names)
    return tone, f"{text}, no significant change in {pivot}" if tone == "better" and loss == SAME else text


def _guards(found: Findings, metrics: Metrics, pivot: str) -> dict[str, str]:
    """{guard: line} of those that are raised."""
    out: dict[str, str] = {}
    if found.collapse:
        layer, rank, base_rank, count = found.collapse
        out["collapsed representation"] = (
            f"Collapsed representation: effective rank at layer {layer} is {rank:.1f}, {percent(rank / base_rank)} of "
            f"base's {base_rank:.1f} (bound: {_bound(COLLAPSED)}; mean of {count} language{'s' if count > 1 else ''})"
        )
    if found.contaminated:
        out["contaminated mix"] = (
            f"Contaminated mix: {_texts_in_mix(found)} (bound: {_bound(CONTAMINATED)} of the texts of "
            f"{' or of '.join(found.contaminated)})"
        )
    if found.ruin:
        rise = found.ruin.rise
        by = "is not a number" if rise is None else f"is {percent(rise)} above {reference(metrics)}'s"
        out[f"ruined {pivot}"] = f"Ruined {pivot}: its loss {by} (bound: {_bound(RUINED)})"
    if found.invalid:
        shares = " and ".join(f"{percent(share)} of the answers of {task}" for task, share in found.invalid.items())
        out["invalid answers"] = (
            f"Invalid answers: {shares} are in the required format (bound: {_bound(INVALID)}); the other figures of "
            f"the task mean nothing"
        )
    return out


def _regressed_groups(groups: list[Group]) -> list[list[Group]]:
    """The groups whose leading metric got worse, where not all of them did; a loss leads none."""
    leading = [rows for rows in _by_languages(groups) if rows[0].group != "pivot" and _task(rows[0]) != "loss"]
    worse = [rows for rows in leading if rows[0].result == WORSE]
    return worse if len(worse) < len(leading) else []


def _line(finding: Finding, metrics: Metrics) -> str:
    """`Recall@1, mean of 2 pairs: 25.0 % (+20.5 points vs control, 95 % CI +16.3 to +24.7), significantly better`."""
    what, layer = measure_of(finding.keys[0]), at_layer(metrics)
    name = _finding_name(finding, "" if "trained" in layer else layer)
    if finding.aligned is None:
        return f"{name}: not a number, the model is broken"
    style = figure_style(what)
    text = f"{name}: {style.number(finding.aligned['value'])}{style.unit}"
    if finding.changes:
        change = finding.changes[-1]
        if change.change:
            text += f" ({_change(change.change, finding.keys[0], f' vs {change.reference}')})"
        text += f", {_word(change.significance)}"
    if finding.regressions:
        text += f"; worse in {_counted(finding)}"
        if len(finding.regressions) <= MAX_NAMES:
            text += f": {_listed(list(map(subject, finding.regressions)))}"
    return text


def _details(finding: Finding, metrics: Metrics) -> Iterator[str]:
    """What a line leaves out: the figures of all models, baselines, single subjects, the power of the test."""
    if finding.aligned is None:
        return
    what = measure_of(finding.keys[0])
    style, name = figure_style(what), _finding_name(finding, at_layer(metrics))
    figures = [f"aligned {style.text(finding.aligned)}"]
    figures += [f"{change.reference} {style.text(change.before)}" for change in reversed(finding.changes)]
    yield f"{name}: {', '.join(figures)}."
    for change in finding.changes:
        if change.reference == "base" and len(finding.changes) > 1:
            text = _change(change.change, finding.keys[0], " vs base")
            yield f"{_metric_title(finding.keys[0])}: {text}, {_word(change.significance)}."
        elif change.significance == SAME and (least := change.change.get("detectable")):
            changed = change_style(what)
            yield (
                f"{_metric_title(finding.keys[0])}: the smallest detectable change is {changed.number(least)}"
                f"{changed.unit} (power 80{SPACE}%)."
            )
    if finding.baselines:
        baselines = (f"{REFERENCES[key]} {style.number(item['value'])}{style.unit}"
                     for key, item in finding.baselines.items())  # fmt: skip
        yield f"{_metric_title(finding.keys[0])} without learning: {', '.join(baselines)}."
    if len(finding.regressions) > MAX_NAMES:
        listed = ", ".join(map(subject, finding.regressions))
        yield f"{_metric_title(finding.keys[0])} is worse than {reference(metrics)}'s in {_counted(finding)}: {listed}."


def _group_details(groups: list[Group], metrics: Metrics) -> Iterator[str]:
    for rows in _by_languages(groups):
        if rows[0].group == "pivot":
            if all(_task(row) == "loss" for row in rows):  # it has a finding of its own
                continue
            rows.sort(key=lambda row: row.result != WORSE)
        yield f"{_title(rows[0])}: {'; '.join(map(_group_change, rows))}."
    if any(row.group != "pivot" for row in groups):
        if metrics.groups and "unseen" not in metrics.groups:
            yield "No language was measured that is not in the alignment data."
        if "low" in metrics.groups:
            yield (
                f"Low-resource languages have less than {_bound(LOW_RESOURCE)} of the rows of the largest in the mix."
            )


def _contamination_details(found: Findings, metrics: Metrics) -> Iterator[str]:
    if not found.contamination:
        return
    counts = found.contamination.evals.values()
    if not any(row.exact + row.near for row in counts):
        texts = sum(row.texts for row in counts)
        yield f"None of {texts:,} eval texts is in the training mix, exactly or nearly."
    elif not found.contaminated:
        yield f"{_texts_in_mix(found)}."
    if found.clean:
        yield _clean_sentence(found.clean, metrics)


def _texts_in_mix(found: Findings) -> str:
    counts = found.contamination.evals.values() if found.contamination else ()
    texts, exact, near = (sum(number) for number in zip(*((c.texts, c.exact, c.near) for c in counts), strict=True))
    verb = "are" if exact + near > 1 else "is"
    return f"{exact + near:,} of {texts:,} eval texts {verb} in the training mix, {exact:,} exactly and {near:,} nearly"


def _clean_sentence(clean: Clean, metrics: Metrics) -> str:
    """Recall@1 on the items whose texts are not in the mix."""
    if not clean.aligned or not clean.before:
        return f"Without the items in the mix, nothing is left of {len(clean.keys)} figures of recall@1."
    style = figure_style(measure_of(clean.keys[0]))
    items = f"{clean.left_out:,} items" if clean.left_out > 1 else "item"
    pairs = f"of {len(clean.keys)} pairs" if len(clean.keys) > 1 else f"of {subject(clean.keys[0])}"
    with_all = f", with them {percent(clean.with_all['value'])}" if clean.with_all else ""
    return (
        f"Without the {items} concerned, recall@1 {pairs} is {style.text(clean.aligned)}{with_all}; "
        f"{reference(metrics)}'s is {percent(clean.before['value'])}."
    )


def _change(change: Metric, key: str, versus: str = "") -> str:
    """`+20.5 points vs control, 95 % CI +16.3 to +24.7`."""
    style = change_style(measure_of(key))
    interval = f", 95{SPACE}% CI {style.interval(change, signed=True)}" if has_interval(change) else ""
    return f"{style.number(change['value'], signed=True)}{style.unit}{versus}{interval}"


def _group_change(row: Group) -> str:
    key = MetricKey.parse(row.key)
    style = change_style(measure_of(row.key))
    interval = style.interval(row.change, signed=True)
    ci = f" (95{SPACE}% CI {interval})" if interval else ""
    change = f"{style.number(row.change['value'], signed=True)}{style.unit}{ci}"
    return f"{name_of(key.task, key.metric)} {change}, {_word(row.result)}"


def _by_languages(groups: list[Group]) -> list[list[Group]]:
    """The rows of each group; the source languages of a task are a group of their own."""
    parts: dict[tuple[str, tuple[str, ...]], list[Group]] = {}
    for row in groups:
        parts.setdefault((row.group, tuple(row.languages)), []).append(row)
    return [parts[part] for part in sorted(parts, key=lambda part: list(GROUPS).index(part[0]))]


def _finding_name(finding: Finding, layer: str) -> str:
    """`Recall@1 at the trained layer (2), mean of 2 pairs`; layer: of recall@1."""
    name = _metric_title(finding.keys[0])
    if finding.kind == "loss":
        return f"{languages.name(MetricKey.parse(finding.keys[0]).subject)} {name[0].lower()}{name[1:]}"
    if finding.kind == "retrieval":
        name += layer
    count = len(finding.keys)
    return f"{name}, mean of {count} {_plural(finding)}" if count > 1 else f"{name} of {subject(finding.keys[0])}"


def _counted(finding: Finding) -> str:
    """`1 of 2 pairs`."""
    return f"{len(finding.regressions)} of {len(finding.compared)} {_plural(finding)}"


def _plural(finding: Finding) -> str:
    if finding.kind == "loss":
        return "other languages"
    code = MetricKey.parse(finding.keys[0]).subject
    return "directions" if ">" in code else "pairs" if "-" in code else "languages"


def _metric_name(key: str) -> str:
    parsed = MetricKey.parse(key)
    return name_of(parsed.task, parsed.metric)


def _metric_title(key: str) -> str:
    return _capitalise(_metric_name(key))


def _title(row: Group) -> str:
    """`Low-resource languages (Swahili)`; the pivot by its name."""
    names = ", ".join(map(languages.name, row.languages))
    return names if row.group == "pivot" else f"{_capitalise(GROUPS[row.group])} ({names})"


def _task(row: Group) -> str:
    return MetricKey.parse(row.key).task


def _word(result: str) -> str:
    return WORDS.get(result, result)


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and 3 more`."""
    parts = [*names[:MAX_NAMES], *([f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else [])]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _bound(share: float) -> str:
    return f"{share * 100:.0f}{SPACE}%"
