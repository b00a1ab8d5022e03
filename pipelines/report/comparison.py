"""The cells of a comparison -> figures with intervals over seeds, as a table, a picture and a page. Arithmetic only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import fmean
from typing import Any, Literal

from pipelines import languages
from pipelines.evals import Metric
from pipelines.report import plot_training
from pipelines.report.data_card import cell as escaped
from pipelines.report.format import NONE, plain
from pipelines.report.page import sources
from pipelines.report.table import TEMPLATE, Cell, Table, change_cell, figure_cell, with_item_error
from pipelines.results import measures
from pipelines.results.measures import measure_of
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import (
    ALL,
    BETTER,
    NOT_ABOVE_CHANCE,
    SOURCE,
    TRANSFER,
    Metrics,
    best_trivial,
    by_layer,
    by_metric,
    difference,
    group_means,
    keys_of,
    mean,
    significance,
)
from pipelines.statistics import over_runs
from pipelines.storage.manifest import Manifest

RECALL = ("retrieval", "recall@1")
RANK = ("representation", "effective_rank")
LOSS = ("loss", "nats_per_token")
BEST = str(MetricKey(RECALL[0], "best", RECALL[1]))
FORMAT = 2
"""Of table.json."""
REST = "others"
"""The subject of the mean loss over all languages but the pivot."""
Result = tuple[Metrics, Manifest]
"""The metrics and the manifest of one cell."""


@dataclass
class Row:
    """A method, the control or the base, with its cells by seed; the base has one, under the first seed."""

    name: str
    role: Literal["base", "control", "aligned"]
    of: list[str] = field(default_factory=list)
    """Of a control, the rows that are compared with it."""
    control: str = ""
    """Of a row that aligns, its control."""
    cells: dict[int, Result] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


def summary(rows: list[Row], pivot: str, seeds: list[int]) -> dict[str, Any]:
    """table.json: its columns and rows; base and control first, then methods by falling recall of the best layer."""
    by_name = {row.name: row for row in rows}
    base = next(iter(next(row for row in rows if row.role == "base").cells.values()), None)
    out = [_row(row, by_name.get(row.control), base, pivot) for row in rows]
    fixed = [row for row in out if row["role"] != "aligned"]
    aligned = [row for row in out if row["role"] == "aligned"]
    aligned.sort(key=lambda row: row["figures"].get(BEST, {"value": -1.0})["value"], reverse=True)
    chance = mean(base[0], "chance", keys_of(base[0], *RECALL)) if base else None
    return {
        "format": FORMAT,
        "seeds": seeds,
        "pivot": pivot,
        "chance": chance["value"] if chance else None,
        "columns": list(dict.fromkeys(key for row in out for key in row["figures"])),
        "rows": [*fixed, *aligned],
    }


def _row(row: Row, control: Row | None, base: Result | None, pivot: str) -> dict[str, Any]:
    found = {seed: figures(metrics, row.role, pivot) for seed, (metrics, _) in row.cells.items()}
    out: dict[str, Any] = {"name": row.name, "role": row.role, "seeds": sorted(found)}
    out["figures"] = _over_seeds([own for own, _ in found.values()])
    out["failed"] = {str(seed): reason for seed, reason in row.failed.items()}
    out["control"] = row.control or None
    out["layers"] = {key: [layers[key] for _, layers in found.values()] for key in ("trained", "best")}
    for name, cells in (("base", dict.fromkeys(found, base)), ("control", control.cells if control else {})):
        is_compared = name != row.role and row.role != "base"
        out[f"against_{name}"] = _changes(found, out["figures"], name, cells, pivot) if is_compared else {}
    return out | _cost(row)


def _over_seeds(by_seed: list[dict[str, Metric]]) -> dict[str, dict[str, Any]]:
    """{column: mean over seeds, the value of each seed, the interval over items, and the trivial baseline}."""
    out: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(key for own in by_seed for key in own):
        each = [own[key] for own in by_seed if key in own]
        values = [item["value"] for item in each]
        items = {part: fmean(item[part] for item in each) for part in ("low", "high") if all(part in i for i in each)}
        out[key] = {**over_runs(values), "each": values, "items": items}
        if all("guessed" in item for item in each):
            out[key]["guessed"] = max(item["guessed"] for item in each)
    return out


def _changes(
    found: Mapping[int, tuple[dict[str, Metric], dict[str, int | None]]],
    over_seeds: Mapping[str, Mapping[str, Any]],
    name: str,
    cells: Mapping[int, Result | None],
    pivot: str,
) -> dict[str, dict[str, Any]]:
    """{column: change against base or control of the same seed, and its significance}."""
    values: dict[str, list[float]] = {}
    over_items: dict[str, list[Metric]] = {}
    for seed, (own, layers) in found.items():
        if (other := cells.get(seed)) is None:
            continue
        theirs, _ = figures(other[0], name, pivot, layers["trained"])
        for key in own.keys() & theirs.keys():
            values.setdefault(key, []).append(_change(key, own[key]["value"], theirs[key]["value"]))
            over_items.setdefault(key, []).append(difference(own[key], theirs[key]))
    out: dict[str, dict[str, Any]] = {}
    for key in (key for key in over_seeds if key in values):
        metric, what, shown = over_runs(values[key]), measure_of(key), over_seeds[key]
        if what.rate:
            metric = with_item_error(metric, over_items[key])
        result = significance(metric, what.lower_is_better)
        if result == BETTER and shown.get("low", shown["value"]) <= shown.get("guessed", -inf):
            result = NOT_ABOVE_CHANCE
        out[key] = {**metric, "each": values[key], "told": result}
    return out


def _change(key: str, own: float, other: float) -> float:
    """A difference of rates; of anything else a share of the other's."""
    return own - other if measure_of(key).rate or other == 0 else own / other - 1


