"""What a stage that drops rows says of them: a ledger per step and corpus, and a few rows to look at."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.schema import BITEXT
from pipelines.store import LedgerRow

BATCH_ROWS = 20_000
SAMPLE_ROWS = 10
SAMPLE_CHARACTERS = 300

REJECTED = pa.schema([*BITEXT, pa.field("reason", pa.string(), nullable=False), pa.field("score", pa.float64())])
"""A dropped row. `reason` is a filter's name, `duplicate` or `evaluation_overlap`; `score` is null where none is."""


def rebatch(batches: Iterable[pa.RecordBatch], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of just `rows`, the last one shorter, so that the way they came cut is forgotten.

    Without a row it yields one empty batch, which still carries the schema; without a batch, nothing.
    """
    held: list[pa.RecordBatch] = []
    count, schema, whole = 0, None, False
    for batch in batches:
        schema = batch.schema
        while count + batch.num_rows >= rows:
            yield pa.concat_batches([*held, batch.slice(0, rows - count)])
            held, batch, count, whole = [], batch.slice(rows - count), 0, True
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield pa.concat_batches(held)
    elif schema is not None and not whole:
        yield empty(schema)


def empty(schema: pa.Schema) -> pa.RecordBatch:
    """A batch without rows: written first, so that a part which nothing falls into still has its schema."""
    return pa.record_batch([pa.array([], field.type) for field in schema], schema=schema)


def rejected(rows: pa.RecordBatch, reason: str, scores: pa.Array | None = None) -> pa.RecordBatch:
    """`rows` as REJECTED; `scores` has one number a row, None stands for null everywhere."""
    columns = [rows[name] for name in BITEXT.names]
    reasons = pa.repeat(pa.scalar(reason, pa.string()), rows.num_rows)
    return pa.record_batch(
        [*columns, reasons, pa.nulls(rows.num_rows, pa.float64()) if scores is None else scores], schema=REJECTED
    )


class Ledger:
    """Counts rows in and rows dropped per step and corpus, in the order they are first met."""

    def __init__(self, steps: Iterable[str]):
        self._steps = list(steps)
        self._corpora: dict[str, None] = {}
        self._into: dict[tuple[str, str], int] = {}
        self._dropped: dict[tuple[str, str], int] = {}

    def count(self, step: str, rows: pa.RecordBatch, dropped: pa.RecordBatch) -> None:
        """Note that `rows` reached `step` and that `dropped`, some of them, went no further."""
        for batch, counts in ((rows, self._into), (dropped, self._dropped)):
            for item in pc.value_counts(batch["corpus"]).to_pylist():
                self._corpora.setdefault(item["values"])
                key = (step, item["values"])
                counts[key] = counts.get(key, 0) + item["counts"]

    def rows(self) -> list[LedgerRow]:
        """One LedgerRow per step, in order, and corpus."""
        out = []
        for step in self._steps:
            for corpus in self._corpora:
                into, dropped = self._into.get((step, corpus), 0), self._dropped.get((step, corpus), 0)
                out.append(LedgerRow(step=step, corpus=corpus, into=into, dropped=dropped, kept=into - dropped))
        return out

    def none_left(self, dataset: str, total: int) -> str:
        """The sentence for a dataset in which nothing of `total` rows is left."""
        worst = max(self.rows(), key=lambda row: row.dropped, default=None)
        most = f"; {worst.step} dropped {worst.dropped:,} of {worst.corpus}" if worst and worst.dropped else ""
        return (
            f"{dataset}: none of {total:,} rows is left{most}. Allowed: at least one row. Change the recipe's sources "
            f"or filters, or set corpus.allow_empty: true."
        )


class Samples:
    """A few rows of each kind, drawn evenly over all that pass; the same rows at every run."""

    def __init__(self, size: int = SAMPLE_ROWS):
        self._size = size
        self._rng = np.random.default_rng(0)  # for people to look at: not part of what the recipe's seed decides
        self._held: dict[str, list[tuple[float, dict[str, Any]]]] = {}

    def see(self, kind: str, batch: pa.RecordBatch) -> None:
        """Let the rows of `batch` take part in the draw for `kind`."""
        draw = self._rng.random(batch.num_rows)
        held = self._held.setdefault(kind, [])
        for index in np.argsort(draw)[: self._size]:
            shown = [name for name in ("src", "tgt", "reason", "score") if name in batch.schema.names]
            held.append((float(draw[index]), {name: _short(batch[name][int(index)].as_py()) for name in shown}))
        held.sort(key=lambda item: item[0])
        del held[self._size :]

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """`size` rows of the kinds, each kind with as equal a part as its rows allow."""
        drawn = [[row for _, row in self._held.get(kind, [])] for kind in kinds]
        out: list[list[dict[str, Any]]] = [[] for _ in drawn]
        for turn in range(self._size):
            for place, rows in enumerate(drawn):
                if turn < len(rows) and sum(map(len, out)) < max(self._size, len(kinds)):
                    out[place].append(rows[turn])
        return [row for rows in out for row in rows]


def _short(value: Any) -> Any:
    return value[:SAMPLE_CHARACTERS] + "…" if isinstance(value, str) and len(value) > SAMPLE_CHARACTERS else value
