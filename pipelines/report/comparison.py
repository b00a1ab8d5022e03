"""The cells of a comparison -> figures with intervals over seeds, as a table, a picture and a page. Arithmetic only."""

import base64
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from math import hypot, inf
from statistics import fmean
from typing import Any, Literal

from pipelines import languages
from pipelines.evals import Metric
from pipelines.report import plots
from pipelines.report.data_card import cell
from pipelines.results import measures
from pipelines.results.measures import measure_of
from pipelines.results.summary import (
    ALL,
    BETTER,
    GUESSED,
    SAME,
    SOURCE,
    TRANSFER,
    WORSE,
    Metrics,
    best_trivial,
    by_layer,
    difference,
    digits,
    groups,
    mean,
    means_of,
    significance,
    value,
)
from pipelines.statistics import over_runs
from pipelines.storage.manifest import Manifest

RECALL = ("retrieval", "recall@1")
RANK = ("representation", "effective_rank")
LOSS = ("loss", "nats_per_token")
FORMAT = 2
"""Of table.json."""


@dataclass
class Row:
    """A method, the control or the base, with its cells by seed; the base has one, under the first seed."""

    name: str
    role: Literal["base", "control", "aligned"]
    of: list[str] = field(default_factory=list)
    """Of a control, the rows that are compared with it."""
    control: str = ""
    """Of a row that aligns, its control."""
    cells: dict[int, tuple[Metrics, Manifest]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


def summary(rows: list[Row], pivot: str, seeds: list[int]) -> dict[str, Any]:
    """table.json: a row each, those that align by falling recall of the best layer; and what its columns are."""
    named = {row.name: row for row in rows}
    base = next(iter(next(row for row in rows if row.role == "base").cells.values()), None)
    out = [_row(row, named.get(row.control), base, pivot) for row in rows]
    fixed = [row for row in out if row["role"] != "aligned"]
    aligned = sorted((row for row in out if row["role"] == "aligned"), key=lambda row: -_height(row))
    columns = list(dict.fromkeys(key for row in out for key in row["figures"]))
    chance = None
    if base:
        chance = mean(base[0], "chance", [key for task, metric, keys in groups(base[0]) if (task, metric) == RECALL
                                          for key in keys])  # fmt: skip
    return {
        "format": FORMAT,
        "seeds": seeds,
        "pivot": pivot,
        "chance": chance["value"] if chance else None,
        "columns": columns,
        "rows": [*fixed, *aligned],
    }


def _row(row: Row, control: Row | None, base: tuple[Metrics, Manifest] | None, pivot: str) -> dict[str, Any]:
    found = {seed: figures(metrics, row.role, pivot) for seed, (metrics, _) in row.cells.items()}
    out: dict[str, Any] = {"name": row.name, "role": row.role, "seeds": sorted(found), "figures": {}}
    out["failed"] = {str(seed): reason for seed, reason in row.failed.items()}
    out["control"] = row.control or None
    out["layers"] = {key: [at[key] for _, at in found.values()] for key in ("trained", "best")}
    for key in dict.fromkeys(key for own, _ in found.values() for key in own):
        each = [own[key] for own, _ in found.values() if key in own]
        bounds = {part: fmean(item[part] for item in each) for part in ("low", "high") if all(part in i for i in each)}
        whole = over_runs([item["value"] for item in each])
        known = {"guessed": max(item["guessed"] for item in each)} if all("guessed" in item for item in each) else {}
        out["figures"][key] = {**whole, "each": [item["value"] for item in each], "items": bounds, **known}
    for name, against in (("base", base), ("control", control)):
        out[f"against_{name}"] = {}
        if against is None or name == row.role or row.role == "base":
            continue
        moved: dict[str, list[float]] = {}
        texts: dict[str, list[Metric]] = {}
        for seed, (own, at) in found.items():
            other_cell = against if isinstance(against, tuple) else against.cells.get(seed)
            if other_cell is None:
                continue
            other, _ = figures(other_cell[0], name, pivot, at["trained"])
            for key in own:
                if key in other:
                    moved.setdefault(key, []).append(_moved(key, own[key]["value"], other[key]["value"]))
                    texts.setdefault(key, []).append(difference(own[key], other[key]))
        for key, values in moved.items():
            metric = over_runs(values)
            if measure_of(key).rate:
                metric = _widened(metric, texts[key])
            result, shown = significance(metric, measure_of(key).lower_is_better), out["figures"][key]
            if result == BETTER and shown.get("low", shown["value"]) <= shown.get("guessed", -inf):
                result = GUESSED
            out[f"against_{name}"][key] = {**metric, "each": values, "told": result}
    spent = [cell for _, cell in row.cells.values() if row.role != "base"]
    if spent:
        out["seconds"] = over_runs([cell.seconds for cell in spent])
        for part in ("tokens", "rows"):
            out[part] = max(
                sum(number for key, number in cell.numbers.items() if key.startswith(f"{part}/")) for cell in spent
            )
        out["steps"] = spent[0].numbers["steps"]
    return out


def figures(
    metrics: Metrics, role: str, pivot: str, layer: int | None = None
) -> tuple[dict[str, Metric], dict[str, int | None]]:
    """The figures of one cell by column, and its layers: the trained one, or `layer`, and the best on dev text.

    Of what can be guessed a figure has, as `guessed`, what that gives.
    """
    out: dict[str, Metric] = {}
    recall, dev = by_layer(metrics, role), by_layer(metrics, "dev")
    ranks = by_layer(metrics, role, RANK[1], RANK[0])
    trained = metrics.get("trained_layer") if layer is None else layer
    best = max(dev, key=lambda at: dev[at]["value"], default=None)
    for name, at in (("trained", trained), ("best", best)):
        if at in recall:
            out[f"retrieval/{name}/recall@1"] = recall[at]
    for task, metric, keys in groups(metrics):
        if task == RECALL[0] or (task == RANK[0] and metric != RANK[1]):  # one figure a question: the report has all
            continue
        if (task, metric) == RANK and trained in ranks:
            out[f"{task}/mean/{metric}"] = ranks[trained]
            continue
        means: list[tuple[str, str, list[str]]] = []
        if (task, metric) == LOSS:
            own = f"loss/{pivot}/{metric}"
            if own in keys and value(metrics, role, own) is not None:
                out[own] = metrics[role][own]
            if rest := [key for key in keys if key != own]:
                means = [("others", ALL, rest)]
        else:
            means = [("mean", ALL, keys)]
        # What is taught in some languages is asked in the others for another reason: no mean has both.
        means = [(group, group, some) for _, group, some in means_of(metrics, keys) if group != ALL] or means
        for name, group, some in means:
            if found := mean(metrics, role, some, group):
                least = best_trivial(metrics, some)
                known = {} if least is None else {"guessed": least}
                out[f"{task}/{name}/{metric}"] = {**found, **known}
    return out, {"trained": trained, "best": best}


def markdown(found: dict[str, Any]) -> str:
    """The table with its notes."""
    head, lines = table(found)
    head, *lines = ([cell(text) for text in line] for line in (head, *lines))
    rows = [f"| {' | '.join(cells)} |" for cells in (head, ["---", *(["---:"] * (len(head) - 1))], *lines)]
    title = f"# Comparison on {cell(found['recipe'])}"
    return "\n\n".join([title, "\n".join(rows), *notes(found)]) + "\n"


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells as text."""
    keys = [key for key in found["columns"] if key.partition("/")[0] != "loss"]
    losses = [key for key in found["columns"] if key.partition("/")[0] == "loss"]
    head = ["", *(_title(key, found) for key in keys)]
    for key in losses:
        head += [_title(key, found), "against base", "against control"]
    head += ["steps", "rows", "tokens", "seconds"]
    lines = []
    for row in found["rows"]:
        line = [row["name"]]
        line += [_recall_cell(row, key) if key.startswith("retrieval/") else _plain_cell(row, key) for key in keys]
        for key in losses:
            line.append(_plain_cell(row, key))
            line += [_moved_cell(row[f"against_{name}"].get(key), name) for name in ("base", "control")]
        cost = [f"{row[part]:,}" if part in row else "–" for part in ("steps", "rows", "tokens")]
        line += [*cost, f"{row['seconds']['value']:.0f}" if "seconds" in row else "–"]
        if row["failed"]:
            line[0] += f" ({len(row['failed'])} of {len(found['seeds'])} seeds failed)"
        lines.append([cell.replace("|", "/") for cell in line])
    return head, lines


def notes(found: dict[str, Any]) -> list[str]:
    """How to read the table, a sentence or two each."""
    n, name = len(found["seeds"]), languages.name(found["pivot"])
    seeds = f"Seeds {', '.join(map(str, found['seeds']))}, which move the order of rows and what begins at random; "
    spread = (
        f"± is a 95 % interval of the mean over seeds by Student's t, wide for {n} of them; it says nothing of other "
        f"held-out texts. Base was measured once: its interval is over texts (bootstrap)."
        if n > 1
        else "Of one seed there are no intervals, and so nothing is called better or worse."
    )
    out = [
        f"{seeds}the base model is one. {spread}",
        "`better` and `worse` are against control of the same seed, which has the same text and tokens beside but "
        "nothing that aligns; recall and effective rank at the same layer, recall also of each at its best. "
        "Where neither stands, the 95 % interval "
        "of the difference holds 0: they cannot be told apart. It is over seeds, of rates over items as well.",
        f"The best layer is chosen on dev text for each seed. Losses are nats per token, the change of {name}'s and of "
        f"the other languages' a share of the other model's loss.",
    ]
    for row in found["rows"]:
        out += [f"{row['name']}, seed {seed}: failed: {reason}" for seed, reason in row["failed"].items()]
    return out


def picture(found: dict[str, Any], svg: bool = False) -> bytes | None:
    """Recall of the best layer against the change of the pivot's loss; None where the evals do not give both."""
    key, best = f"loss/{found['pivot']}/nats_per_token", "retrieval/best/recall@1"
    points: dict[str, tuple[Metric, Metric]] = {}
    for row in found["rows"]:
        if best not in row["figures"] or key not in row["figures"]:
            continue
        change = {"value": 0.0} if row["role"] == "base" else row["against_base"].get(key)
        if change:
            points[row["name"]] = change, row["figures"][best]
    name = languages.name(found["pivot"])
    return plots.trade_off(points, f"Change of {name} loss against base, %", found["chance"], svg) if points else None


def page(found: dict[str, Any]) -> str:
    """One HTML file that loads nothing from anywhere and runs no script."""
    import jinja2

    from pipelines.report.evaluation import shown

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    head, lines = table(found)
    png = picture(found)
    context = {
        "recipe": found["recipe"],
        "head": head,
        "lines": [[cell.replace(" %", "\u00a0%") for cell in line] for line in lines],
        "notes": notes(found),
        "picture": base64.b64encode(png).decode() if png else None,
    }
    return environment.from_string(template()).render(context)


def template() -> str:
    """The source of the page."""
    return files("pipelines.report").joinpath("compare.html").read_text(encoding="utf-8")


def _widened(metric: Metric, texts: list[Metric]) -> Metric:
    """The interval over seeds, in quadrature with the mean one over items: few hits may be the same in all seeds."""
    if "low" not in metric or not all("low" in item for item in texts):
        return metric
    low, high = (fmean(abs(item[part] - item["value"]) for item in texts) for part in ("low", "high"))
    half = metric["high"] - metric["value"]
    return {**metric, "low": metric["value"] - hypot(half, low), "high": metric["value"] + hypot(half, high)}


def _moved(key: str, own: float, other: float) -> float:
    """A difference of rates, and of all else a share of the other's."""
    return own - other if measure_of(key).rate or other == 0 else own / other - 1


def _height(row: dict[str, Any]) -> float:
    return row["figures"].get("retrieval/best/recall@1", {"value": -1.0})["value"]


def _title(key: str, found: dict[str, Any]) -> str:
    task, subject, metric = key.split("/")
    if task == "retrieval":
        chance = f" (chance {_percent(found['chance'])})" if found["chance"] else ""
        return f"recall@1, {subject} layer{chance}"
    if task == "loss":
        return f"{languages.name(subject)} loss" if subject != "others" else "other languages' loss"
    guess = found["rows"][0]["figures"].get(key, {}).get("guessed")
    of = {SOURCE: ", languages trained in", TRANSFER: ", languages not trained in"}.get(subject, "")
    return f"{measures.name(task, metric)}{of}{'' if guess is None else f' (guessing {_percent(guess)})'}"


def _recall_cell(row: dict[str, Any], key: str) -> str:
    if not (item := row["figures"].get(key)):
        return "–"
    text = _percent(item["value"]) + _interval(item, row, partial(_percent, places=digits(item["value"])))
    at = sorted({layer for layer in row["layers"][key.split("/")[1]] if layer is not None})
    return f"{text}, layer {' or '.join(map(str, at))}{_mark(row['against_control'].get(key))}"


def _plain_cell(row: dict[str, Any], key: str) -> str:
    if not (item := row["figures"].get(key)):
        return "–"
    what = measure_of(key)
    shown = partial(_percent, places=digits(item["value"])) if what.rate else f"{{:.{1 if what.score else 3}f}}".format
    text = shown(item["value"]) + _interval(item, row, shown)
    return text if key.startswith("loss/") else text + _mark(row["against_control"].get(key))


def _moved_cell(item: dict[str, Any] | None, name: str) -> str:
    if not item:
        return "–"
    half = f" ± {(item['high'] - item['low']) * 50:.1f}" if "low" in item else ""
    return f"{item['value'] * 100:+.1f}{half} %".replace("-", "−") + (_mark(item) if name == "control" else "")


def _interval(item: dict[str, Any], row: dict[str, Any], shown: Any) -> str:
    if row["role"] == "base" and item["items"]:
        return f" ({shown(item['items']['low'])} to {shown(item['items']['high'])})"
    return f" ± {shown((item['high'] - item['low']) / 2)}" if "low" in item else ""


def _mark(item: dict[str, Any] | None) -> str:
    result = item["told"] if item else SAME
    return f", {result}" if result in (BETTER, WORSE, GUESSED) else ""


def _percent(number: float, places: int | None = None) -> str:
    return f"{number * 100:.{digits(number) if places is None else places}f} %".replace("-", "−")
