"""Evaluations of any number of runs -> one table, a line a recipe; runs that differ in seed and name alone share one.

Arithmetic and text only. Every figure is that of the aligned model, with its change against the control of its run.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from math import hypot
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from pipelines import languages
from pipelines.errors import UserError
from pipelines.evals import Metric
from pipelines.fetching.paths import is_address
from pipelines.files import Unreadable, first_cause, parse_json, read_small
from pipelines.files import fault as file_fault
from pipelines.report.data_card import cell
from pipelines.results.measures import measure, measure_of
from pipelines.results.measures import name as name_of
from pipelines.results.summary import (
    ALL,
    BETTER,
    GUESSED,
    SAME,
    Metrics,
    as_rate,
    best_trivial,
    bounded,
    digits,
    groups,
    keys_of,
    mean,
    paired_difference,
    share,
    significance,
)
from pipelines.results.verdict import is_result, reference, verdict
from pipelines.statistics import MOST_RUNS, over_runs
from pipelines.storage.manifest import Manifest, parse_manifest
from pipelines.storage.store import Store


class _Figure(TypedDict):
    value: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class _Figures(TypedDict):
    """What a leaderboard reads of metrics.json; it holds more."""

    base: dict[str, _Figure]
    aligned: dict[str, _Figure]
    control: NotRequired[dict[str, _Figure]]
    merged: NotRequired[dict[str, _Figure]]
    pivot: NotRequired[str]


METRICS, MANIFEST = "metrics.json", "manifest.json"
FIGURES = TypeAdapter(_Figures)


class Run(NamedTuple):
    """One evaluation."""

    where: str
    manifest: Manifest
    metrics: Metrics


class Line(NamedTuple):
    """One recipe."""

    name: str
    runs: list[Run]
    guards: list[str]
    """Raised by any of its runs."""
    figures: dict[str, Metric]
    """Of the aligned model by column; of several runs the mean with its t interval."""
    changes: dict[str, Metric]


def read(places: Sequence[str]) -> list[Run]:
    """The evaluations at these stores or evaluation folders; ValueError where there is none."""
    out = []
    for place in places:
        folder = Path(place)
        if is_address(place) or (folder / "store.json").exists():
            store = Store(place)
            manifest = store.require("evaluation")
            run = Run(place, manifest, _metrics(place, store.fetched("evaluation", under=METRICS), manifest))
        else:
            run = _in_folder(place, folder)
        if twice := [other.where for other in out if other.manifest.fingerprint == run.manifest.fingerprint]:
            raise UserError(
                f"run {place}: found the same evaluation as {twice[0]}. Allowed: each once, or a run would count as "
                f"two seeds. Leave one out."
            )
        out.append(run)
    return out


def _in_folder(place: str, folder: Path) -> Run:
    """The run in an evaluation folder, which may come from anybody."""
    if missing := [name for name in (METRICS, MANIFEST) if not (folder / name).exists()]:
        raise UserError(
            f"run {place}: found no {' and no '.join(missing)}. Allowed: a store that has an evaluation, or its "
            f"folder evaluation/. Make it with 'make align' or 'python -m alignment_train eval'."
        )
    try:
        manifest = parse_manifest(read_small(folder / MANIFEST))
    except Unreadable as error:
        raise _damaged(place, MANIFEST, str(error)) from None
    return Run(place, manifest, _metrics(place, folder, manifest))


def _metrics(place: str, folder: Path, manifest: Manifest) -> Metrics:
    """What metrics.json holds; UserError where it is not what the manifest says, or no figures by model."""
    try:
        if METRICS not in manifest.files:
            raise Unreadable("is not named in manifest.json")
        if cause := file_fault(folder, METRICS, manifest.files[METRICS]):
            raise Unreadable(cause)
        found = parse_json(read_small(folder / METRICS), dict)
        try:
            FIGURES.validate_python(found)
        except ValidationError as error:
            raise Unreadable(first_cause(error)) from None
    except Unreadable as error:
        raise _damaged(place, METRICS, str(error)) from None
    return found


def _damaged(place: str, name: str, cause: str) -> UserError:
    return UserError(
        f"run {place}: {name} {cause}. Expected: the files as an evaluation wrote them. Fix: run the evaluation again, "
        f"or copy its folder again."
    )


def lines(runs: Sequence[Run]) -> list[Line]:
    """A line a recipe: those that raise a guard last, and else by the first column, best first."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        said = {key: value for key, value in run.manifest.recipe.items() if key not in ("name", "seed")}
        found.setdefault(json.dumps(said, sort_keys=True), []).append(run)
    names: dict[str, int] = {}
    out = []
    for own in found.values():
        if len(own) > MOST_RUNS:
            raise UserError(
                f"report: found {len(own)} runs of one recipe. Allowed: at most {MOST_RUNS}. Name fewer of them."
            )
        name = ", ".join(dict.fromkeys(str(run.manifest.recipe.get("name", "unnamed")) for run in own))
        names[name] = names.get(name, 0) + 1
        values = [_figures(run) for run in own]
        figures, changes = (
            {key: _together([each[side][key] for each in values])
             for key in values[0][side] if all(key in each[side] for each in values)}
            for side in (0, 1)
        )  # fmt: skip
        guards = dict.fromkeys(guard for run in own for guard in _verdict(run).guards)
        out.append(Line(name if names[name] == 1 else f"{name} ({names[name]})", own, list(guards), figures, changes))
    leading = next((key for line in out for key in line.figures), "")
    down = measure_of(leading).lower_is_better

    def place(line: Line) -> tuple[bool, float]:
        value = line.figures.get(leading, {"value": float("inf") if down else float("-inf")})["value"]
        return bool(line.guards), value if down else -value

    return sorted(out, key=place)


