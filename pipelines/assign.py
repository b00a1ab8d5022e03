"""Stage: the recipe's tasks -> task_data, conversations to train on by language or pair, and those set aside.

Whole items go one way or the other: of data that are parallel, what is set aside in one language trains in none.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.decontaminate import Forbidden, pins
from pipelines.errors import UserError
from pipelines.instruct import SAMPLES, STORED, as_stored, overlapping, shown
from pipelines.instructions import RENDERED
from pipelines.ledger import BATCH_ROWS, empty
from pipelines.licences import gathered, require
from pipelines.progress import Tell, silent
from pipelines.segments import NONE, digests, draws, keys
from pipelines.storage.fingerprint import fingerprint
from pipelines.store import LedgerRow, Manifest, Store, Writer
from pipelines.tasks import Example, Task

DEV = "dev"
DEV_SHARE = 0.1
"""At most this part of the items of a language or pair becomes dev."""
STEPS = ("dev", "dev_overlap", "rows")
"""Why an example does not train: it is dev, it has a text that dev has, or the task's `rows` are full."""
TRAIN, ASIDE, OVERLAP, OVER = range(4)  # fates: to be trained on, or the number of one of STEPS


class Cell(NamedTuple):
    """The examples of one language or pair as numbers."""

    items: np.ndarray
    """uint64 [N]: which item an example is."""
    keys: np.ndarray
    """uint64 [M]: of the texts of all examples."""
    owners: np.ndarray
    """int [M]: whose text it is."""


def run(recipe: Recipe, store: Store, tell: Tell = silent) -> Manifest:
    """Write what each task asks and answers, without what the recipe's evals hold, and set dev apart."""
    tasks: list[Task] = recipe.corpus.tasks
    home, held_out = store.sources, store.require("eval_text")
    for task in tasks:
        task.prepare(home, tell)
        require(task.provenance(home), recipe.corpus.licences, f"task '{task.name}'")
    inputs = {"eval_text": held_out.content()}
    settings = {"seed": recipe.seed, "pins": [task.pin(home) for task in tasks]}
    settings["decontaminate"] = pins(recipe.corpus.decontaminate)
    print_ = fingerprint(
        __name__,
        settings,
        inputs,
        plugins=tasks,
        libraries=("pyarrow", "numpy"),
    )
    if done := store.unchanged("task_data", None, print_):
        return done
    ledger: list[LedgerRow] = []
    samples: list[dict[str, str]] = []
    numbers = {"rows_in": 0, "rows_out": 0}
    with store.writing("task_data") as out:
        for part in (DEV, *recipe.corpus.task_cells):
            out.write(empty(STORED), part)
        for task in tasks:
            cells = [_read(task, cell, store, tell) for cell in task.cells]
            for cell, fates in zip(task.cells, _fates(task, cells, recipe.seed), strict=True):
                steps, some = _write(task, cell, fates, recipe, store, out)
                ledger += steps
                samples += some[: SAMPLES - sum(row["type"] == task.name for row in samples)]
                numbers["rows_in"] += steps[0].into
                numbers["rows_out"] += steps[-1].kept
                numbers[f"rows {task.name} {cell}"] = steps[-1].kept
        if tasks and not numbers["rows_out"] and not recipe.corpus.allow_empty:
            raise UserError(
                f"task_data: found no row to train on in {numbers['rows_in']:,} examples. Allowed: at least one. "
                f"Change corpus.tasks, or set corpus.allow_empty: true."
            )
        return out.commit(
            print_,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger,
            numbers=numbers,
            samples={"kept": samples, "dropped": []},
            corpora=gathered(task.provenance(home) for task in tasks),
        )


def _read(task: Task, cell: str, store: Store, tell: Tell) -> Cell:
    items, found, owners, count = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), 0
    for examples in _chunks(task, cell, store):
        segments = [task.segments(example) for example in examples]
        items.append(digests(example.item for example in examples))
        found.append(keys([text for texts in segments for text in texts]))
        owners.append(np.repeat(np.arange(count, count + len(examples)), [len(texts) for texts in segments]))
        count += len(examples)
        tell(0, 0, f"{task.name}, {cell}: {count:,} examples")
    return Cell(*(np.concatenate(arrays) for arrays in (items, found, owners)))


