"""Runs whose process was killed are cleared; runs that live or wait are not touched."""

import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster import DagsterRunStatus

from assets.recovery import PROCESS, clear_dead_runs, this_process
from tests.graph import environment
from tests.models import ROOT

SLEEPER = """
import time, dagster as dg
@dg.asset(pool="gpu")
def sleeper():
    print("asleep", flush=True)
    time.sleep(60)
with dg.DagsterInstance.get() as instance:
    dg.materialize([sleeper], instance=instance)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dagster.yaml").write_text((ROOT / "assets" / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def start_sleeper(home: Path) -> subprocess.Popen[str]:
    """A process in the middle of a run that holds the slot of the pool."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "asleep\n"
    return process


def test_a_killed_run_is_marked_failed_and_gives_back_its_slot(home: Path) -> None:
    process = start_sleeper(home)
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        pool = instance.event_log_storage.get_concurrency_info("gpu")
        assert (run.status, pool.active_slot_count) == (DagsterRunStatus.STARTED, 1)
        assert clear_dead_runs(instance) == []  # it lives
        process.kill()
        process.wait()
        assert clear_dead_runs(instance) == [run.run_id]
        assert instance.get_runs()[0].status == DagsterRunStatus.FAILURE
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0
        assert clear_dead_runs(instance) == []


def test_a_run_killed_before_its_first_event_is_cleared_by_its_tag() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with dg.DagsterInstance.ephemeral() as instance:
        dead = dg.DagsterRun("align", status=DagsterRunStatus.NOT_STARTED, tags={PROCESS: f"{process.pid}/1.0"})
        ours = dg.DagsterRun("align", status=DagsterRunStatus.NOT_STARTED, tags=this_process())
        instance.add_run(dead)
        instance.add_run(ours)
        assert clear_dead_runs(instance) == [dead.run_id]


def test_a_process_that_was_given_the_dead_ones_number_does_not_count() -> None:
    began = psutil.Process().create_time()
    with dg.DagsterInstance.ephemeral() as instance:
        tag = f"{psutil.Process().pid}/{began - 3600}"
        run = dg.DagsterRun("align", status=DagsterRunStatus.STARTED, tags={PROCESS: tag})
        instance.add_run(run)
        assert clear_dead_runs(instance) == [run.run_id]


def test_waiting_and_finished_and_just_starting_runs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.SUCCESS, DagsterRunStatus.STARTING)
    with dg.DagsterInstance.ephemeral() as instance:
        for status in quiet:
            instance.add_run(dg.DagsterRun("align", status=status))
        assert clear_dead_runs(instance) == []
        later = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: later)
        (cleared,) = clear_dead_runs(instance)  # an hour later, nobody has spoken for the one that was starting
        assert instance.get_run_by_id(cleared).status == DagsterRunStatus.FAILURE  # type: ignore[union-attr]