def _together(found: list[Metric]) -> Metric:
    """Of several runs the mean with its t interval, in quadrature with theirs: few hits may be the same in all runs."""
    if len(found) == 1:
        return found[0]
    out = over_runs([item["value"] for item in found])
    if all(bounded(item) for item in found):
        low, high = (fmean(abs(item[part] - item["value"]) for item in found) for part in ("low", "high"))
        half = out["high"] - out["value"]
        out |= {"low": out["value"] - hypot(half, low), "high": out["value"] + hypot(half, high)}
    return out


def _pivot(run: Run) -> str:
    return str(run.metrics.get("pivot", "eng_Latn"))


def _verdict(run: Run) -> Any:
    return verdict(run.metrics, _pivot(run))


def _figures(run: Run) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """({column: figure of aligned}, {column: change against control}): means over languages, and the pivot's loss."""
    pivot, against = _pivot(run), reference(run.metrics)
    figures, changes = dict[str, Metric](), dict[str, Metric]()
    for task, metric, keys in groups(run.metrics):
        if not is_result(task, metric):
            continue
        parts = {f"{task}/{ALL}/{metric}": keys}
        if task == "loss" and (own := f"{task}/{pivot}/{metric}") in keys:
            parts = {own: [own], **parts}
        for column, members in parts.items():
            aligned, other = (mean(run.metrics, name, members) for name in ("aligned", against))
            diff = paired_difference(run.metrics, against, members)
            if aligned and other and diff:
                figures[column] = aligned
                changes[column] = share(diff, other) if measure(task, metric).relative else diff
    return figures, changes


