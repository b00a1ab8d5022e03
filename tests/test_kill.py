"""SIGKILL at many points, the same command again each time: the end is that of an unbroken run, and nothing hangs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from tests.support.graph import TINY, align, environment, hashes

PATIENCE = 120.0  # seconds until a point must have been reached


def told(what: str) -> Callable[[Path, str], bool]:
    """When the command says that it does `what`."""
    return lambda store, said: what in said


def checkpoint(asset: str) -> Callable[[Path, str], bool]:
    """When a training has left a checkpoint to resume from."""
    return lambda store, said: any((store / ".scratch" / asset).glob("*/step-*"))


def stored(pattern: str) -> Callable[[Path, str], bool]:
    """When a file is there."""
    return lambda store, said: any(store.glob(pattern))


POINTS = {
    "in raw_bitext": told("raw_bitext ·"),
    "in clean_bitext": told("clean_bitext ·"),
    "in deduped_bitext": told("deduped_bitext ·"),
    "in decontaminated_bitext": told("decontaminated_bitext ·"),
    "in instructions": told("instructions ·"),
    "in training_mix": told("training_mix ·"),
    "in base_model": checkpoint("base_model"),
    "after base_model": stored("base_model/manifest.json"),
    "in align_model": checkpoint("align_model"),
    "in control_model": checkpoint("control_model"),
    "in evaluation": told("evaluation on"),
}


@pytest.mark.slow
def test_a_run_killed_at_any_point_ends_as_an_unbroken_one(
    unbroken: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, home = tmp_path / "store", tmp_path / "home"
    killed = 0
    for i, (point, reached) in enumerate(POINTS.items()):
        log = tmp_path / f"{i}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "assets", "align", str(TINY), "--store", str(store)],
                env=environment(home), stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and not reached(store, log.read_text()):
            assert time.monotonic() < deadline, f"never {point}:\n{log.read_text()}"
            time.sleep(0.01)
        if process.poll() is None:
            killed += 1
            if i % 2:
                os.kill(process.pid, signal.SIGKILL)  # Dagster alone: its trainer must notice
            else:
                os.killpg(process.pid, signal.SIGKILL)
        else:
            assert process.returncode == 0, f"{point}:\n{log.read_text()}"
        process.wait()
    assert killed >= 9
    last = align(store, home)
    assert last.returncode == 0, last.stdout + last.stderr
    assert hashes(store) == hashes(unbroken[0])
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        statuses = [run.status for run in instance.get_runs()]
        assert statuses[0] == dg.DagsterRunStatus.SUCCESS
        assert set(statuses) <= {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE}
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
