"""Stage: clean_bitext -> deduped_bitext. Of pairs that say the same on both sides, the one that came first stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.ledger import BATCH_ROWS, REJECTED, Ledger, Samples, empty, rebatch, rejected
from pipelines.matching import match_key
from pipelines.progress import Tell, silent
from pipelines.store import Manifest, Store, fingerprint

STEP = "duplicate"
MEMORY = "1GB"  # a row takes 24 bytes, so ten million rows need no disk
KEYS = pa.schema([("row", pa.int64()), ("src", pa.string()), ("tgt", pa.string())])


def run(recipe: Recipe, store: Store, pair: Pair, tell: Tell = silent) -> Manifest:
    """Keep the first row of every distinct pair of match keys, in the order of arrival.

    Two passes: DuckDB finds the first row of every 128-bit hash, out of core where it must; then the rows are read
    again and parted. At a billion rows the chance that any two different pairs share a hash is 1e-21.
    """
    upstream = store.require("clean_bitext", pair)
    print_ = fingerprint(
        __name__,
        {},
        {"clean_bitext": upstream.fingerprint},
        modules=("pipelines.ledger", "pipelines.matching"),
        libraries=("pyarrow", "duckdb"),
    )
    if done := store.unchanged("deduped_bitext", pair, print_):
        return done
    total, seen, kept = upstream.rows["data"], 0, 0
    ledger, samples = Ledger([STEP]), Samples()
    with store.writing("deduped_bitext", pair) as out:
        out.write(empty(REJECTED), "rejected")
        keys = pa.RecordBatchReader.from_batches(KEYS, _keys(store, pair))
        with connection(out.path / "duckdb") as duck:
            first = _first_rows(duck, keys)
            tell(0, total, "first rows found")
            waiting = next(first, None)
            for batch in rebatch(store.batches("clean_bitext", pair)):
                mask = np.zeros(batch.num_rows, dtype=bool)
                while waiting is not None:
                    here = waiting[waiting < seen + batch.num_rows]
                    mask[here - seen] = True
                    waiting = waiting[len(here) :]
                    if len(waiting):
                        break
                    waiting = next(first, None)
                rows, dropped = batch.filter(pa.array(mask)), rejected(batch.filter(pa.array(~mask)), STEP)
                ledger.count(STEP, batch, dropped)
                samples.see("kept", rows)
                samples.see(STEP, dropped)
                out.write(rows)
                out.write(dropped, "rejected")
                seen, kept = seen + batch.num_rows, kept + rows.num_rows
                tell(seen, total, f"{kept:,} of {seen:,} rows kept")
        if not kept and not recipe.corpus.allow_empty:
            raise ValueError(ledger.none_left(f"deduped_bitext of {pair}", total))
        return out.commit(
            print_,
            recipe.resolved(),
            inputs={"clean_bitext": upstream.fingerprint},
            ledger=ledger.rows(),
            numbers={"rows_in": total, "rows_out": kept},
            samples={"kept": samples.of("kept"), "dropped": samples.of(STEP)},
            corpora=upstream.corpora,
        )


@contextmanager
def connection(spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB in memory that spills to the folder `spill` and reaches for no extension over the network."""
    with duckdb.connect() as duck:
        duck.execute(f"SET memory_limit = '{MEMORY}'")
        duck.execute("SET temp_directory = $1", [str(spill)])
        duck.execute("SET autoinstall_known_extensions = false")
        duck.execute("SET autoload_known_extensions = false")
        yield duck


def _keys(store: Store, pair: Pair) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in store.batches("clean_bitext", pair):
        rows = pa.array(np.arange(start, start + batch.num_rows))
        yield pa.record_batch([rows, match_key(batch["src"]), match_key(batch["tgt"])], schema=KEYS)
        start += batch.num_rows


def _first_rows(duck: duckdb.DuckDBPyConnection, keys: pa.RecordBatchReader) -> Iterator[np.ndarray]:
    """Ascending row numbers, int64, of the first row of every distinct key pair."""
    # The length of src keeps ("ab", "c") apart from ("a", "bc").
    query = """
        SELECT min(row) AS row FROM keys
        GROUP BY md5_number(length(src) || ':' || src || tgt) ORDER BY row
    """
    for batch in duck.register("keys", keys).sql(query).to_arrow_reader(BATCH_ROWS):
        yield batch["row"].to_numpy()
