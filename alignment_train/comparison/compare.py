"""Several recipes over several seeds on the same data -> one table: base, control and every recipe side by side.

A recipe and a seed are a cell, which the store keeps by its fingerprint: nothing is computed twice.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alignment_train.config import TrainConfig
from pipelines.config import METHODS, Recipe, lineage, read_recipe
from pipelines.errors import UserError
from pipelines.progress import Progress
from pipelines.report import comparison
from pipelines.report.comparison import Row
from pipelines.statistics import MOST_RUNS
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

Recipes = dict[str, Recipe]
"""By the name of their row."""


def read(
    paths: Sequence[str], methods: Sequence[str] | None = None, steps: int | None = None
) -> tuple[Recipe, Recipes, list[str]]:
    """The recipe that all have in common, the compared ones, and the names of those whose store serves.

    paths: recipes that extend one recipe, or that one; methods: to lay over a single one, all where none is named;
    steps: of every training, in place of what the recipes say. ValueError where they do not differ in `train` alone.
    """
    if steps is not None and steps < 1:
        raise UserError(f"--steps: found {steps}. Allowed: 1 or more. Leave it out to train as the recipes say.")
    if methods is not None and len(paths) > 1:
        raise UserError(
            f"--methods: found with {len(paths)} recipes. Allowed: one recipe, which the methods are laid over. Name "
            f"one, or leave out --methods to compare the recipes themselves."
        )
    lines = [lineage(path) for path in paths]
    files = [line[0] for line in lines]
    shared = [file for file in lines[0] if all(_in(file, line) for line in lines)]
    if not shared:
        raise UserError(
            f"recipes {', '.join(map(str, paths))}: extend no recipe in common. Allowed: recipes that extend one and "
            f"share its corpus, base and evals. Give each an 'extends'."
        )
    common = read_recipe(shared[0])
    if methods is None:
        found = [read_recipe(file) for file in files]
    else:
        named = methods or sorted(file.stem for file in METHODS.glob("*.yaml"))
        found = [read_recipe(name, over=shared[0]) for name in named]
    owners = [recipe.name for recipe in map(read_recipe, shared) if not _differences(recipe, common)]
    if steps is not None:
        common, *found = (
            recipe.model_copy(update={"train": {**recipe.train, "steps": steps}}) for recipe in (common, *found)
        )
    names = [recipe.name for recipe in found]
    if repeated := sorted({name for name in names if names.count(name) > 1} | {"base", "control"} & {*names}):
        raise UserError(
            f"recipes {', '.join(names)}: found {', '.join(repeated)} twice or in use. Allowed: names that tell rows "
            f"apart, base and control among them. Rename a file."
        )
    for recipe in found:
        _check(recipe, common)
    return common, dict(zip(names, found, strict=True)), owners


def run(
    common: Recipe, recipes: Recipes, store: Store, seeds: int, keep: bool, device: str | None, jobs: int = 1
) -> Manifest:
    """Make the cells that are not there, `jobs` at a time, and after each seed the table.

    WorkerKilledError where a process of several was killed.
    """
    from alignment_train.comparison import cells
    from alignment_train.comparison.workers import WorkerKilledError, workers
    from alignment_train.trainer import Trainer

    rows = [Row("base", "base"), *_controls(recipes), *(Row(name, "aligned") for name in recipes)]
    for control in rows:
        for name in control.of:
            next(row for row in rows if row.name == name).control = control.name
    made: Manifest | None = None
    there = {pair for asset, pair in store.datasets() if asset == "cells"}
    with store.writer(), Progress() as progress, ExitStack() as stack:
        last = common.seed + seeds - 1
        plan: list[tuple[Row, Trainer, str]] = []
        for seed in range(common.seed, last + 1):
            for row in rows if seed == common.seed else rows[1:]:
                recipe = recipes.get(row.name) or recipes.get(row.of[0] if row.of else "", common)
                trainer = Trainer(recipe.model_copy(update={"seed": seed}), store, device, progress.update)
                plan.append((row, trainer, cells.identity(trainer, row.role)[0]))
        store.tidy("cells", {fingerprint for _, _, fingerprint in plan})
        beside = stack.enter_context(workers(jobs, store, device)) if jobs > 1 else None
        if beside:
            for row, trainer, fingerprint in plan:
                beside.begin(trainer.recipe, row.role, keep, fingerprint)
        news = False
        for number, (row, trainer, fingerprint) in enumerate(plan, 1):
            seed = trainer.recipe.seed
            title = row.name if row.role == "base" else f"{row.name}, seed {seed}"
            if beside:
                title += f", {jobs} at a time"
            progress.start(f"cell {number} of {len(plan)} · {title} on {trainer.device}")
            try:
                cell = beside.finish(fingerprint) if beside else cells.make(trainer, row.role, keep)
                row.cells[seed] = cells.metrics(store, cell), cell
                news |= cell.pair not in there
                progress.finish("unchanged" if cell.pair in there else f"done, {cell.seconds:.0f} s of training")
            except WorkerKilledError:
                raise
            except UserError as error:  # a method may diverge; the others are still worth their row
                row.failed[seed], news = str(error), True
                progress.finish(f"failed: {error}")
            if row is rows[-1] and (news or seed == last):  # a table of more seeds is not replaced by one of fewer
                made = _write(common, recipes, store, rows, list(range(common.seed, seed + 1)))
                news = False
    assert made is not None, "no seed"
    return made


def check_jobs(jobs: int) -> None:
    if jobs < 1:
        raise UserError(f"--jobs: found {jobs}. Allowed: 1 or more. Take as many as there are cores or GPUs, at most.")


def check_seeds(seeds: int) -> None:
    if not 1 <= seeds <= MOST_RUNS:
        raise UserError(f"--seeds: found {seeds}. Allowed: 1 to {MOST_RUNS}. Take 3 or more to have intervals of use.")


def _write(common: Recipe, recipes: Recipes, store: Store, rows: list[Row], seeds: list[int]) -> Manifest:
    inputs = {f"{row.name}/{seed}": cell.fingerprint for row in rows for seed, (_, cell) in row.cells.items()}
    said = {"seeds": seeds, "failed": {row.name: row.failed for row in rows}, "page": comparison.template()}
    fingerprint = compute_fingerprint("pipelines.report.comparison", said, inputs, libraries=("matplotlib",))
    if done := store.unchanged("compare", None, fingerprint):
        return done
    found = comparison.summary(rows, common.corpus.pivot, seeds)
    found["recipe"] = common.name
    found["settings"] = {name: TrainConfig.of(recipe).settings() for name, recipe in recipes.items()}
    numbers = {"seeds": len(seeds), "failed": sum(len(row.failed) for row in rows)}
    with store.writing("compare") as out:
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        (out.path / "table.json").write_text(text + "\n", encoding="utf-8")
        (out.path / "table.md").write_text(comparison.markdown(found), encoding="utf-8")
        if picture := comparison.picture(found):
            (out.path / "trade_off.png").write_bytes(picture)
        (out.path / "compare.html").write_text(comparison.page(found), encoding="utf-8")
        return out.commit(fingerprint, common.resolved(), inputs=inputs, rows={}, numbers=numbers)


def _controls(recipes: Recipes) -> list[Row]:
    """One control for all recipes that are the same but for what aligns; else each such group has its own."""
    groups: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        config = TrainConfig.of(recipe)
        said = json.dumps(config.settings(config.control), sort_keys=True)
        groups.setdefault(said, []).append(name)
    if len(groups) == 1:
        return [Row("control", "control", of=list(recipes))]
    largest = max(groups.values(), key=len)
    return [
        Row("control" if names is largest else f"control of {', '.join(names)}", "control", of=names)
        for names in groups.values()
    ]


def _check(recipe: Recipe, common: Recipe) -> None:
    if found := _differences(recipe, common):
        raise UserError(
            f"recipe {recipe.name}: differs from {common.name} in {', '.join(found)}. Allowed: recipes that differ in "
            f"how they train alone, or their figures are not of the same thing. Change it there, or compare apart."
        )
    steps, most = (config.steps * config.accumulation for config in map(TrainConfig.of, (recipe, common)))
    if steps > most:
        raise UserError(
            f"recipe {recipe.name}: found {steps} micro-batches (steps x accumulation). Allowed: at most {most}, as "
            f"{common.name} has: the budget is the same for all. Lower train.steps, or raise it in {common.name}."
        )


def _differences(recipe: Recipe, common: Recipe) -> list[str]:
    """Places in which the two differ, of those that must not."""
    sides = [_fixed(recipe), _fixed(common)]
    return [place for place in sides[1] | sides[0] if sides[0].get(place) != sides[1].get(place)]


def _fixed(recipe: Recipe) -> dict[str, Any]:
    whole, config = recipe.resolved(), TrainConfig.of(recipe)
    return {
        "seed": recipe.seed,
        **{f"corpus.{key}": value for key, value in whole["corpus"].items()},
        "eval": whole["eval"],
        "train.base": config.base.model_dump(mode="json"),
        "train.max_length": config.max_length,  # evals cut texts there, too
    }


def _in(file: Path, line: list[Path]) -> bool:
    return any(file.resolve() == other.resolve() for other in line)
