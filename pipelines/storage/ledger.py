"""What a stage that changes or drops rows says of them: a ledger per step and corpus, and a few rows to look at."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.schema import BITEXT
from pipelines.storage.manifest import LedgerRow
from pipelines.storage.writer import Writer

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


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    """A row to look at, without the end of texts that are long."""
    return {name: _short(value) for name, value in row.items()}


def _short(value: Any) -> Any:
    return value[:SAMPLE_CHARACTERS] + "…" if isinstance(value, str) and len(value) > SAMPLE_CHARACTERS else value


class Sieve:
    """What the steps of a stage do to its rows: it counts, samples and writes those that go, and gives those that stay.

    The rejected are written to the part `rejected` of `out`, in their order; `before` are steps that drop nothing.
    """

    def __init__(self, steps: Sequence[str], out: Writer, before: Sequence[str] = ()):
        self.samples = Samples()
        self._steps, self._out = list(steps), out
        self._counts: dict[tuple[str, str], LedgerRow] = {}
        self._order = [*before, *steps]
        out.write(empty(REJECTED), "rejected")

    def sift(self, rows: pa.RecordBatch, went: np.ndarray, scores: pa.Array | None = None) -> pa.RecordBatch:
        """The rows that stay.

        went: int [N], the number of the step by which each row goes, from 1; 0 stays.
        scores: float64 [N], by what score each went; null, as None everywhere, where there is none.
        """
        for corpus, (stay, *gone) in _by_corpus(rows, went, len(self._steps) + 1):
            into = stay + sum(gone)
            for step, lost in zip(self._steps, gone, strict=True):
                self._count(step, corpus, into, lost)
                into -= lost
        if went.any():
            here = pa.array(went > 0)
            steps = went[went > 0]
            reasons = pa.array(self._steps, pa.string()).take(pa.array(steps - 1))
            some = rows.select(BITEXT.names).filter(here).columns
            score = pa.nulls(len(steps), pa.float64()) if scores is None else scores.filter(here)
            dropped = pa.record_batch([*some, reasons, score], schema=REJECTED)
            for number in np.unique(steps):
                self.samples.see(self._steps[number - 1], dropped.filter(pa.array(steps == number)))
            self._out.write(dropped, "rejected")
            rows = rows.filter(pa.array(went == 0))
        self.samples.see(KEPT, rows)
        return rows

    def changed(self, step: str, rows: pa.RecordBatch, which: pa.Array) -> None:
        """Note that `step` changed the rows that are true in `which` and dropped none."""
        for corpus, (same, changed) in _by_corpus(rows, np.asarray(which), 2):
            self._count(step, corpus, same + changed, changed=changed)
        self.samples.see(step, rows.filter(which))

    def rows(self) -> list[LedgerRow]:
        """One LedgerRow per step, in order, and corpus, as they were first met."""
        return sorted(self._counts.values(), key=lambda row: self._order.index(row.step))

    def none_left(self, dataset: str, total: int) -> str:
        """The sentence for a dataset in which nothing of `total` rows is left."""
        worst = max(self.rows(), key=lambda row: row.dropped, default=None)
        most = f"; {worst.step} dropped {worst.dropped:,} of {worst.corpus}" if worst and worst.dropped else ""
        return (
            f"{dataset}: none of {total:,} rows is left{most}. Allowed: at least one row. Change the recipe's sources "
            f"or filters, or set corpus.allow_empty: true."
        )

    def _count(self, step: str, corpus: str, into: int, dropped: int = 0, changed: int = 0) -> None:
        row = self._counts.setdefault((step, corpus), LedgerRow(step=step, corpus=corpus, into=0, dropped=0, kept=0))
        row.into, row.dropped, row.changed = row.into + into, row.dropped + dropped, row.changed + changed
        row.kept = row.into - row.dropped


def _by_corpus(rows: pa.RecordBatch, numbers: np.ndarray, width: int) -> Iterator[tuple[str, list[int]]]:
    """For each corpus how many of its rows have each number below `width`."""
    corpora = rows["corpus"].dictionary_encode()
    names = corpora.dictionary.to_pylist()
    cells = np.bincount(np.asarray(corpora.indices) * width + numbers, minlength=len(names) * width)
    yield from zip(names, cells.reshape(-1, width).tolist(), strict=True)
