"""Evaluations of any number of runs -> one table, a row per recipe; runs that differ only in seed and name share one.

Arithmetic and text only. Every figure is that of the aligned model, with its change against the control of its run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from pipelines import languages
from pipelines.errors import UserError
from pipelines.evals import Metric
from pipelines.fetching.paths import is_address
from pipelines.files import Unreadable, first_cause, parse_json, read_small
from pipelines.files import fault as file_fault
from pipelines.report.data_card import cell
from pipelines.report.table import Cell, Table, change_cell, figure_cell, mean_over_runs
from pipelines.results.evaluation_result import FILE as METRICS
from pipelines.results.evaluation_result import EvaluationResult
from pipelines.results.measures import is_result, measure_of
from pipelines.results.measures import name as name_of
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import (
    ALL,
    BETTER,
    NOT_ABOVE_CHANCE,
    SAME,
    Metrics,
    best_trivial,
    by_metric,
    keys_of,
    mean,
    paired_difference,
    reference,
    share,
    significance,
)
from pipelines.results.verdict import Verdict, verdict
from pipelines.statistics import MOST_RUNS
from pipelines.storage.manifest import Manifest, parse_manifest
from pipelines.storage.store import Store

MANIFEST = "manifest.json"


class Run(NamedTuple):
    """One evaluation."""

    where: str
    manifest: Manifest
    metrics: Metrics

    def verdict(self) -> Verdict:
        return verdict(self.metrics, self.metrics.pivot)


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
    """The evaluations at these stores or evaluation folders; UserError where there is none."""
    out: list[Run] = []
    for place in places:
        folder = Path(place)
        if is_address(place) or (folder / "store.json").exists():
            store = Store(place)
            manifest = store.require("evaluation")
            run = Run(place, manifest, _metrics(place, store.fetched("evaluation", under=METRICS), manifest))
        else:
            run = _in_folder(place, folder)
        if duplicates := [other.where for other in out if other.manifest.fingerprint == run.manifest.fingerprint]:
            raise UserError(
                f"run {place}: found the same evaluation as {duplicates[0]}. Expected: each once, or a run would count "
                f"as two seeds. Fix: leave one out."
            )
        out.append(run)
    return out


def _in_folder(place: str, folder: Path) -> Run:
    """The run in an evaluation folder, which may come from anybody."""
    if missing := [name for name in (METRICS, MANIFEST) if not (folder / name).exists()]:
        raise UserError(
            f"run {place}: found no {' and no '.join(missing)}. Expected: a store that has an evaluation, or its "
            f"folder evaluation/. Fix: make it with 'make align' or 'python -m alignment_train eval'."
        )
    try:
        manifest = parse_manifest(read_small(folder / MANIFEST))
    except Unreadable as error:
        raise _damaged(place, MANIFEST, str(error)) from None
    return Run(place, manifest, _metrics(place, folder, manifest))


def _metrics(place: str, folder: Path, manifest: Manifest) -> Metrics:
    """The content of metrics.json; UserError where it is not what the manifest says, or has no figures by model."""
    try:
        if METRICS not in manifest.files:
            raise Unreadable("is not named in manifest.json")
        if cause := file_fault(folder, METRICS, manifest.files[METRICS]):
            raise Unreadable(cause)
        content = parse_json(read_small(folder / METRICS), dict)
        try:
            result = EvaluationResult.model_validate(content)
        except ValidationError as error:
            raise Unreadable(first_cause(error)) from None
        if missing := [name for name in ("base", "aligned") if name not in result.models]:
            raise Unreadable(f"has no figures of '{missing[0]}'")
    except Unreadable as error:
        raise _damaged(place, METRICS, str(error)) from None
    return result


def _damaged(place: str, name: str, cause: str) -> UserError:
    return UserError(
        f"run {place}: {name} {cause}. Expected: the files as an evaluation wrote them. Fix: run the evaluation again, "
        f"or copy its folder again."
    )


def lines(runs: Sequence[Run]) -> list[Line]:
    """A line per recipe: those that raise a guard last, then by the first column, best first."""
    by_recipe: dict[str, list[Run]] = {}
    for run in runs:
        recipe = {key: value for key, value in run.manifest.recipe.items() if key not in ("name", "seed")}
        by_recipe.setdefault(json.dumps(recipe, sort_keys=True), []).append(run)
    names: dict[str, int] = {}
    out = []
    for group in by_recipe.values():
        if len(group) > MOST_RUNS:
            raise UserError(
                f"report: found {len(group)} runs of one recipe. Expected: at most {MOST_RUNS}. Fix: name fewer."
            )
        name = ", ".join(dict.fromkeys(str(run.manifest.recipe.get("name", "unnamed")) for run in group))
        names[name] = names.get(name, 0) + 1
        out.append(_line(name if names[name] == 1 else f"{name} ({names[name]})", group))
    leading = next((key for line in out for key in line.figures), "")
    is_lower_better = bool(leading) and measure_of(leading).lower_is_better

    def rank(line: Line) -> tuple[bool, float]:
        value = line.figures.get(leading, {"value": float("inf") if is_lower_better else float("-inf")})["value"]
        return bool(line.guards), value if is_lower_better else -value

    return sorted(out, key=rank)


def _line(name: str, runs: list[Run]) -> Line:
    values = [_figures(run) for run in runs]
    figures, changes = (
        {key: mean_over_runs([each[side][key] for each in values])
         for key in values[0][side] if all(key in each[side] for each in values)}
        for side in (0, 1)
    )  # fmt: skip
    guards = dict.fromkeys(guard for run in runs for guard in run.verdict().guards)
    return Line(name, runs, list(guards), figures, changes)


def _figures(run: Run) -> tuple[dict[str, Metric], dict[str, Metric]]:
    """({column: figure of aligned}, {column: change against control}): means over languages, and the pivot's loss."""
    against = reference(run.metrics)
    figures, changes = dict[str, Metric](), dict[str, Metric]()
    for task, metric, keys in by_metric(run.metrics):
        if not is_result(task, metric):
            continue
        columns = {str(MetricKey(task, ALL, metric)): keys}
        own = str(MetricKey(task, run.metrics.pivot, metric))
        if task == "loss" and own in keys:
            columns = {own: [own], **columns}
        for column, members in columns.items():
            aligned, before = (mean(run.metrics, name, members) for name in ("aligned", against))
            diff = paired_difference(run.metrics, against, members)
            if aligned and before and diff:
                figures[column] = aligned
                changes[column] = share(diff, before) if measure_of(column).relative else diff
    return figures, changes


