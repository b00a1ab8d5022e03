import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipelines.languages import Pair
from pipelines.runner import AT_ONCE, side_by_side
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

PAIRS = [Pair.parse(pair) for pair in ("en-de", "en-fr", "en-es", "en-ru", "en-zh")]


def test_manifests_come_in_the_order_of_the_pairs() -> None:
    gate = threading.Barrier(AT_ONCE, timeout=20)
    begun: list[Pair] = []

    def make(pair: Pair, on_progress: Any) -> Manifest:
        begun.append(pair)
        if len(begun) <= AT_ONCE:
            gate.wait()  # so many are made side by side, or this never ends
        return cast(Manifest, str(pair))

    assert side_by_side(PAIRS, make) == [str(pair) for pair in PAIRS]
    assert sorted(begun) == sorted(PAIRS)


def test_the_pair_with_most_raw_rows_begins_first() -> None:
    rows = dict(zip(PAIRS, (1, 2, 5, 3, 4), strict=True))
    begun: list[Pair] = []

    class Holds:
        def manifest(self, asset: str, pair: Pair) -> Any:
            assert asset == "raw_bitext"
            return SimpleNamespace(rows={"data": rows[pair]}) if rows[pair] > 1 else None

    def make(pair: Pair, on_progress: Any) -> Manifest:
        with lock:
            begun.append(pair)
        return cast(Manifest, str(pair))

    lock = threading.Lock()
    assert side_by_side(PAIRS, make, store=cast(Store, Holds())) == [str(pair) for pair in PAIRS]
    assert begun[0] == PAIRS[2]
    assert begun[-1] == PAIRS[0]


def test_the_progress_of_all_pairs_is_one_figure() -> None:
    told: list[tuple[float, float, str]] = []

    def make(pair: Pair, on_progress: Any) -> Manifest:
        on_progress(1, 2)
        return cast(Manifest, None)

    side_by_side(PAIRS, make, lambda done, total=0, note="": told.append((done, total, note)))
    assert told[-1] == (5, 5, "5 of 5 pairs")
    assert told[0] == (0.5, 5, "0 of 5 pairs")
    assert all(done <= 5 for done, _, _ in told)


def test_a_failure_is_raised_and_stops_the_others() -> None:
    begun: list[Pair] = []

    def make(pair: Pair, on_progress: Any) -> Manifest:
        begun.append(pair)
        if pair == PAIRS[0]:
            raise ValueError("no rows")
        for _ in range(100_000):
            on_progress(0, 1)  # where it is told that all is over
            threading.Event().wait(0.01)
        return cast(Manifest, None)

    with pytest.raises(ValueError, match="no rows"):
        side_by_side(PAIRS, make)
    assert len(begun) < len(PAIRS)
