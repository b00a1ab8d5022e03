"""Stage: the recipe's tasks -> task_data, conversations to train on by language or pair, and those set aside.

Whole items go one way or the other: of data that are parallel, what is set aside in one language trains in none. An
item overlaps another one, or an eval, where it has a text that identifies that one (`identifying`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.instructions import RENDERED
from pipelines.languages import name
from pipelines.licences import gathered, require
from pipelines.progress import ProgressCallback, no_progress
from pipelines.stages.decontaminate import Forbidden, pins
from pipelines.stages.instruct import STORED, as_samples, as_stored, overlapping
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.ledger import BATCH_ROWS, KEPT, SAMPLE_ROWS, Samples, empty
from pipelines.storage.manifest import LedgerRow, Manifest
from pipelines.storage.store import Store
from pipelines.storage.writer import Writer
from pipelines.tasks import Example, Task
from pipelines.text.identifying import Conversation, Frequency, identifying, sentence_keys
from pipelines.text.segments import NONE, digests, keys, seeded_order

DEV = "dev"
DEV_SHARE = 0.1
"""At most this part of the items of a language or pair becomes dev."""
STEPS = ("dev", "dev_overlap", "rows")
"""Why an example does not train: it is dev, a text that identifies it is one of dev, or the task's `rows` are full."""
REASONS = {
    "dev": "are dev rows",
    "dev_overlap": "have a text that identifies a dev row",
    "rows": "are beyond the task's `rows`",
    "evaluation_overlap": "have a text that identifies an item of an eval",
    "evaluation_near": "nearly have such a text",
    "list_overlap": "have a text of corpus.decontaminate.lists",
    "list_near": "nearly have such a text",
}
TRAIN, ASIDE, OVERLAP, OVER = range(4)  # fates: to be trained on, or the number of one of STEPS


class Cell(NamedTuple):
    """The examples of one language or pair as numbers."""

    items: np.ndarray
    """uint64 [N]: which item an example is."""
    frequency: Frequency
    """Of the sentences of the items."""
    keys: np.ndarray
    """uint64 [M]: of the texts that identify the examples."""
    owners: np.ndarray
    """int [M]: whose text it is."""


def run(recipe: Recipe, store: Store, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Write what each task asks and answers, without what the recipe's evals hold, and set dev apart."""
    tasks: list[Task] = recipe.corpus.tasks
    home, eval_text = store.sources, store.require("eval_text")
    for task in tasks:
        task.prepare(home, on_progress)
        require(task.provenance(home), recipe.corpus.licences, f"task '{task.name}'")
    inputs = {"eval_text": eval_text.content()}
    settings = {"seed": recipe.seed, "pins": [task.pin(home) for task in tasks]}
    settings["decontaminate"] = pins(recipe.corpus.decontaminate)
    named = sorted({lang for cell in recipe.corpus.task_cells for lang in cell.split("-")})
    settings["names"] = [name(lang, tuple(recipe.corpus.languages)) for lang in named]
    fingerprint = compute_fingerprint(
        __name__,
        settings,
        inputs,
        plugins=tasks,
        libraries=("pyarrow", "numpy"),
    )
    if done := store.unchanged("task_data", None, fingerprint):
        return done
    ledger: list[LedgerRow] = []
    samples = Samples()
    numbers = {"rows_in": 0, "rows_out": 0}
    with store.writing("task_data") as out:
        for part in (DEV, *recipe.corpus.task_cells):
            out.write(empty(STORED), part)
        for task in tasks:
            cells = [_read(task, cell, store, on_progress) for cell in task.cells]
            fates_by_cell = zip(task.cells, cells, _fates(task, cells, recipe.seed), strict=True)
            of_task = list[LedgerRow]()
            for cell, read, fates in fates_by_cell:
                steps = _write(task, cell, read.frequency, fates, recipe, store, out, samples)
                of_task += steps
                numbers["rows_in"] += steps[0].into
                numbers["rows_out"] += steps[-1].kept
                numbers[f"rows {task.name} {cell}"] = steps[-1].kept
            if not recipe.corpus.allow_empty and not any(numbers[f"rows {task.name} {cell}"] for cell in task.cells):
                examples = sum(row.into for row in of_task if row.step == STEPS[0])
                raise UserError(_none_left(task, examples, of_task))
            ledger += of_task
        out.write(samples.batch(), "samples")
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger,
            numbers=numbers,
            samples={"kept": samples.of(KEPT), "dropped": samples.of(*dict.fromkeys(row.step for row in ledger))},
            corpora=gathered(task.provenance(home) for task in tasks),
        )


