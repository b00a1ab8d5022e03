"""The main job in one command: `python -m assets align [RECIPE] [--store DIR]`; `ui` opens Dagster on it."""

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from alignment_train.config import TrainConfig
from assets.corpus import all_pairs
from assets.recovery import this_process
from assets.resources import QUIET, RunLocation, home, remember, resolve_location
from pipelines.config import Recipe, read_recipe
from pipelines.errors import EXIT_OK, printable, run_command
from pipelines.progress import clock
from pipelines.results.evaluation_result import EvaluationResult, read_result
from pipelines.results.summary import table
from pipelines.results.verdict import is_result, verdict
from pipelines.storage.store import Store

EXPOSED = (
    "Warning: --host {host} opens Dagster to the network, and Dagster has no login. Anyone who reaches port {port} can "
    "start, stop and delete runs with your rights, and read recipes, samples of the corpus and paths of this machine. "
    "Rather keep 127.0.0.1 and come through ssh -L {port}:127.0.0.1:{port} or a proxy with a login (SECURITY.md)."
)
OUTPUT_STAYS = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
        "config": {},
    }
}
"""Dagster does not take this process's output away: its copying would end the live progress line and answer Ctrl-C."""


def main(arguments: list[str]) -> int:
    """Exit code: 0, 1 where something failed (with one sentence), 130 where it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m assets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("home", help="make Dagster's folder with the settings of assets/dagster.yaml")
    for name, text in (("align", "run everything a recipe says"), ("ui", "open Dagster on what was run")):
        command = commands.add_parser(name, help=text)
        command.add_argument("recipe", nargs="?", help="a file, or the name of a built-in recipe; default: last used")
        command.add_argument(
            "--store", help="folder or s3:// address; default: last used with this recipe, else store/"
        )
        if name == "align":
            command.add_argument("--dry-run", action="store_true", help="check the recipe and say what it would do")
        if name == "ui":
            command.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
            command.add_argument("--port", default=3000, type=int, help="(default: %(default)s)")
            command.add_argument("--allow-host", default=[], action="append", metavar="NAME", help=(
                "a further name by which browsers reach the UI, such as that of a proxy; repeatable"
            ))  # fmt: skip
    chosen = parser.parse_args(arguments)
    return run_command(lambda: _run(chosen))


def _run(chosen: argparse.Namespace) -> int:
    if chosen.command == "home":
        _prepare_home()
        return 0
    used = resolve_location(chosen.recipe, chosen.store)
    recipe = read_recipe(used.recipe)
    config = TrainConfig.of(recipe)
    notes = recipe.notes()
    if chosen.command == "align" and chosen.dry_run:
        code, findings = _check_base(used, config)
        print(printable(_plan(recipe, config, notes, code == EXIT_OK)))
        print(printable(findings), end="")
        return code
    if chosen.command == "align" and not _base_is_checked(used, recipe, config):
        code, _ = _check_base(used, config, "--quiet")
        if code != EXIT_OK:
            return code
    _prepare_home()
    Store.open(used.store, recipe.name)
    os.environ.update(RECIPE=str(used.recipe), STORE=used.store)
    remember(used)
    if chosen.command == "ui":
        _open_ui(chosen.host, chosen.port, chosen.allow_host)
    for note in notes:
        print(printable(f"Note: {note}"), flush=True)
    return _align(used, recipe)


def _plan(recipe: Recipe, config: TrainConfig, notes: list[str], is_sound: bool) -> str:
    """What a recipe would do, a line a section."""
    corpus = recipe.corpus
    named = {
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
        "note": notes,
    }
    lines = [f"{what}: {', '.join(map(str, found))}" for what, found in named.items() if found]
    state = "is sound" if is_sound else "cannot be run: see the base model below"
    return "\n".join([f"Recipe {recipe.name} {state}. Nothing was downloaded or written.", *lines])


def _check_base(used: RunLocation, config: TrainConfig, *flags: str) -> tuple[int, str]:
    """Load a local base model as training will, before hours of corpus work: the exit code, and the findings.

    In a process of its own, for it needs torch. A model of a hub is checked once it is downloaded.
    """
    if not config.base.is_local:
        later = f"not here and not checked. python -m alignment_train check {used.recipe} does both now."
        return EXIT_OK, "" if flags or not config.base.model else f"base model of a hub: {config.base.model}, {later}\n"
    command = [sys.executable, "-m", "alignment_train", "check", str(used.recipe), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    return done.returncode, done.stdout


def _base_is_checked(used: RunLocation, recipe: Recipe, config: TrainConfig) -> bool:
    """Whether the store has the base model of these very settings and files: only one that passed is stored."""
    store = Store(used.store)
    file, manifest = store.folder("base_model") / "manifest.json", store.manifest("base_model")
    if manifest is None or not file.is_file() or not config.base.model:
        return False
    resolved = recipe.resolved()
    if any(manifest.recipe.get(section) != resolved.get(section) for section in ("train", "eval")):
        return False
    stored = file.stat().st_mtime
    return all(file.stat().st_mtime <= stored for file in config.base.files)


def _prepare_home() -> None:
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update({"DAGSTER_HOME": str(folder), **{k: os.environ.get(k, v) for k, v in QUIET.items()}})
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), folder / "dagster.yaml")


def _open_ui(host: str, port: int, names: list[str]) -> None:
    """Become `dagster dev`, behind a check of who asks."""
    from assets.webserver import HOSTS, is_loopback

    if not is_loopback(host):
        print(printable(EXPOSED.format(host=host, port=port)), file=sys.stderr, flush=True)
        names = [*names, host]
    os.environ[HOSTS] = ",".join([*names, os.environ.get(HOSTS, "")]).strip(",")
    print(printable(f"Dagster: http://{host}:{port}  (Ctrl-C ends it)"), flush=True)
    command = [
        sys.executable,
        "-m",
        "assets.webserver",
        "dev",
        "-m",
        "assets.definitions",
        "-h",
        host,
        "-p",
        str(port),
        "--log-level",
        "warning",
    ]
    os.execv(sys.executable, command)


def _align(used: RunLocation, recipe: Recipe) -> int:
    """Run the job `align` for every pair on Dagster's instance, in this process, and print what came of it."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the trainer is told to stop, too
    began = time.monotonic()
    print(printable(f"Recipe {used.recipe}, store {used.store}"), flush=True)
    try:
        from assets.definitions import defs  # reads $RECIPE and $STORE, and clears what a killed run left

        job = defs.resolve_job_def("align")
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home()), overrides=OUTPUT_STAYS)) as instance:
            result = job.execute_in_process(
                instance=instance,
                tags={**all_pairs(recipe), **this_process()},
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
                raise_on_error=False,
            )
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        return _stopped()
    if not result.success:
        failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
        if any(_interrupted(failure) for failure in failures):
            return _stopped()
        for failure in failures:
            print(printable(f"\n{_sentence(failure)}"), file=sys.stderr)
        return 1
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            asset = check.asset_key.to_user_string()
            print(printable(f"Check {check.check_name} of {asset} did not pass ({check.severity.name})."))
    folder = Store(used.store).fetched("evaluation")
    metrics = read_result(folder)
    _print_results(metrics, recipe, folder, time.monotonic() - began)
    return 0


def _print_results(metrics: EvaluationResult, recipe: Recipe, folder: Path, seconds: float) -> None:
    result = verdict(metrics, recipe.corpus.pivot)
    lines = ["", table(metrics, is_result), "", result.headline + ".", *(f"- {finding}" for finding in result.findings)]
    print(printable("\n".join(lines)))
    report = f"{folder / 'report.html'}  ({clock(seconds)} in all; `make ui` shows lineage, tables and plots)"
    print(printable(f"\nReport: {report}"))


def _sentence(failure: Any) -> str:
    """What went wrong: the sentence where we know it, else the error with the stack of its first cause."""
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    if error is None:
        return failure.error_display_string
    while error.cause:
        error = error.cause
    return "".join(error.stack) + error.message.strip()


def _interrupted(failure: Any) -> bool:
    error = failure.error
    while error and error.cause:
        error = error.cause
    return bool(error and error.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"))


def _stopped() -> int:
    print("\nStopped. The same command goes on from here.", file=sys.stderr)
    return 130
