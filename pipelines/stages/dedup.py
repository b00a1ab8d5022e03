"""Stage: clean_bitext -> deduped_bitext. Of rows that say the same, or nearly the same, the best one stays."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.engine import parallel
from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, no_progress
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.ledger import KEPT, Sieve, rebatch
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.matching import match_key
from pipelines.text.near import near_duplicates, size

STEP, NEAR = "duplicate", "near_duplicate"
MEMORY = "1GB"  # a row takes 24 bytes, so ten million rows need no disk
DISK_FULL = ("No space left on device", "max_temp_directory_size")  # in the messages of DuckDB
SIDES = {"pair": ("src", "tgt"), "src": ("src",), "tgt": ("tgt",)}
KEYS = pa.schema([("rank", pa.int64()), ("src", pa.string()), ("tgt", pa.string())])


def run(recipe: Recipe, store: Store, pair: Pair, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Keep the best row of those that share a match key, then of those that nearly do; the order of arrival stays.

    The best is the one with the highest score in the recipe's quality column; among equals, or without that column,
    the first. Each part of `corpus.dedup.on` is one step on what the step before kept, first all exact ones.
    """
    upstream = store.require("clean_bitext", pair)
    settings = recipe.corpus.dedup
    quality = recipe.corpus.quality_column
    fingerprint = compute_fingerprint(
        __name__,
        {**settings.model_dump(mode="json"), "quality": quality},
        {"clean_bitext": upstream.fingerprint},
        libraries=("pyarrow", "duckdb", "numpy", "rensa"),
    )
    if done := store.unchanged("deduped_bitext", pair, fingerprint):
        return done
    near = [] if settings.near is None else [(on, settings.near) for on in settings.on]
    steps = [*(_step(STEP, on) for on in settings.on), *(_step(NEAR, on) for on, _ in near)]
    total, seen, kept = upstream.rows["data"], 0, 0
    with store.writing("deduped_bitext", pair) as out:
        sieve = Sieve(steps, out)
        rank = _ranks(store, pair, quality, total)
        went = np.zeros(total, dtype=np.uint8)  # by which step, counted from 1; 0 stays
        score = np.full(total, np.nan)
        with connection(out.path / "duckdb") as duck:
            on_progress(0, total, "looking for equal rows")
            for number, left in enumerate(_exact(duck, store, pair, settings.on, rank), start=1):
                stays = np.zeros(total, dtype=bool)
                stays[left] = True
                went[~stays & (went == 0)] = number
            for number, (on, threshold) in enumerate(near, start=1 + len(settings.on)):
                on_progress(0, total, "looking for nearly equal rows")
                rows = np.flatnonzero(went == 0)
                columns = partial(_remaining, store, pair, SIDES[on], went == 0)
                sizes = [size(lang) for side, lang in zip(SIDES["pair"], pair, strict=True) if side in SIDES[on]]
                order = None if rank is None else np.argsort(np.argsort(rank[rows]))
                found = near_duplicates(columns, sizes, threshold, duck, out.path / "near", order)
                gone = ~np.isnan(found)
                went[rows[gone]], score[rows[gone]] = number, found[gone]
        for batch in rebatch(store.batches("clean_bitext", pair)):
            here = slice(seen, seen + batch.num_rows)
            rows = sieve.sift(batch, went[here], pa.array(score[here], from_pandas=True))
            out.write(rows)
            seen, kept = seen + batch.num_rows, kept + rows.num_rows
            on_progress(seen, total, f"{kept:,} of {seen:,} rows kept")
        if not kept and not recipe.corpus.allow_empty:
            raise UserError(sieve.none_left(f"deduped_bitext of {pair}", total))
        out.write(sieve.samples.batch(), "samples")
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs={"clean_bitext": upstream.fingerprint},
            ledger=sieve.rows(),
            numbers={"rows_in": total, "rows_out": kept},
            samples={"kept": sieve.samples.of(KEPT), "dropped": sieve.samples.of(*steps)},
            corpora=upstream.corpora,
        )


@contextmanager
def connection(spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in memory that spills to the folder `spill` and reaches for no extension over the network.

    OSError where the disk is too full to spill.
    """
    with duckdb.connect() as duck:
        duck.execute(f"SET memory_limit = '{MEMORY}'")
        duck.execute("SET temp_directory = $1", [str(spill)])
        duck.execute("SET autoinstall_known_extensions = false")
        duck.execute("SET autoload_known_extensions = false")
        try:
            yield duck
        except duckdb.Error as error:
            if any(text in str(error) for text in DISK_FULL):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spill)) from error
            raise


def _step(name: str, on: str) -> str:
    return name if on == "pair" else f"{name}_{on}"


def _ranks(store: Store, pair: Pair, quality: str | None, total: int) -> np.ndarray | None:
    """int64 [N]: the place of each row from the best to the worst; None where that is the order of arrival."""
    if quality is None:
        return None
    parts = [pc.fill_null(batch[quality], float("-inf")) for batch in store.batches("clean_bitext", pair)]
    scores = np.concatenate([np.zeros(0), *(part.to_numpy(zero_copy_only=False) for part in parts)])
    rank = np.empty(total, dtype=np.int64)
    # Neural scores hang on the batch in their last digits: equal rows have to tie.
    rank[np.argsort(-np.round(scores, 4), kind="stable")] = np.arange(total)
    return rank


def _exact(
    duck: duckdb.DuckDBPyConnection, store: Store, pair: Pair, on: list, rank: np.ndarray | None
) -> Iterator[np.ndarray]:
    """The rows left after each part of `on`, int64 in no order: of every distinct key the one of lowest rank."""
    order = None if rank is None else np.argsort(rank)
    store.shards("clean_bitext", pair)  # checked here: what is raised while DuckDB reads becomes an error of DuckDB's
    keys = pa.RecordBatchReader.from_batches(KEYS, _keys(store, pair, rank))
    # Of ten million texts the chance that any two that differ share 64 bits is 3e-6; pairs have 128.
    duck.register("keys", keys).execute(
        "CREATE TEMP TABLE hashes AS SELECT rank, hash(src) AS src, hash(tgt) AS tgt FROM keys"
    )
    for part in on:
        of = SIDES[part]
        others = "".join(f", arg_min({side}, rank) AS {side}" for side in SIDES["pair"] if side not in of)
        duck.execute(
            f"CREATE OR REPLACE TEMP TABLE hashes AS SELECT min(rank) AS rank, {', '.join(of)}{others} FROM hashes "
            f"GROUP BY {', '.join(of)}"
        )
        left = duck.sql("SELECT rank FROM hashes").fetchnumpy()["rank"]
        yield left if order is None else order[left]
    duck.execute("DROP TABLE hashes")


def _keys(store: Store, pair: Pair, rank: np.ndarray | None) -> Iterator[pa.RecordBatch]:
    start = 0
    batches = parallel(
        lambda batch: [match_key(batch[side]) for side in ("src", "tgt")], store.batches("clean_bitext", pair)
    )
    for src, tgt in batches:
        rows = np.arange(start, start + len(src))
        yield pa.record_batch([pa.array(rows if rank is None else rank[rows]), src, tgt], schema=KEYS)
        start += len(src)


def _remaining(store: Store, pair: Pair, sides: tuple[str, ...], stays: np.ndarray) -> Iterator[list[pa.Array]]:
    """The columns `sides` of the rows that are `stays`."""
    start = 0
    for batch in store.batches("clean_bitext", pair):
        rows = batch.select(sides).filter(pa.array(stays[start : start + batch.num_rows]))
        yield rows.columns
        start += batch.num_rows
