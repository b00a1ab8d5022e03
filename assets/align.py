"""`isogloss align`: check the recipe and a local base model, run the job `align`, and print the results."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignment_train.config import TrainConfig
from assets.locations import RunLocation, home, prepare_home, remember
from pipelines.config import Recipe, read_recipe
from pipelines.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, printable
from pipelines.progress import clock
from pipelines.results.evaluation_result import read_result
from pipelines.results.summary import table
from pipelines.results.verdict import is_result, verdict
from pipelines.storage.store import Store

OUTPUT_STAYS = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
        "config": {},
    }
}
"""Dagster must not redirect this process's output: that would end the live progress line and handle Ctrl-C."""


def align(location: RunLocation) -> int:
    """Run everything that the recipe says, after the checks that take no corpus; the exit code."""
    recipe = read_recipe(location.recipe)
    config, notes = TrainConfig.of(recipe), recipe.notes()
    if not is_base_checked(location, recipe, config):
        code, _ = check_base(location, config, "--quiet")
        if code != EXIT_OK:
            return code
    prepare_home()
    Store.open(location.store, recipe.name)
    os.environ.update(RECIPE=str(location.recipe), STORE=location.store)  # read by assets.definitions
    remember(location)
    for note in notes:
        print(printable(f"Note: {note}"), flush=True)
    print(printable(f"Recipe {location.recipe}, store {location.store}"), flush=True)
    began = time.monotonic()
    try:
        result = _run_job(recipe)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if type(error).__name__ != "DagsterExecutionInterruptedError":
            raise
        return _interrupted()
    if not result.success:
        return _show_failures(result)
    _show_failed_checks(result)
    _show_results(Store(location.store).fetched("evaluation"), recipe, time.monotonic() - began)
    return EXIT_OK


def plan(recipe: Recipe, config: TrainConfig) -> dict[str, list[Any]]:
    """What a recipe would do, by section."""
    corpus = recipe.corpus
    return {
        "pairs": [str(pair) for pair in corpus.pairs],
        "sources": [source.settings() for source in corpus.sources],
        "filters": [item.name for item in corpus.filters],
        "instructions": [item.name for item in corpus.instructions],
        "tasks": [task.settings() for task in corpus.tasks],
        "budget": [f"{corpus.budget.rows:,} rows"],
        "base": [config.base.model or "seed"],
        "objectives": [objective.settings() for objective in config.objectives],
        "steps": [f"{config.steps:,}, {config.schedule}, {config.accumulation} micro-batches each"],
        "evals": [item.name for item in recipe.eval],
        "note": recipe.notes(),
    }


def check_base(location: RunLocation, config: TrainConfig, *flags: str) -> tuple[int, str]:
    """Load a local base model as training will, before hours of corpus work; the exit code and the findings.

    It needs torch and so runs in a process of its own. A model of a hub is checked when it is downloaded.
    """
    if not config.base.is_local:
        note = f"not downloaded, not checked. 'isogloss check {location.recipe} --download' does both."
        return EXIT_OK, "" if flags or not config.base.model else f"base model of a hub: {config.base.model}, {note}\n"
    return run_model_check(str(location.recipe), *flags)


def run_model_check(*args: str) -> tuple[int, str]:
    """The exit code and the standard output of `python -m alignment_train check`."""
    command = [sys.executable, "-m", "alignment_train", "check", *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    return done.returncode, done.stdout


def is_base_checked(location: RunLocation, recipe: Recipe, config: TrainConfig) -> bool:
    """Whether the store has the base model of these settings and files: only one that passed the check is stored."""
    store = Store(location.store)
    file, manifest = store.folder("base_model") / "manifest.json", store.manifest("base_model")
    if manifest is None or not file.is_file() or not config.base.model:
        return False
    resolved = recipe.resolved()
    if any(manifest.recipe.get(section) != resolved.get(section) for section in ("train", "eval")):
        return False
    stored = file.stat().st_mtime
    return all(file.stat().st_mtime <= stored for file in config.base.files)


def _run_job(recipe: Recipe) -> Any:
    """Execute the job `align` for every pair on Dagster's instance, in this process."""
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the trainer is stopped, too
    from assets.corpus import all_pairs
    from assets.definitions import defs  # reads $RECIPE and $STORE, and clears what a killed run left
    from assets.recovery import this_process

    job = defs.resolve_job_def("align")
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home()), overrides=OUTPUT_STAYS)) as instance:
        return job.execute_in_process(
            instance=instance,
            tags={**all_pairs(recipe), **this_process()},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )


def _show_failures(result: Any) -> int:
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    if any(_is_interrupt(failure) for failure in failures):
        return _interrupted()
    for failure in failures:
        print(printable(f"\n{_sentence(failure)}"), file=sys.stderr)
    return EXIT_FAILED


def _show_failed_checks(result: Any) -> None:
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            asset = check.asset_key.to_user_string()
            print(printable(f"Check {check.check_name} of {asset} did not pass ({check.severity.name})."))


def _show_results(folder: Path, recipe: Recipe, seconds: float) -> None:
    metrics = read_result(folder)
    result = verdict(metrics, recipe.corpus.pivot)
    lines = ["", table(metrics, is_result), "", result.headline + ".", *(f"- {finding}" for finding in result.findings)]
    print(printable("\n".join(lines)))
    report = f"{folder / 'report.html'}  ({clock(seconds)} in all; `isogloss ui` shows lineage, tables and plots)"
    print(printable(f"\nReport: {report}"))


def _causes(error: Any) -> Iterator[Any]:
    """A serialized error of Dagster and its causes, the first cause last."""
    while error:
        yield error
        error = error.cause


def _sentence(failure: Any) -> str:
    """The sentence of a `dg.Failure`; of any other exception the first cause with its stack."""
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    causes = list(_causes(failure.error))
    return "".join(causes[-1].stack) + causes[-1].message.strip() if causes else failure.error_display_string


def _is_interrupt(failure: Any) -> bool:
    causes = list(_causes(failure.error))
    return bool(causes) and causes[-1].cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError")


def _interrupted() -> int:
    print("\nStopped. The same command resumes.", file=sys.stderr)
    return EXIT_INTERRUPTED
