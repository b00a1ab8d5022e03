import importlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import engine
from pipelines.config import Recipe
from pipelines.engine import mapped
from pipelines.languages import Pair
from pipelines.stages import clean, collect
from pipelines.storage.store import Store

PAIR = Pair("deu_Latn", "eng_Latn")


def batches(count: int) -> Iterator[pa.RecordBatch]:
    for n in range(count):
        yield pa.record_batch({"x": [n, n + 1]})


def doubled(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch({"x": [2 * x.as_py() for x in batch["x"]]})


def test_results_come_in_order_and_the_work_is_done_on_threads() -> None:
    seen: set[str] = set()

    def work(batch: pa.RecordBatch) -> pa.RecordBatch:
        seen.add(threading.current_thread().name)
        return doubled(batch)

    found = [row for batch in mapped(work, batches(50)) for row in batch["x"].to_pylist()]
    assert found == [2 * x for n in range(50) for x in (n, n + 1)]
    assert all(name.startswith("batch") for name in seen)


def test_no_more_is_read_than_is_worked_on() -> None:
    read: list[int] = []

    def watched() -> Iterator[pa.RecordBatch]:
        for n, batch in enumerate(batches(100)):
            read.append(n)
            yield batch

    results = mapped(doubled, watched())
    next(results)
    assert len(read) <= engine.AHEAD * engine.CORES
    results.close()  # type: ignore[attr-defined]


def test_an_error_in_the_work_is_the_callers() -> None:
    def broken(batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError(f"row {batch['x'][0]}")

    with pytest.raises(ValueError, match="row 0"):
        list(mapped(broken, batches(3)))


def made(where: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "twice",
            "corpus": {
                "pairs": [PAIR],
                "sources": [{"sample": {"rows": 9_000, "noise": {"markup": 0.05, "length": 0.05}}}],
                "filters": ["char_length", "length_ratio", "script", "markup", "translation_score"],
                "engine": where,
            },
        }
    )


@pytest.mark.slow
def test_ray_makes_the_same_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra isogloss[ray] is not installed")
    monkeypatch.setattr(clean, "rebatch", lambda found: engine_batches(found))
    monkeypatch.setitem(os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    files, prints = [], []
    for where in ("local", "ray"):
        recipe, store = made(where), Store.open(tmp_path / where, "twice")
        collect.run(recipe, store, PAIR)
        manifest = clean.run(recipe, store, PAIR)
        files.append(manifest.files)
        prints.append(manifest.fingerprint)
        assert manifest.rows["data"] > 5_000
        assert len(list(store.batches("clean_bitext", PAIR, "scores"))) >= 3
    importlib.import_module("ray").shutdown()
    assert files[0] == files[1]
    assert prints[0] == prints[1]


def engine_batches(found: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    from pipelines.storage.ledger import rebatch

    return rebatch(found, 2_500)
