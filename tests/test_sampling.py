from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from pipelines.sources._sampling import drawn


def _batches(rows: int, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, size):
        yield pa.record_batch({"n": np.arange(start, min(rows, start + size))})


def _drawn(rows: int, wanted: int, size: int = 100, salt: int = 0) -> list[int]:
    return [n for batch in drawn(_batches(rows, size), wanted, salt) for n in batch["n"].to_pylist()]


@pytest.mark.parametrize(("rows", "wanted", "kept"), [(0, 5, 0), (4, 5, 4), (5, 5, 5), (6, 5, 5), (10_000, 5, 5)])
def test_so_many_rows_are_drawn_or_all_there_are(rows: int, wanted: int, kept: int) -> None:
    found = _drawn(rows, wanted)
    assert len(set(found)) == len(found) == kept
    assert found == sorted(found)


def test_the_draw_hangs_on_place_and_salt_and_not_on_the_cut() -> None:
    first = _drawn(5_000, 300)
    assert all(_drawn(5_000, 300, size) == first for size in (1, 7, 4_999, 5_000))
    assert _drawn(5_000, 300, salt=1) != first


def test_a_larger_draw_holds_the_smaller() -> None:
    assert set(_drawn(5_000, 100)) < set(_drawn(5_000, 300))


def test_every_row_is_as_likely_as_any_other() -> None:
    rows, wanted, times = 1_000, 100, 200
    counts = np.bincount([n for salt in range(times) for n in _drawn(rows, wanted, salt=salt)], minlength=rows)
    tenths = counts.reshape(10, -1).sum(axis=1)
    assert tenths.sum() == wanted * times
    assert np.abs(tenths / 2_000 - 1).max() < 0.1  # of 2,000 each, that is 4.7 standard deviations
    assert counts.min() > 0
    assert counts.max() < 45  # expected 20, standard deviation 4.2


def test_memory_is_bounded_by_the_draw() -> None:
    alive = [0, 0]

    def watched() -> Iterator[pa.RecordBatch]:
        for batch in _batches(100_000, 1_000):
            alive[0] = max(alive[0], pa.total_allocated_bytes() - before)
            yield batch

    before = pa.total_allocated_bytes()
    assert sum(batch.num_rows for batch in drawn(watched(), 1_000, 0)) == 1_000
    assert alive[0] < 200_000  # of 800,000 bytes in all
