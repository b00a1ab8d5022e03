"""Cells of a comparison made in processes beside each other: each has its share of the cores, or a GPU in turn.

One process keeps few cores busy with a small model: two with a core each get more done than one with both.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from alignment_train.comparison import cells
from alignment_train.device import choose_device
from alignment_train.trainer import Trainer
from alignment_train.training.progress_log import die_with_parent
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store


class WorkerKilledError(UserError):
    """A process that trained was killed, and the pool with it."""


class Workers:
    """Makes cells in `jobs` processes; of cells with one fingerprint, one."""

    def __init__(self, executor: ProcessPoolExecutor, store: Store, jobs: int):
        self._executor, self._store, self._jobs = executor, store, jobs
        self._begun: dict[str, Future[Manifest]] = {}

    def begin(self, recipe: Recipe, role: cells.Role, keep: bool, fingerprint: str) -> None:
        """Put a cell in the queue. fingerprint: that of `cells.identity`."""
        if fingerprint not in self._begun:
            self._begun[fingerprint] = self._executor.submit(_make, recipe, self._store.address, role, keep)

    def finish(self, fingerprint: str) -> Manifest:
        """Wait for a cell; its UserError, or WorkerKilledError where its process was killed."""
        try:
            return self._begun[fingerprint].result()
        except BrokenProcessPool:
            raise WorkerKilledError(
                f"compare: a process that made a cell was killed, perhaps for memory: {self._jobs} trained at once. "
                f"Cells that were done are kept. Run it again, with a smaller --jobs."
            ) from None


@contextmanager
def workers(jobs: int, store: Store, device: str | None) -> Iterator[Workers]:
    """`jobs` processes, which end with this one, however it ends. device: as of Trainer."""
    context = multiprocessing.get_context("spawn")  # a fork would have torch's threads in name only
    devices, turns = _devices(device), context.SimpleQueue()
    for number in range(jobs):
        turns.put(devices[number % len(devices)])
    threads = max(1, torch.get_num_threads() // jobs)
    executor = ProcessPoolExecutor(jobs, context, _begin, (turns, threads, os.getpid()))
    try:
        yield Workers(executor, store, jobs)
    finally:
        executor.shutdown(cancel_futures=True)


def _devices(device: str | None) -> list[str]:
    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(chosen)]


_device = ""  # of this process, where it is a worker


def _begin(turns: "multiprocessing.SimpleQueue[str]", threads: int, parent: int) -> None:
    global _device
    die_with_parent(parent)
    _device = turns.get()
    torch.set_num_threads(threads)


def _make(recipe: Recipe, root: str, role: cells.Role, keep: bool) -> Manifest:
    return cells.make(Trainer(recipe, Store(root), _device), role, keep)
