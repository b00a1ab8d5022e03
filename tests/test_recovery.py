"""Runs whose process was killed are cleared; runs that live or wait are not touched."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster import DagsterRunStatus

from assets.recovery import PROCESS, clear_dead_runs, clear_killed_runs, this_process
from tests.support.graph import environment
from tests.support.models import ROOT

SLEEPER = """
import time, dagster as dg
@dg.asset(pool="gpu")
def sleeper():
    print("asleep", flush=True)
    time.sleep(60)
with dg.DagsterInstance.get() as instance:
    instance.event_log_storage.set_concurrency_slots("gpu", 1)
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


def test_a_slot_of_a_run_that_failed_is_given_back(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 3)
        failed, alive = (
            dg.DagsterRun("align", status=status) for status in (DagsterRunStatus.FAILURE, DagsterRunStatus.STARTING)
        )
        for run in (failed, alive):
            instance.add_run(run)
            assert storage.claim_concurrency_slot("gpu", run.run_id, "step").is_claimed
        assert storage.claim_concurrency_slot("gpu", "a-run-that-was-deleted", "step").is_claimed
        assert clear_dead_runs(instance) == []
        assert storage.get_concurrency_run_ids() == {alive.run_id}


def test_the_sensor_that_clears_is_on_and_says_what_it_did(home: Path) -> None:
    assert clear_killed_runs.default_status == dg.DefaultSensorStatus.RUNNING
    process = start_sleeper(home)
    process.kill()
    process.wait()
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        with dg.build_sensor_context(instance) as context:
            ticks = [clear_killed_runs(context) for _ in range(2)]
    assert [tick.skip_message for tick in ticks if isinstance(tick, dg.SkipReason)] == [
        f"cleared {run.run_id}", "no run was killed"
    ]  # fmt: skip


TRAINER = """
import sys, time
from assets.resources import sole_trainer
with sole_trainer(sys.argv[1], lambda sentence: print(sentence, flush=True)):
    print("trains", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def start_trainer(home: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, name, str(seconds)], env=environment(home), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_trainer_that_waits_says_for_whom_can_be_stopped_and_goes_on_when_the_other_is_killed(home: Path) -> None:
    first = start_trainer(home, "train of a", 60)
    assert first.stdout
    assert first.stdout.readline() == "trains\n"
    second, third = start_trainer(home, "train of b", 0), start_trainer(home, "train of c", 0)
    for waiting, name in ((second, "b"), (third, "c")):
        assert waiting.stdout
        sentence = f"train of {name}: waiting for process {first.pid} (train of a), which trains\n"
        assert waiting.stdout.readline() == sentence
    third.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in third.communicate(timeout=60)[1]
    assert second.poll() is None
    first.kill()
    assert second.communicate(timeout=60)[0] == "trains\n"
    assert second.returncode == 0


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