def leaderboard_table(found: Sequence[Line]) -> Table:
    """A row per recipe."""
    columns = list(dict.fromkeys(key for line in found for key in line.figures))
    head = ["recipe", "runs", "verdict", *(part for key in columns for part in (_title(key), "change"))]
    rows = []
    for line in found:
        tones = dict.fromkeys(run.verdict().tone.replace("same", SAME) for run in line.runs)
        verdicts = Cell(", ".join([*line.guards, " or ".join(tones)]), "worse" if line.guards else "")
        row = [Cell(line.name), Cell(str(len(line.runs))), verdicts]
        for key in columns:
            change = change_cell(line.changes.get(key), measure_of(key), _significance(line, key))
            row += [figure_cell(line.figures.get(key), measure_of(key)), change]
        rows.append(row)
    caption = "The aligned model of each recipe, and its change against the control of the same run"
    return Table("runs compared, by recipe", caption, head, rows, notes(found), text_columns=(0, 2))


def notes(found: Sequence[Line]) -> list[str]:
    """How to read the table, and what makes its rows incomparable."""
    against = sorted({reference(run.metrics) for line in found for run in line.runs})
    out = [
        f"Figures are of the aligned model, means over pairs or languages; the change beside each is against "
        f"{' or '.join(against)} of the same run, of losses as a share. Intervals are 95 % confidence intervals: of "
        f"one run over items (paired bootstrap), of several over seeds (Student's t) and items together. Runs that "
        f"raise a guard are listed last.",
    ]
    for what, asset in (("eval texts", "eval_text"), ("base models", "base_model")):
        fingerprints = {run.manifest.inputs.get(asset) for line in found for run in line.runs}
        if len(fingerprints) > 1:
            out.append(f"These runs have {len(fingerprints)} different {what}: their figures are not comparable.")
    for line in found:
        for run in line.runs:
            seed = run.manifest.recipe.get("seed")
            out.append(f"{line.name}, seed {seed}, {run.where}: {run.verdict().headline}.")
    return out


def markdown(found: Sequence[Line]) -> str:
    """The leaderboard for a terminal or a README."""
    table = leaderboard_table(found)
    return "\n".join([table.markdown(), "", *(f"- {cell(note)}" for note in table.notes)]) + "\n"


def page(found: Sequence[Line]) -> str:
    """The leaderboard as one HTML file that loads nothing."""
    return leaderboard_table(found).page()


def _title(key: str) -> str:
    task, subject, metric, _ = MetricKey.parse(key)
    if task == "loss":
        return "loss, all languages" if subject == ALL else f"{languages.name(subject)} loss"
    return name_of(task, metric)


def _significance(line: Line, key: str) -> str:
    """The significance of a change, which is not better where the figure of all languages is not above chance."""
    figure, parsed = line.figures.get(key), MetricKey.parse(key)
    result = significance(line.changes.get(key), measure_of(key).lower_is_better)
    if not figure or result != BETTER or parsed.subject != ALL or measure_of(key).lower_is_better:
        return result
    trivial = [best_trivial(run.metrics, keys_of(run.metrics, parsed.task, parsed.metric)) for run in line.runs]
    is_above = all(least is None or figure.get("low", figure["value"]) > least for least in trivial)
    return result if is_above else NOT_ABOVE_CHANCE