def _cost(row: Row) -> dict[str, Any]:
    """{seconds, tokens, rows, steps} of the trainings of a row; empty for the base."""
    spent = [cell for _, cell in row.cells.values() if row.role != "base"]
    if not spent:
        return {}
    out: dict[str, Any] = {"seconds": over_runs([cell.seconds for cell in spent])}
    for part in ("tokens", "rows"):
        out[part] = max(
            sum(number for key, number in cell.numbers.items() if key.startswith(f"{part}/")) for cell in spent
        )
    return out | {"steps": spent[0].numbers["steps"]}


def figures(
    metrics: Metrics, role: str, pivot: str, layer: int | None = None
) -> tuple[dict[str, Metric], dict[str, int | None]]:
    """The figures of one cell by column, and its layers: the trained one, or `layer`, and the best on dev text.

    `guessed` of a figure is the best trivial baseline, where there is one.
    """
    out: dict[str, Metric] = {}
    recall, dev = by_layer(metrics, role), by_layer(metrics, "dev")
    ranks = by_layer(metrics, role, RANK[1], RANK[0])
    trained = metrics.trained_layer if layer is None else layer
    best = max(dev, key=lambda at: dev[at]["value"], default=None)
    for name, at in (("trained", trained), ("best", best)):
        if at in recall:
            out[str(MetricKey(RECALL[0], name, RECALL[1]))] = recall[at]
    for task, metric, keys in by_metric(metrics):
        if task == RECALL[0] or (task == RANK[0] and metric != RANK[1]):  # the report has all of them
            continue
        if (task, metric) == RANK and trained in ranks:
            out[str(MetricKey(task, "mean", metric))] = ranks[trained]
            continue
        own = str(MetricKey(task, pivot, metric))
        if (task, metric) == LOSS and (item := metrics.figure(role, own)) and own in keys:
            out[own] = item
        for subject, group, members in _means(metrics, keys, own if (task, metric) == LOSS else None):
            if item := mean(metrics, role, members, group):
                least = best_trivial(metrics, members)
                column = str(MetricKey(task, subject, metric))
                out[column] = item if least is None else {**item, "guessed": least}
    return out, {"trained": trained, "best": best}


def _means(metrics: Metrics, keys: list[str], excluded: str | None) -> list[tuple[str, str, list[str]]]:
    """(subject of the column, group, keys) of the means of a metric.

    A task taught in some languages has one mean for these and one for the others, never one of both: in the others it
    measures transfer.
    """
    if split := [(group, group, members) for _, group, members in group_means(metrics, keys) if group != ALL]:
        return split
    members = [key for key in keys if key != excluded]
    return [(REST if excluded else "mean", ALL, members)] if members else []


def markdown(found: dict[str, Any]) -> str:
    """The table with its notes."""
    table = comparison_table(found)
    title = f"# Comparison on {escaped(found['recipe'])}"
    return "\n\n".join([title, table.markdown(), *table.notes]) + "\n"


def page(found: dict[str, Any]) -> str:
    """The table and its picture as one HTML file that loads nothing."""
    title = "Recall@1 of the best layer against the change of loss, of every row of the table"
    return comparison_table(found).page(picture(found), title)


def template() -> str:
    """The source of the page."""
    return sources(TEMPLATE)


