"""A stream of batches -> so many of its rows, drawn by chance, the same ones at every run."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from pipelines.text.segments import seeded_order

Held = list[tuple[pa.RecordBatch, np.ndarray]]


def drawn(batches: Iterable[pa.RecordBatch], rows: int, *salt: int | str) -> Iterator[pa.RecordBatch]:
    """`rows` of the rows, each as likely as any other, in their order; all where there are no more.

    Every row has a number that its place and `salt` decide, and the smallest stay: so it hangs neither on how the
    batches are cut nor on how many rows follow, and more `rows` only add some. Holds twice as many at most.
    """
    held: Held = []
    place, count, bound = 0, 0, np.uint64(2**64 - 1)
    for batch in batches:
        numbers = seeded_order(np.arange(place, place + batch.num_rows, dtype=np.uint64), *salt)
        place += batch.num_rows
        few = numbers <= bound
        held.append((batch.filter(pa.array(few)), numbers[few]))
        count += int(few.sum())
        if count > 2 * rows:
            held, bound = _smallest(held, rows)
            count = rows
    if count > rows:
        held, _ = _smallest(held, rows)
    for batch, _ in held:
        yield batch


def _smallest(held: Held, rows: int) -> tuple[Held, np.uint64]:
    bound = np.partition(np.concatenate([numbers for _, numbers in held]), rows - 1)[rows - 1]
    few = [(batch, numbers, numbers <= bound) for batch, numbers in held]
    return [(batch.filter(pa.array(mask)), numbers[mask]) for batch, numbers, mask in few if mask.any()], bound
