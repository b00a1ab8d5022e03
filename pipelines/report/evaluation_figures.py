"""The tables of figures on the evaluation page, as plain values for the template."""

import re
from typing import Any

from pipelines import languages
from pipelines.evals import Measure
from pipelines.report import plots
from pipelines.report.format import cell, change_style, figure_style, test_cells
from pipelines.results.findings import Group
from pipelines.results.measures import is_result, measure, measure_of
from pipelines.results.measures import name as name_of
from pipelines.results.measures import title as title_of
from pipelines.results.metric_key import MetricKey, languages_of
from pipelines.results.summary import (
    ALL,
    BETTER,
    SAME,
    WORSE,
    Metrics,
    at_layer,
    by_layer,
    by_metric,
    figure,
    gap_rows,
    group_means,
    mean,
    models,
    paired_difference,
    reference,
    references,
    share,
    significance,
    significance_vs_chance,
    subject,
    subject_name,
    word,
)
from pipelines.results.verdict import GROUPS

GAP = Measure()
RECALL = measure("retrieval", "recall@1")
BROKEN = "not a number: worse"


def group_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """A row per language group and metric."""
    out = []
    for row in groups:
        key, what = MetricKey.parse(row.key), measure_of(row.key)
        style = change_style(what)
        out.append(
            {
                "name": _capitalise(GROUPS[row.group]),
                "languages": ", ".join(languages.name(lang) for lang in row.languages),
                "metric": f"{name_of(key.task, key.metric)}{'' if what.score else f', {what.unit}'}",
                "aligned": cell(row.aligned, figure_style(what)),
                "change": cell(row.change, style, signed=True),
                "unit": style.unit.strip(),
                **test_cells(row.change, style),
                "word": row.result,
                "tone": _tone(row.result),
            }
        )
    return out


def gaps(metrics: Metrics, pivot: str) -> list[dict[str, Any]]:
    """A row per language and metric: how far it lies behind the pivot in each model, and the change."""
    out, style, shown = [], change_style(GAP), _shown_models(metrics)
    for row in gap_rows(metrics):
        result = significance(row.change, lower_is_better=True)
        text = {BETTER: "narrower", WORSE: "wider"}.get(result, SAME)
        own = str(row.key.with_subject(pivot))
        of_pivot = significance(paired_difference(metrics, reference(metrics), [own]), measure_of(own).lower_is_better)
        tone = _tone(result)
        if (result, of_pivot) in ((BETTER, WORSE), (WORSE, BETTER)):  # the gap changed because the pivot did
            text, tone = f"{text}, as {languages.name(pivot)} got {of_pivot}", "same"
        out.append(
            {
                "metric": name_of(row.key.task, row.key.metric),
                "name": row.name,
                "mean": row.name == "Mean",
                "cells": [cell(row.cells.get(name), figure_style(GAP)) for name in shown],
                "change": cell(row.change, style, signed=True),
                **test_cells(row.change, style),
                "word": text,
                "tone": tone,
            }
        )
    return out


def contamination(metrics: Metrics) -> dict[str, Any] | None:
    """How many texts of each eval are in the mix, examples, and figures with and without the items concerned."""
    found = metrics.contamination
    if not found:
        return None
    against = dict.fromkeys((reference(metrics), "aligned"))
    rows = []
    for key, count in sorted(found.without.left_out.items()):
        parsed, style = MetricKey.parse(key), figure_style(measure_of(key))
        if is_result(parsed.task, parsed.metric):
            cells = [cell(side.figure(name, key), style) for name in against for side in (metrics, found.without)]
            name = f"{subject(key)}, {parsed.metric.replace('_', ' ')}"
            rows.append({"name": name, "count": count, "cells": cells})
    examples = [
        {
            "eval": row.eval,
            "kind": {"exact": "exact", "near": "near"}[row.kind],
            "text": row.text,
            "lang": language_tag(row.language),
        }
        for row in found.examples
    ]
    return {
        "near": f"{found.near:g}",
        "evals": [{"name": name, **row.model_dump()} for name, row in found.evals.items()],
        "examples": examples,
        "rows": rows,
        "heads": [f"{name.capitalize()}, {side}" for name in against for side in ("all items", "without")],
    }


def count_comparisons(metrics: Metrics) -> int:
    """How many overall figures the page compares with those of the reference."""
    differences = metrics.differences.get(f"aligned-{reference(metrics)}", {})
    return sum(MetricKey.parse(key).is_overall for key in differences)


def comparison(metrics: Metrics, task: str, metric: str, keys: list[str]) -> dict[str, Any]:
    """One table: a row per language or pair and their means, models side by side, and the change."""
    what, against, titles = measure(task, metric), reference(metrics), references(metrics)
    subjects = [(subject(key), "", [key]) for key in keys] + group_means(metrics, keys)
    rows = [_comparison_row(metrics, title, group, members, what) for title, group, members in subjects]
    counts = {
        int(item["n"])
        for name in models(metrics)
        for key in keys
        if (item := figure(metrics, name, key)) and "n" in item
    }
    span = f"{min(counts):,}" if len(counts) == 1 else f"{min(counts, default=0):,} to {max(counts, default=0):,}"
    unit = change_style(what).unit.strip() if what.relative or what.rate or what.score else ""
    code = MetricKey.parse(keys[0]).subject
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", f"{task}-{metric}".lower()),
        "title": title_of(task, metric),
        "note": what.note.format(layer=at_layer(metrics)),
        "unit": what.unit,
        "change_note": f"aligned vs {against}{f', {unit}' if unit else ''}",
        "tested": any(row["p"] for row in rows),
        "counted": f"{span} items each" if counts else "",
        "references": [
            (i, title) for i, title in enumerate(titles.values()) if any(row["references"][i] != "–" for row in rows)
        ],
        "subject_kind": "Pair" if "-" in code else "Direction" if ">" in code else "Language",
        "signatures": _signatures(metrics, keys),
        "rows": rows,
    }


