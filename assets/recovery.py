"""What a killed run leaves in Dagster's instance: runs that look alive and pool slots. This clears them.

Nothing else would: Dagster's own monitoring asks no process of this machine whether it lives, and the queue takes a
run that looks alive for one that runs.
"""

import os
import time

import dagster as dg
import psutil
from dagster import DagsterEventType, DagsterRunStatus

PROCESS = "isogloss/process"
"""Tag of runs started by `python -m assets`: pid/start time of its process in seconds since 1970."""

UNKNOWN = 60.0  # seconds that a run may be without a word of its process before it counts as dead
SLACK = 2.0  # seconds by which a process may seem to begin after its first event: the clocks differ in grain

_WORKING = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)


def this_process() -> dict[str, str]:
    """Tags that name this process as the run's own."""
    return {PROCESS: f"{os.getpid()}/{psutil.Process().create_time()}"}


def clear_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose process is gone as failed (canceled where they were being canceled) and free their slots.

    Returns their ids. A run whose process lives, here or in another process, is not touched; nor is a queued one.
    """
    records = instance.get_run_records(dg.RunsFilter(statuses=list(_WORKING)))
    idle = instance.get_run_records(dg.RunsFilter(statuses=[DagsterRunStatus.NOT_STARTED]))
    ours = [record for record in idle if PROCESS in record.dagster_run.tags]  # killed before the first event
    cleared = []
    for record in (*records, *ours):
        run = record.dagster_run
        if _lives(instance, run, record.create_timestamp.timestamp()):
            continue
        if run.status == DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, "The process of this run was gone when it was to stop.")
        else:
            instance.report_run_failed(run, "The process of this run was killed. The next run resumes.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        cleared.append(run.run_id)
    _free_slots_of_finished_runs(instance)
    return cleared


def _free_slots_of_finished_runs(instance: dg.DagsterInstance) -> None:
    """A step whose process was killed leaves its slot claimed, also where the run itself went on to fail."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Mark runs whose process was killed as failed, so that those that wait for them begin.",
)
def clear_killed_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    cleared = clear_dead_runs(context.instance)
    return dg.SkipReason(f"cleared {', '.join(cleared)}" if cleared else "no run was killed")


def _lives(instance: dg.DagsterInstance, run: dg.DagsterRun, created: float) -> bool:
    """Whether a process of the run is there. It must be older than what it said: else its number was given anew."""
    if named := run.tags.get(PROCESS):
        pid, _, began = named.partition("/")
        return _alive(int(pid), float(began))
    said = _processes(instance, run.run_id)
    if not said:
        return time.time() - created < UNKNOWN
    return any(_alive(pid, first) for pid, first in said.items())


def _processes(instance: dg.DagsterInstance, run_id: str) -> dict[int, float]:
    """Processes that spoke for the run: {pid: when it first did}."""
    kinds = {DagsterEventType.ENGINE_EVENT, DagsterEventType.RUN_START, DagsterEventType.STEP_START}
    found: dict[int, float] = {}
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == DagsterEventType.ENGINE_EVENT:  # often another process's word: it names the run's
            named = event.engine_event_data.metadata.get("pid")
            pid = int(str(named.value)) if named else None
        else:
            pid = event.pid
        if pid:
            found[pid] = min(found.get(pid, entry.timestamp), entry.timestamp)
    return found


def _alive(pid: int, spoke: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= spoke + SLACK
    except psutil.NoSuchProcess:
        return False