def table(found: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells as text."""
    columns = list(dict.fromkeys(key for line in found for key in line.figures))
    head = ["recipe", "runs", "verdict", *(part for key in columns for part in (_title(key), "change"))]
    rows = []
    for line in found:
        words = [_verdict(run) for run in line.runs]
        tones = list(dict.fromkeys(word.tone.replace("same", "not told apart") for word in words))
        row = [line.name, str(len(line.runs)), ", ".join([*line.guards, " or ".join(tones)])]
        for key in columns:
            row += [_cell(line.figures.get(key), key), _change(line.changes.get(key), key, _knows(line, key))]
        rows.append(row)
    return head, rows


def notes(found: Sequence[Line]) -> list[str]:
    """How to read the table, and what forbids comparing its lines."""
    against = sorted({reference(run.metrics) for line in found for run in line.runs})
    out = [
        f"Figures are of the aligned model, means over pairs or languages; the change beside each is against "
        f"{' or '.join(against)} of the same run, of losses as a share. Intervals are 95 %: of one run over items "
        f"(paired bootstrap), of several over seeds (Student's t) and items together. Runs that raise a guard stand "
        f"last.",
    ]
    for what, asset in (("eval texts", "eval_text"), ("base models", "base_model")):
        prints = {run.manifest.inputs.get(asset) for line in found for run in line.runs}
        if len(prints) > 1:
            out.append(f"These runs have {len(prints)} different {what}: figures of unlike ones do not compare.")
    for line in found:
        for run in line.runs:
            seed = run.manifest.recipe.get("seed")
            out.append(f"{line.name}, seed {seed}, {run.where}: {_verdict(run).headline}.")
    return out


def markdown(found: Sequence[Line]) -> str:
    """The leaderboard for a terminal or a README."""
    head, rows = table(found)
    marks = ["---" if column in ("recipe", "verdict") else "---:" for column in head]
    whole = [*([cell(text) for text in row] for row in (head, *rows))]
    whole.insert(1, marks)
    told_ = [f"- {cell(note)}" for note in notes(found)]
    return "\n".join([f"| {' | '.join(row)} |" for row in whole] + ["", *told_]) + "\n"


def page(found: Sequence[Line]) -> str:
    """The leaderboard as one HTML file that loads nothing."""
    import base64
    import hashlib

    import jinja2
    from markupsafe import Markup

    from pipelines.report.evaluation import script, shown

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    head, rows = table(found)
    hashed = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    text = files("pipelines.report").joinpath("leaderboard.html").read_text(encoding="utf-8")
    context = {"head": head, "rows": rows, "notes": notes(found), "guarded": [bool(line.guards) for line in found]}
    return environment.from_string(text).render(script=Markup(script()), script_hash=hashed, **context)


def _title(key: str) -> str:
    task, subject, metric = key.split("/", 2)
    if task == "loss":
        return "loss, all languages" if subject == ALL else f"{languages.name(subject)} loss"
    return name_of(task, metric)


def _cell(item: Metric | None, key: str) -> str:
    if not item:
        return "–"
    what = measure_of(key)
    if what.rate:
        return _text(item, 100, digits(item["value"]), " %")
    return _text(item, 1, 1 if what.score else 2, "")


def _knows(line: Line, key: str) -> bool:
    """Whether the figure of all languages is above what guessing gives, where that is known."""
    shown, (task, subject, metric) = line.figures.get(key), key.split("/", 2)
    if not shown or subject != ALL or measure_of(key).lower_is_better:
        return True
    known = [best_trivial(run.metrics, keys_of(run.metrics, task, metric)) for run in line.runs]
    return all(least is None or shown.get("low", shown["value"]) > least for least in known)


def _change(item: Metric | None, key: str, knows: bool = True) -> str:
    if not item:
        return "–"
    what = measure_of(key)
    result = significance(item, what.lower_is_better)
    result = result if knows or result != BETTER else GUESSED
    word = "" if result == SAME else f", {result}"
    if not (what.relative or what.rate or what.score):
        return _text(item, 1, 2, f" {what.unit}", "+") + word
    item = as_rate(item, what)
    return _text(item, 100, digits(item["value"]), " %" if what.relative else " points", "+") + word


def _text(item: Metric, scale: int, places: int, unit: str, sign: str = "") -> str:
    low, high = item.get("low"), item.get("high")
    bounds = (
        "" if low is None or high is None else f" ({low * scale:{sign}.{places}f} to {high * scale:{sign}.{places}f})"
    )
    return f"{item['value'] * scale:{sign}.{places}f}{unit}{bounds}".replace("-", "−")
