"""Dagster resources: the store, the trainer's process, and how a stage's progress and errors are shown."""

import fcntl
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from typing import IO

import dagster as dg

from assets.locations import QUIET, home
from pipelines.errors import UserError, is_file_error, os_error_sentence, printable
from pipelines.files import READ_ONLY
from pipelines.progress import Progress
from pipelines.storage.store import Store

TAIL = 25  # last lines of a dead trainer's output that its asset fails with
PARENT = "ISOGLOSS_PARENT"  # names to the trainer the process without which it must not go on
WAIT_MESSAGE = 60.0  # seconds between two sentences of a trainer that waits for another
GRACE = 20.0  # seconds a trainer has to stop when told to


class StoreResource(dg.ConfigurableResource):
    """Where the recipe's data lie."""

    root: str
    recipe_name: str

    def open(self) -> Store:
        return Store.open(self.root, self.recipe_name)


@contextmanager
def user_errors_as_failures() -> Iterator[None]:
    """Turn what the stages raise for bad input (UserError) into a failure that is its sentence and is not retried.

    So is an OSError of a file; any other exception is a bug, which Dagster shows with its traceback.
    """
    try:
        yield
    except UserError as error:
        raise dg.Failure(description=printable(error), allow_retries=False) from None
    except OSError as error:
        if not is_file_error(error):
            raise
        raise dg.Failure(description=printable(os_error_sentence(error)), allow_retries=False) from error


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """Progress of one step on standard error: the terminal's, or the run's log in the UI."""
    with Progress() as progress:
        progress.start(title)
        yield progress


@contextmanager
def sole_trainer(task: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Be the one trainer of this DAGSTER_HOME: two would share the memory of one GPU.

    A lock of the operating system, not a pool of Dagster's: whoever is killed gives it back. While another process
    has it, `on_wait` is called every WAIT_MESSAGE seconds with a sentence that names it; an interrupt ends the wait.
    Without $DAGSTER_HOME there is nothing to share, and no lock.
    """
    if not os.environ.get("DAGSTER_HOME"):
        yield
        return
    with (home() / "trainer.lock").open("a+") as file:
        shown = -WAIT_MESSAGE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - shown >= WAIT_MESSAGE:
                    shown = time.monotonic()
                    file.seek(0)
                    on_wait(f"{task}: waiting for {file.read().strip() or 'another process'}, which trains")
                time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} ({task})")
        file.flush()
        yield


class TrainerResource(dg.ConfigurableResource):
    """Starts `alignment_train` as a process of its own, through Pipes."""

    recipe: str
    store: str
    command: list[str] = [sys.executable, "-m", "alignment_train"]

    def run(self, context: dg.AssetExecutionContext, task: str, log: Path) -> None:
        """Run one task to its end; its output goes to the terminal and to `log`.

        A trainer that dies fails the asset with the tail of its output. When the run is told to stop, so is the
        trainer; it keeps its last checkpoint.
        """

        def on_wait(sentence: str) -> None:
            context.log.info(sentence)
            print(printable(sentence), file=sys.stderr, flush=True)

        command = [*self.command, task, self.recipe, "--store", self.store]
        tail: deque[str] = deque(maxlen=TAIL)
        with (
            sole_trainer(f"{task} of {self.store}", on_wait),
            _open_log(log) as file,
            dg.open_pipes_session(context, dg.PipesEnvContextInjector(), dg.PipesTempFileMessageReader()) as session,
        ):
            env = {
                **QUIET,
                **os.environ,
                **session.get_bootstrap_env_vars(),
                "PYTHONUNBUFFERED": "1",
                PARENT: str(os.getpid()),
            }
            process = Popen(command, env=env, stdout=PIPE, stderr=STDOUT, text=True, encoding="utf-8", errors="replace")
            try:
                assert process.stdout
                for line in process.stdout:
                    tail.append(line.rstrip("\n"))
                    file.write(line)
                    file.flush()
                    sys.stdout.write(printable(line))
                    sys.stdout.flush()
                code = process.wait()
            except BaseException:
                context.log.info(f"{task}: told to stop")
                _stop(process)
                raise
        if code:
            raise dg.Failure(description=_obituary(task, code, list(tail), log), allow_retries=False)


def _open_log(log: Path) -> IO[str]:
    """`log`, emptied; on a disk that cannot be written, where a finished store is only looked at, nothing."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.is_symlink():
            log.unlink()
        return log.open("w", encoding="utf-8")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return open(os.devnull, "w", encoding="utf-8")


def _stop(process: Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=GRACE)  # reads on, or a full pipe would keep the trainer from ending
    except TimeoutExpired:
        process.kill()
        process.wait()


def _obituary(task: str, code: int, tail: list[str], log: Path) -> str:
    lines = "\n".join(f"  {line}" for line in tail) or "  (nothing)"
    if code < 0:
        name = signal.Signals(-code).name
        cause = f"was killed by {name}{', often for want of memory' if name == 'SIGKILL' else ''}"
    else:
        cause = f"ended with code {code}"
    return f"alignment_train {task} {cause}. It said last:\n{lines}\nAll it said: {log}"
