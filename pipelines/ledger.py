"""What a stage that changes or drops rows says of them: a ledger per step and corpus, and a few rows to look at."""

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
    """Counts rows in, changed and dropped per step and corpus, in the order they are first met."""

    def __init__(self, steps: Iterable[str]):
        self._steps = list(steps)
        self._corpora: dict[str, None] = {}
        self._into: dict[tuple[str, str], int] = {}
        self._dropped: dict[tuple[str, str], int] = {}
        self._changed: dict[tuple[str, str], int] = {}

    def count(
        self, step: str, rows: pa.RecordBatch, dropped: pa.RecordBatch, changed: pa.RecordBatch | None = None
    ) -> None:
        """Note that `rows` reached `step`, that `dropped`, some of them, went no further and that it `changed` some."""
        for batch, counts in ((rows, self._into), (dropped, self._dropped), (changed, self._changed)):
            if batch is None or not batch.num_rows:
                continue
            for item in pc.value_counts(batch["corpus"]).to_pylist():
                self._corpora.setdefault(item["values"])
                key = (step, item["values"])
                counts[key] = counts.get(key, 0) + item["counts"]

    def rows(self) -> list[LedgerRow]:
        """One LedgerRow per step, in order, and corpus."""
        out = []
        for step in self._steps:
            for corpus in self._corpora:
                into, dropped, changed = (
                    counts.get((step, corpus), 0) for counts in (self._into, self._dropped, self._changed)
                )
                out.append(
                    LedgerRow(
                        step=step, corpus=corpus, into=into, dropped=dropped, kept=into - dropped, changed=changed
                    )
                )
        return out

    def none_left(self, dataset: str, total: int) -> str:
        """The sentence for a dataset in which nothing of `total` rows is left."""
        worst = max(self.rows(), key=lambda row: row.dropped, default=None)
        most = f"; {worst.step} dropped {worst.dropped:,} of {worst.corpus}" if worst and worst.dropped else ""
        return (
            f"{dataset}: none of {total:,} rows is left{most}. Allowed: at least one row. Change the recipe's sources "
            f"or filters, or set corpus.allow_empty: true."
        )


SAMPLE = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("step", "corpus", "src", "tgt")),
        pa.field("score", pa.float64()),
    ]
)
"""A row to look at: one that `step` dropped or changed, or that was kept in the end where `step` is KEPT."""
KEPT = "kept"


class Samples:
    """A few rows of each step and corpus, drawn evenly over all that pass; the same rows at every run."""

    def __init__(self, size: int = SAMPLE_ROWS):
        self._size = size
        self._rng = np.random.default_rng(0)  # for people to look at: not part of what the recipe's seed decides
        self._held: dict[tuple[str, str], list[tuple[float, dict[str, Any]]]] = {}

    def see(self, step: str, batch: pa.RecordBatch) -> None:
        """Let the rows of `batch` take part in the draw for `step`."""
        if not batch.num_rows:
            return
        draw = self._rng.random(batch.num_rows)
        shown = [name for name in ("src", "tgt", "reason", "score") if name in batch.schema.names]
        for corpus in pc.unique(batch["corpus"]).to_pylist() if "corpus" in batch.schema.names else [""]:
            held = self._held.setdefault((step, corpus), [])
            worst = held[-1][0] if len(held) == self._size else 1.0
            here = draw < worst
            if corpus:
                here &= pc.equal(batch["corpus"], corpus).to_numpy(zero_copy_only=False)
            places = np.flatnonzero(here)
            for index in places[np.argsort(draw[places])[: self._size]]:
                held.append((float(draw[index]), {name: _short(batch[name][int(index)].as_py()) for name in shown}))
            held.sort(key=lambda item: item[0])
            del held[self._size :]

    def of(self, *steps: str) -> list[dict[str, Any]]:
        """`size` rows of the steps, whatever their corpus, each step with as equal a part as its rows allow."""
        drawn = [
            [row for _, row in sorted((item for (own, _), held in self._held.items() if own == step for item in held),
                                      key=lambda item: item[0])]
            for step in steps
        ]  # fmt: skip
        out: list[list[dict[str, Any]]] = [[] for _ in drawn]
        for turn in range(self._size):
            for place, rows in enumerate(drawn):
                if turn < len(rows) and sum(map(len, out)) < max(self._size, len(steps)):
                    out[place].append(rows[turn])
        return [row for rows in out for row in rows]

    def batch(self) -> pa.RecordBatch:
        """All that is held, `size` rows a step and corpus at most, as SAMPLE."""
        rows = [
            {"step": step, "corpus": corpus, "score": None, **{n: row[n] for n in ("src", "tgt", "score") if n in row}}
            for (step, corpus), held in self._held.items()
            for _, row in held
        ]
        return pa.RecordBatch.from_pylist(rows, schema=SAMPLE)


def _short(value: Any) -> Any:
    return value[:SAMPLE_CHARACTERS] + "…" if isinstance(value, str) and len(value) > SAMPLE_CHARACTERS else value