def _none_left(task: Task, examples: int, ledger: Sequence[LedgerRow]) -> str:
    """The sentence for a task of which nothing trains: how many of its examples each step dropped, and why."""
    lost = Counter[str]()
    for row in ledger:
        lost[row.step] += row.dropped
    reasons = "; ".join(f"{n:,} {REASONS[step]} ({step})" for step, n in lost.items() if n)
    return (
        f"task_data, task '{task.name}': found no row to train on in {examples:,} examples: "
        f"{reasons or 'there is none'}. Allowed: at least one. Change the task's data, its dev_rows or "
        f"corpus.decontaminate, or set corpus.allow_empty: true."
    )


def _read(task: Task, cell: str, store: Store, on_progress: ProgressCallback) -> Cell:
    """Two passes: which sentences are common is known only after the first."""
    items, found, owners, count = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), 0
    for examples in _chunks(task, cell, store):
        keys_of_chunk, numbers = sentence_keys([task.segments(example) for example in examples])
        items.append(digests(example.item for example in examples))
        found.append(keys_of_chunk)
        owners.append(numbers + count)
        count += len(examples)
        on_progress(0, 0, f"{task.name}, {cell}: {count:,} examples")
    all_items = np.concatenate(items)
    frequency = Frequency(all_items[np.concatenate(owners)], np.concatenate(found))
    found, owners, count = [], [], 0
    for examples in _chunks(task, cell, store):
        texts = identifying([_conversation(task, example) for example in examples], frequency, cell.split("-"))
        found.append(keys([text for each in texts for text in each]))
        owners.append(np.repeat(np.arange(count, count + len(examples)), [len(each) for each in texts]))
        count += len(examples)
    return Cell(all_items, frequency, np.concatenate(found), np.concatenate(owners))


def _conversation(task: Task, example: Example) -> Conversation:
    prompt = "\n".join(turn["content"] for turn in task.render(example) if turn["role"] != "system")
    return Conversation(task.segments(example), prompt, task.answer(example))


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
            chosen = free[np.argsort(seeded_order(free, seed, "task"), kind="stable")[: task.rows]]
            fates[(fates == TRAIN) & ~np.isin(cell.items, chosen)] = OVER
        out.append(fates)
    return out


def _aside(items: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """The items that become dev: those with the smallest draws."""
    distinct = np.unique(items)
    count = min(rows, int(len(distinct) * DEV_SHARE))
    return distinct[np.argsort(seeded_order(distinct, seed, "task dev"), kind="stable")[:count]]


def _write(
    task: Task,
    cell: str,
    frequency: Frequency,
    fates: np.ndarray,
    recipe: Recipe,
    store: Store,
    out: Writer,
    samples: Samples,
) -> list[LedgerRow]:
    """Write the examples of a cell that train or are dev; its ledger. Rows to look at go to `samples`."""
    langs, where = cell.split("-"), f"{task.name} {cell}"
    forbidden = [Forbidden(recipe.corpus.decontaminate, store, lang) for lang in langs]
    dropped = Counter({step: int((fates == number).sum()) for number, step in enumerate(STEPS, 1)})
    start = 0
    for chunk in _chunks(task, cell, store):
        here = fates[start : start + len(chunk)]
        start += len(chunk)
        for number, step in enumerate(STEPS, 1):
            some = _spread(np.flatnonzero(here == number), SAMPLE_ROWS)
            samples.see(step, as_samples(_rendered(task, [chunk[place] for place in some]), where))
        examples, here = [chunk[place] for place in np.flatnonzero(here <= ASIDE)], here[here <= ASIDE]
        batch = _rendered(task, examples)
        found = identifying([_conversation(task, example) for example in examples], frequency, langs)
        texts = pa.array(found, pa.list_(pa.string()))
        trains = here == TRAIN
        for step, rows in zip(forbidden[0].steps, overlapping(batch["segments"], texts, forbidden), strict=True):
            dropped[step] += int((rows & trains).sum())
            samples.see(step, as_samples(batch.filter(pa.array(rows & trains)), where))
            here, trains = np.where(rows, OVERLAP, here), trains & ~rows
        stored = as_stored(batch, texts)
        trained = stored.filter(pa.array(trains))
        out.write(trained, cell)
        out.write(stored.filter(pa.array(here == ASIDE)), DEV)
        samples.see(KEPT, as_samples(trained, where))
    ledger, left = list[LedgerRow](), len(fates)
    for step in (*STEPS, *forbidden[0].steps):
        lost = dropped[step]
        ledger.append(LedgerRow(step=step, corpus=where, into=left, dropped=lost, kept=left - lost))
        left -= lost
    return ledger


def _spread(places: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the places, evenly over all of them."""
    return places[np.linspace(0, len(places) - 1, num=min(most, len(places))).astype(int)]


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