def _comparison_row(metrics: Metrics, title: str, group: str, keys: list[str], what: Measure) -> dict[str, Any]:
    """The figures of one subject, or of the mean of a group."""
    against, style = reference(metrics), figure_style(what)
    names = (*models(metrics), *references(metrics))
    cells = {name: mean(metrics, name, keys, group) if group else figure(metrics, name, keys[0]) for name in names}
    aligned, before = cells["aligned"], cells[against]
    diff = paired_difference(metrics, against, keys, group or ALL)
    change = share(diff, before) if what.relative and diff and before else diff
    result = significance_vs_chance(metrics, keys, aligned, diff, what) if diff else ""
    is_broken = aligned is None and before is not None
    return {
        "name": _capitalise(title) if group else title,
        "mean": bool(group),
        "cells": [cell(cells[name], style) for name in _shown_models(metrics)],
        "references": [cell(cells[name], style)["value"] for name in references(metrics)],
        "change": cell(change, change_style(what), signed=True),
        **test_cells(change, change_style(what)),
        "word": BROKEN if is_broken else word(result, what),
        "tone": WORSE if is_broken else "same" if what.neutral else _tone(result),
    }


def _signatures(metrics: Metrics, keys: list[str]) -> list[str]:
    """How the figures were computed; where they differ, with the subjects of the rarer ones."""
    found: dict[str, list[str]] = {}
    for key in keys:
        if signature := metrics.signatures.get(key):
            found.setdefault(signature, []).append(subject(key))
    if len(found) < 2:
        return list(found)
    usual = max(found, key=lambda signature: len(found[signature]))
    return [text if text == usual else f"{text} ({', '.join(subjects)})" for text, subjects in found.items()]


def generations(metrics: Metrics) -> list[dict[str, Any]]:
    """What each model answered to a few items: {title, items}; an item has a row per text."""
    out = []
    for key, items in metrics.samples.items():
        task, code = key.split("/", 1)  # no metric: an answer has several
        tags = [language_tag(lang) for lang in languages_of(code)] or [""]
        names = ["prompt", "reference", *(name for name in models(metrics) if any(name in row for row in items))]
        rows = [
            [{"name": name, "text": row.get(name, ""), "lang": tags[0 if name == "prompt" else -1]} for name in names]
            for row in items
        ]
        out.append({"title": f"{_capitalise(task.replace('_', ' '))}: {subject_name(code)}", "items": rows})
    return out


def leading_bars(metrics: Metrics, pivot: str) -> list[dict[str, Any]]:
    """The two leading figures as bars: mean recall@1 and the pivot's loss."""
    out = []
    for task, metric, keys in by_metric(metrics):
        if (task, metric) == ("loss", "nats_per_token"):
            own = str(MetricKey(task, pivot, metric))
            keys = [own] if own in keys else []
            title, unit = f"Loss in {languages.name(pivot)}, nats per token", ""
        elif (task, metric) == ("retrieval", "recall@1"):
            title, unit = "Recall@1, mean over pairs", " %"
        else:
            continue
        what = measure(task, metric)
        style = figure_style(what)
        found = {name: item for name in (*models(metrics), "chance") if keys and (item := mean(metrics, name, keys))}
        if found:
            most = max(item.get("high", item["value"]) for item in found.values()) or 1
            bars = [
                {
                    "name": name,
                    "text": style.number(item["value"]) + unit,
                    "width": round(item["value"] / most * 100, 2),
                }
                for name, item in found.items()
            ]
            out.append({"title": title, "bars": bars, "better": "lower" if what.lower_is_better else "higher"})
    return out


def layers(metrics: Metrics) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """(what is measured, [(layer, recall@1 of each model)]): the figures of the picture."""
    out = []
    for metric, title in plots.RECALLS.items():
        curves = {name: by_layer(metrics, name, metric) for name in _shown_models(metrics)}
        indices = sorted({layer for curve in curves.values() for layer in curve})
        style = figure_style(RECALL)
        rows = [(n, [cell(curve.get(n), style)["value"] for curve in curves.values()]) for n in indices]
        out += [(title, rows)] if rows else []
    return out


def language_tag(code: str) -> str:
    """`de-Latn` of `deu_Latn`: the lang attribute of its texts."""
    return f"{languages.alpha2(code)}-{languages.script(code)}"


def _shown_models(metrics: Metrics) -> list[str]:
    return [name for name in models(metrics) if name in metrics.models]


def _tone(result: str) -> str:
    return result if result in (BETTER, WORSE) else "same"


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]
