"""A function of one batch over many batches, on threads here or on Ray Data: the same rows in the same order.

The functions release Python's lock in Arrow, DuckDB and the identifiers, so threads use every core and share one copy
of each model.
"""

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from itertools import islice
from typing import Any, Literal, TypeVar

import pyarrow as pa

from pipelines.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
Engine = Literal["local", "ray"]
Work = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Gives one row for each row. On Ray it is pickled."""

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
AHEAD = 2  # batches begun and not yet taken, per core
WINDOW = 64  # batches that one Ray dataset holds: what bounds the object store


def mapped(work: Work, batches: Iterable[pa.RecordBatch], engine: Engine = "local") -> Iterator[pa.RecordBatch]:
    """`work` of each batch, in order; as the results are taken, further batches are begun."""
    return _on_ray(work, iter(batches)) if engine == "ray" else parallel(work, batches)


@cache
def pool() -> ThreadPoolExecutor:
    """Threads for functions of batches; such a function must not itself wait for the pool."""
    return ThreadPoolExecutor(CORES, thread_name_prefix="batch")


def parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`work` of every item, in order and on all cores; few items at a time are in memory."""
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool().submit(work, item))
            if len(begun) >= AHEAD * CORES:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def _on_ray(work: Work, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Each batch is one block; Ray hands blocks on whole and, asked to, in order."""
    ray = _ray()
    while window := list(islice(batches, WINDOW)):
        rows = [batch for batch in window if batch.num_rows]
        if not rows:  # a dataset without a row would lose its schema
            yield from map(work, window)
            continue
        whole = ray.data.from_arrow([pa.Table.from_batches([batch]) for batch in rows])
        for table in whole.map_batches(partial(_worked, work), batch_format="pyarrow", batch_size=None).iter_batches(
            batch_format="pyarrow", batch_size=None
        ):
            yield from table.combine_chunks().to_batches()


def _worked(work: Work, table: pa.Table) -> pa.Table:
    [batch] = table.combine_chunks().to_batches()
    return pa.Table.from_batches([work(batch)])


@cache
def _ray() -> Any:
    """Ray, connected to the cluster that RAY_ADDRESS names or that runs here, else to one of its own."""
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError:
        raise UserError(
            "corpus.engine: found 'ray', which is not installed. Allowed: local, or ray where it is installed. Install "
            "it with 'pip install isogloss[ray]', here and on every node of the cluster."
        ) from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    return ray
