"""What a stage that drops rows says of it: a ledger per step and corpus, and a few rows to look at."""

import hashlib
from collections import Counter
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
"""A dropped row: `reason` is the filter's name, `duplicate` or `evaluation_overlap`; `score` null where there is none."""


def rebatch(batches: Iterable[pa.RecordBatch], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of just `rows`, the last one shorter: how a source cuts them cannot enter the shards.

    Always yields at least one batch, empty where there is no row, as long as there is a batch to take the schema of.
    """
    held: list[pa.RecordBatch] = []
    schema: pa.Schema | None = None
    for batch in batches:
        schema = batch.schema
        while held and sum(b.num_rows for b in held) + batch.num_rows >= rows:
            take = rows - sum(b.num_rows for b in held)
            yield _joined([*held, batch.slice(0, take)])
            held, batch = [], batch.slice(take)
        while batch.num_rows >= rows:
            yield batch.slice(0, rows)
            batch = batch.slice(rows)
        if batch.num_rows:
            held.append(batch)
    if held:
        yield _joined(held)
    elif schema is not None:
        yield schema.empty_table().to_batches()[0] if schema.empty_table().to_batches() else _empty(schema)


def rejected(rows: pa.RecordBatch, reason: str, scores: pa.Array | None = None) -> pa.RecordBatch:
    """`rows` as REJECTED."""
    reasons = pa.array([reason], pa.string()).take(pa.nulls(0, pa.int64())) if not rows.num_rows else None
    columns = [rows[name] for name in BITEXT.names]
    reasons = pa.repeat(pa.scalar(reason, pa.string()), rows.num_rows) if reasons is None else reasons
    given = pa.nulls(rows.num_rows, pa.float64()) if scores is None else scores
    return pa.record_batch([*columns, reasons, given], schema=REJECTED)