def _chunks(task: Task, cell: str, store: Store) -> Iterator[list[Example]]:
    """The examples, BATCH_ROWS at a time; one empty list where there are none."""
    examples = task.examples(cell, store.sources)
    yield list(islice(examples, BATCH_ROWS))
    while chunk := list(islice(examples, BATCH_ROWS)):
        yield chunk


def _fates(task: Task, cells: Sequence[Cell], seed: int) -> list[np.ndarray]:
    """int8 [N] for each cell: TRAIN, or the number of the step by which an example does not train."""
    aside = np.unique(np.concatenate([_aside(cell.items, task.dev_rows, seed) for cell in cells]))
    dev = [np.isin(cell.items, aside) for cell in cells]
    held = np.concatenate([cell.keys[here[cell.owners]] for cell, here in zip(cells, dev, strict=True)])
    held = held[held != NONE]
    out = []
    for cell, here in zip(cells, dev, strict=True):
        fates = np.where(here, ASIDE, TRAIN).astype(np.int8)
        shared = cell.owners[np.isin(cell.keys, held)]
        fates[shared[~here[shared]]] = OVERLAP
        free = np.unique(cell.items[fates == TRAIN])
        if task.rows is not None and len(free) > task.rows:
            chosen = free[np.argsort(draws(free, seed, "task"), kind="stable")[: task.rows]]
            fates[(fates == TRAIN) & ~np.isin(cell.items, chosen)] = OVER
        out.append(fates)
    return out


def _aside(items: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """The items that become dev: those with the smallest draws."""
    distinct = np.unique(items)
    count = min(rows, int(len(distinct) * DEV_SHARE))
    return distinct[np.argsort(draws(distinct, seed, "task dev"), kind="stable")[:count]]


def _write(
    task: Task, cell: str, fates: np.ndarray, recipe: Recipe, store: Store, out: Writer
) -> tuple[list[LedgerRow], list[dict[str, str]]]:
    """Write the examples of a cell that train or are dev; its ledger, and some of its rows to look at."""
    forbidden = [Forbidden(recipe.corpus.decontaminate, store, lang) for lang in cell.split("-")]
    dropped = Counter({step: int((fates == number).sum()) for number, step in enumerate(STEPS, 1)})
    samples: list[dict[str, str]] = []
    start = 0
    for chunk in _chunks(task, cell, store):
        here = fates[start : start + len(chunk)]
        start += len(chunk)
        kept = np.flatnonzero(here <= ASIDE)
        batch, here = _rendered(task, [chunk[place] for place in kept]), here[kept]
        segments = pc.list_flatten(batch["segments"])
        gone = np.zeros(len(kept), dtype=bool)
        for step, rows in zip(forbidden[0].steps, overlapping(batch, segments, forbidden), strict=True):
            dropped[step] += int((rows & ~gone & (here == TRAIN)).sum())
            gone |= rows
        stored = as_stored(batch, keys(segments))
        trained = stored.filter(pa.array((here == TRAIN) & ~gone))
        out.write(trained, cell)
        out.write(stored.filter(pa.array((here == ASIDE) & ~gone)), DEV)
        samples += shown(trained, SAMPLES - len(samples), task.name)
    ledger, left = list[LedgerRow](), len(fates)
    for step in (*STEPS, *forbidden[0].steps):
        lost = dropped[step]
        ledger.append(LedgerRow(step=step, corpus=f"{task.name} {cell}", into=left, dropped=lost, kept=left - lost))
        left -= lost
    return ledger, samples


def _rendered(task: Task, examples: Sequence[Example]) -> pa.RecordBatch:
    """The examples as RENDERED rows."""
    rows = [
        {
            "messages": [*task.render(example), {"role": "assistant", "content": task.answer(example)}],
            "src_lang": example.src_lang,
            "tgt_lang": example.tgt_lang,
            "corpus": example.corpus,
            "template": f"{task.name}/{task.wording}",
            "segments": task.segments(example),
        }
        for example in examples
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RENDERED)