def comparison_table(found: dict[str, Any]) -> Table:
    """table.json as a table."""
    is_loss = {key: MetricKey.parse(key).task == LOSS[0] for key in found["columns"]}
    keys, losses = ([key for key in found["columns"] if is_loss[key] == wanted] for wanted in (False, True))
    head = ["method", *(_title(key, found) for key in keys)]
    for key in losses:
        head += [_title(key, found), "vs base", "vs control"]
    rows = []
    for row in found["rows"]:
        failed = f" ({len(row['failed'])} of {len(found['seeds'])} seeds failed)" if row["failed"] else ""
        cells = [Cell(f"{row['name']}{failed}"), *(_figure_cell(row, key) for key in keys)]
        for key in losses:
            cells += [_figure_cell(row, key, is_marked=False)]
            for name in ("base", "control"):
                item = row[f"against_{name}"].get(key)
                cells += [change_cell(item, measure_of(key), item["told"] if item and name == "control" else "")]
        cells += [Cell(f"{row[part]:,}" if part in row else NONE) for part in ("steps", "rows", "tokens")]
        cells += [Cell(f"{row['seconds']['value']:.0f}" if "seconds" in row else NONE)]
        rows.append(cells)
    title = f"methods compared on recipe {found['recipe']}"
    caption = "Each method and its change against control; best recall first"
    return Table(title, caption, [*head, "steps", "rows", "tokens", "seconds"], rows, notes(found))


def notes(found: dict[str, Any]) -> list[str]:
    """How to read the table."""
    n, pivot = len(found["seeds"]), languages.name(found["pivot"])
    seeds = ", ".join(map(str, found["seeds"]))
    spread = (
        f"Intervals are 95 % confidence intervals of the mean over {n} seeds (Student's t), wide for few seeds; they "
        f"do not cover other held-out texts. Base was measured once: its interval is over texts (bootstrap)."
        if n > 1
        else "With one seed there are no intervals, so nothing is called better or worse."
    )
    out = [
        f"Seeds {seeds}: they change the order of rows and the initial values of what is trained; the base model is "
        f"the same. {spread}",
        "`better` and `worse` are against control of the same seed, which has the same text and tokens without the "
        "alignment objectives; without either word there is no significant difference. Recall and effective rank are "
        "compared at the same layer, recall also at the best layer of each. The interval of a difference is over "
        "seeds, of rates over items as well.",
        f"The best layer is chosen on dev text for each seed. Losses are in nats per token; the changes of the loss of "
        f"{pivot} and of the other languages are shares of the other model's loss.",
    ]
    for row in found["rows"]:
        out += [f"{row['name']}, seed {seed}: failed: {reason}" for seed, reason in row["failed"].items()]
    return out


def picture(found: dict[str, Any], svg: bool = False) -> bytes | None:
    """Recall of the best layer against the change of the pivot's loss; None where the evals do not give both."""
    key = str(MetricKey(LOSS[0], found["pivot"], LOSS[1]))
    points: dict[str, tuple[Metric, Metric]] = {}
    for row in found["rows"]:
        if BEST not in row["figures"] or key not in row["figures"]:
            continue
        change = {"value": 0.0} if row["role"] == "base" else row["against_base"].get(key)
        if change:
            points[row["name"]] = change, row["figures"][BEST]
    across = f"Change of {languages.name(found['pivot'])} loss against base, %"
    return plot_training.trade_off(points, across, found["chance"], svg) if points else None


def _title(key: str, found: dict[str, Any]) -> str:
    task, subject, metric, _ = MetricKey.parse(key)
    if task == RECALL[0]:
        chance = f" (chance {plain(found['chance'], measure_of(key))})" if found["chance"] else ""
        return f"recall@1, {subject} layer{chance}"
    if task == LOSS[0]:
        return f"{languages.name(subject)} loss" if subject != REST else "other languages' loss"
    trivial = found["rows"][0]["figures"].get(key, {}).get("guessed")
    group = {SOURCE: ", languages trained in", TRANSFER: ", languages not trained in"}.get(subject, "")
    chance = "" if trivial is None else f" (chance {plain(trivial, measure_of(key))})"
    return f"{measures.name(task, metric)}{group}{chance}"


def _figure_cell(row: dict[str, Any], key: str, is_marked: bool = True) -> Cell:
    item = row["figures"].get(key)
    if item and row["role"] == "base":
        item = {**item, **item["items"]}
    parsed, layers = MetricKey.parse(key), ""
    if parsed.task == RECALL[0]:
        found = sorted({layer for layer in row["layers"][parsed.subject] if layer is not None})
        layers = f", layer {' or '.join(map(str, found))}"
    result = row["against_control"].get(key, {}).get("told", "")
    return figure_cell(item, measure_of(key), layers, result if is_marked else "")
