"""Checkpoints of a training: written atomically, verified by their digests, found again after a kill."""

import re
import shutil
import sys
from pathlib import Path

from accelerate import Accelerator

from alignment_train.training import distributed
from alignment_train.training.plan import Outcome
from alignment_train.training.writing import os_errors
from pipelines import files
from pipelines.errors import printable

LOG = "log.jsonl"
"""In a checkpoint: the log of the steps before it."""
PRECISION = "precision"
"""In a checkpoint: the precision of the training."""


class Checkpoints:
    """The checkpoints of one plan on one data set, in a folder that all processes share."""

    def __init__(self, folder: Path):
        self.folder = folder

    def latest(self) -> Path | None:
        """The newest complete checkpoint; a folder receives its final name last."""
        complete = [path for path in self.folder.glob("step-*") if re.fullmatch("[0-9]+", path.name[5:])]
        return max(complete, key=lambda path: int(path.name[5:]), default=None)

    def latest_intact(self) -> Path | None:
        """The newest checkpoint whose files match their digests; the main process removes damaged ones."""
        if distributed.is_main_process():
            while (checkpoint := self.latest()) and (cause := files.digests_fault(checkpoint)):
                shutil.rmtree(checkpoint)
                start = self.latest() or "the beginning"
                message = f"Checkpoint {checkpoint}: {cause}. It was removed; training starts from {start}."
                # on a terminal, after the progress line
                print(printable("\n" * sys.stderr.isatty() + message), file=sys.stderr)
        distributed.barrier()
        return self.latest()

    def save(self, accelerator: Accelerator, outcome: Outcome, log: Path) -> None:
        """Write a checkpoint and remove the one before it. Each process adds its random state.

        Args:
            log: The lines of all steps so far, which a resumed training continues.
        """
        temporary, previous = self.folder / "unfinished", self.latest()
        if distributed.is_main_process():
            shutil.rmtree(temporary, ignore_errors=True)
        distributed.barrier()
        try:
            with os_errors(self.folder):
                accelerator.save_state(str(temporary))
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # frees a full disk
            raise
        distributed.barrier()
        if distributed.is_main_process():
            shutil.copyfile(log, temporary / LOG)
            (temporary / PRECISION).write_text(outcome.precision)
            files.write_digests(temporary)
            temporary.rename(self.folder / f"step-{outcome.steps:08}")
            files.sync_folder(self.folder)
            if previous:
                shutil.rmtree(previous)
        distributed.barrier()
