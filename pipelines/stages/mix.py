"""Stage: decontaminated_bitext and instructions of all pairs, and task_data -> training_mix, under the recipe's budget.

Dev first: of every pair, the rows whose pivot side has the smallest draws. Draws hang on the text alone, so pairs that
share their pivot texts set the same ones aside. A row that shares a segment, on either side and in any pair, with a dev
row trains nothing. What is left is taken in the order of another draw, or of its quality, until the budget is spent: a
row's place in that order hangs on nothing but the row and the seed, so a further pair or corpus only takes rows away.

DuckDB holds numbers alone; the texts of the rows taken are read again from their shards, thrown into a file for each
batch of the mix, and sorted batch by batch. So memory hardly grows with the rows.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import compress, groupby, pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import CorpusConfig, Recipe
from pipelines.engine import mapped
from pipelines.errors import UserError
from pipelines.files import sha256
from pipelines.languages import Pair
from pipelines.licences import gathered
from pipelines.progress import ProgressCallback, no_progress
from pipelines.report import data_card
from pipelines.schema import BITEXT, INSTRUCTION
from pipelines.stages import budget
from pipelines.stages.dedup import connection
from pipelines.stages.instruct import as_samples
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.ledger import BATCH_ROWS, SAMPLE_ROWS, Samples, empty, shortened
from pipelines.storage.manifest import MAIN, LedgerRow, Manifest
from pipelines.storage.store import Store
from pipelines.text.segments import NONE, digests, keys, seeded_order

MEMORY, THREADS = "400MB", 2  # of DuckDB, which needs some 125 MB a thread and spills what it cannot hold
DEV_SHARE = 0.1
"""At most this part of a pair becomes dev."""

PARTS = {"bitext": BITEXT, "instructions": INSTRUCTION, "dev": BITEXT, "tasks": INSTRUCTION}
"""The last of recipes with tasks alone, which then have `tasks_dev` too, as task_data has it. Dev is in no budget."""
Place = Pair | str
"""What has rows to give: a pair, or a part of task_data, which is a language or a pair in print."""
STEPS = ("dev", "dev_overlap", "repeat", "cap", "budget")
"""Why a row is not taken, in this order."""


class RowAssignments(NamedTuple):
    """Rows of one part by pair and row, ascending, and where in the part each goes."""

    pair: np.ndarray
    row: np.ndarray
    position: np.ndarray
    turned: np.ndarray

    def of(self, pair: int) -> "RowAssignments":
        start, stop = np.searchsorted(self.pair, [pair, pair + 1])
        return RowAssignments(*(column[start:stop] for column in self))


def run(recipe: Recipe, store: Store, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Set dev rows aside, divide the budget among kinds and pairs, and write what each may give in a shuffled order."""
    corpus = recipe.corpus
    pairs = sorted(corpus.pairs)
    kinds = corpus.kinds
    places: list[Place] = [*pairs, *corpus.task_cells]
    manifests = {
        f"{asset}/{pair}": store.require(asset, pair)
        for asset in ("decontaminated_bitext", "instructions")
        for pair in pairs
    }
    if corpus.tasks:
        manifests["task_data"] = store.require("task_data")
    provenance = gathered(manifest.corpora for manifest in manifests.values())
    corpus.budget.check_caps(provenance)
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    tokenizer = corpus.budget.tokenizer_file()
    settings = {
        "seed": recipe.seed,
        "budget": {**corpus.budget.model_dump(mode="json"), "tokenizer": tokenizer and sha256(tokenizer)},
        "dev_rows": corpus.dev_rows,
        "pivot": corpus.pivot,
        "kinds": kinds,
        "cells": {task.name: task.cells for task in corpus.tasks},
        "quality": corpus.quality_column if corpus.budget.order == "quality" else None,
    }
    fingerprint = compute_fingerprint(
        __name__,
        settings,
        inputs,
        libraries=("pyarrow", "duckdb", "numpy", *(("sentencepiece", "tokenizers") if tokenizer else ())),
    )
    if done := store.unchanged("training_mix", None, fingerprint):
        return done
    with store.writing("training_mix") as out:
        with connection(out.path / "duckdb") as duck:
            duck.execute(f"SET memory_limit = '{MEMORY}'; SET threads = {THREADS}")
            names = dict[str, int]()
            count = budget.counter(corpus.budget) if corpus.budget.tokens else None
            _load_bitext(duck, recipe, store, pairs, names, count, on_progress)
            held = _set_dev_aside(duck, corpus.dev_rows)
            _load_instructions(duck, recipe, store, places, kinds, names, held, count, on_progress)
            receipts = budget.choose(duck, corpus.budget, kinds, places, list(names))
            receipts = receipts._replace(pairs=list(compress(receipts.pairs, _may_give(corpus, places))))
            if not receipts.kinds[0]["taken"] and not corpus.allow_empty:
                raise UserError(
                    f"training_mix: found no bitext row to train on in {len(pairs)} pairs. Allowed: at least one. "
                    f"Lower corpus.dev_rows, raise the share of bitext, or set corpus.allow_empty: true."
                )
            ledger = _ledger(duck, places, kinds, receipts)
            chosen = _chosen(duck, corpus, turn=corpus.budget.directions == "both")
            dropped = _dropped(duck, store, places, kinds)
        samples = Samples()
        for part, batch in _shuffled(out.path, store, places, chosen, on_progress):
            out.write(batch, part)
            if part == "bitext":
                samples.see("kept", batch)
        if corpus.tasks:
            for batch in store.batches("task_data", part="dev"):
                out.write(batch.select(INSTRUCTION.names), "tasks_dev")
        numbers: dict[str, Any] = {
            "rows_in": sum(m.rows.get(part, 0) for m in manifests.values() for part in (MAIN, *corpus.task_cells)),
            "rows_out": sum(row["taken"] for row in receipts.kinds),
            "budget": corpus.budget.rows,
            "dev_rows": len(chosen["dev"].row),
            "receipt_kinds": receipts.kinds,
            "receipt": receipts.pairs,
            "receipt_corpora": receipts.corpora,
        }
        if corpus.budget.tokens:
            numbers["tokens"] = sum(row["tokens"] for row in receipts.kinds)
            numbers["token_budget"] = corpus.budget.tokens
        (out.path / data_card.FILE).write_text(
            data_card.card(recipe, out.rows(), numbers, provenance, ledger), encoding="utf-8"
        )
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger,
            numbers=numbers,
            samples={"kept": samples.of("kept"), "dropped": dropped},
            corpora=provenance,
        )


def _load_bitext(
    duck: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    store: Store,
    pairs: list[Pair],
    names: dict[str, int],
    count: budget.Count | None,
    on_progress: ProgressCallback,
) -> None:
    """Table bitext: one row per row, with its number within the pair, its keys, draws and score."""
    duck.execute(
        "CREATE TABLE bitext (pair SMALLINT, row INTEGER, corpus SMALLINT, src_key UBIGINT, tgt_key UBIGINT,"
        " held UBIGINT, pick UBIGINT, place UBIGINT, score DOUBLE, cost INTEGER)"
    )
    quality = recipe.corpus.quality_column if recipe.corpus.budget.order == "quality" else None
    work = partial(_bitext_numbers, seed=recipe.seed, pivot=recipe.corpus.pivot, quality=quality, count=count)
    for number, rows in _numbered(work, store, "decontaminated_bitext", pairs, names, on_progress):
        _insert(duck, "bitext", number, rows)


def _bitext_numbers(
    batch: pa.RecordBatch, seed: int, pivot: str, quality: str | None, count: budget.Count | None
) -> pa.RecordBatch:
    n = batch.num_rows
    side = {name: keys(batch[name]) for name in ("src", "tgt")}
    content = seeded_order(side["src"], "src") ^ seeded_order(side["tgt"], "tgt")
    of_pivot = "tgt" if n and batch["tgt_lang"][0].as_py() == pivot else "src"
    return pa.record_batch(
        {
            "corpus": batch["corpus"],
            "src_key": side["src"],
            "tgt_key": side["tgt"],
            "held": seeded_order(side[of_pivot], seed, "dev"),
            "pick": seeded_order(content, seed, "pick"),
            "place": seeded_order(content, seed, "place"),
            "score": batch[quality] if quality else pa.nulls(n, pa.float64()),
            "cost": count(batch["src"]) + count(batch["tgt"]) if count else np.ones(n, np.int64),
        }
    )


def _may_give(corpus: CorpusConfig, places: Sequence[Place]) -> list[bool]:
    """Whether a kind can have rows of a place at all, kind by kind: each task has places of its own."""
    own = {task.name: task.cells for task in corpus.tasks}
    return [place in own.get(kind, corpus.pairs) for kind, place in product(corpus.kinds, places)]


def _stored(store: Store, asset: str, place: Place) -> Iterator[pa.RecordBatch]:
    """The batches of a pair's `asset`, or of a part of task_data."""
    return store.batches(asset, place) if isinstance(place, Pair) else store.batches("task_data", part=place)


def _numbered(
    work: Any, store: Store, asset: str, places: Sequence[Place], names: dict[str, int], on_progress: ProgressCallback
) -> Iterator[tuple[int, pa.Table]]:
    """(number of the place, `work` of a batch with the row numbers), in order; corpora become numbers in `names`."""
    begun = deque[tuple[int, int]]()

    def batches() -> Iterator[pa.RecordBatch]:
        for number, place in enumerate(places):
            on_progress(number, len(places), f"reading {asset} of {place}")
            start = 0
            for batch in _stored(store, asset, place):
                if batch.num_rows:
                    begun.append((number, start))
                    yield batch
                start += batch.num_rows

    for batch in mapped(work, batches()):
        number, start = begun.popleft()
        corpus = batch["corpus"].dictionary_encode()
        ids = np.array([names.setdefault(name, len(names)) for name in corpus.dictionary.to_pylist()], np.int16)
        rows = pa.Table.from_batches([batch.drop_columns(["corpus"])])
        rows = rows.append_column("corpus", [ids[corpus.indices.to_numpy()]])
        yield number, rows.append_column("row", [np.arange(start, start + batch.num_rows, dtype=np.int32)])


def _insert(duck: duckdb.DuckDBPyConnection, table: str, pair: int, rows: pa.Table) -> None:
    duck.register("rows", rows)
    duck.execute(f"INSERT INTO {table} BY NAME SELECT $1 AS pair, * FROM rows", [pair])
    duck.unregister("rows")


def _set_dev_aside(duck: duckdb.DuckDBPyConnection, dev_rows: int) -> np.ndarray:
    """Table offers: the bitext, and of each row why it is not free; returns the keys of all dev segments, ascending."""
    duck.execute(
        """
        CREATE TABLE dev AS SELECT pair, row, src_key, tgt_key FROM (
            SELECT pair, row, src_key, tgt_key, row_number() OVER (PARTITION BY pair ORDER BY held, row) AS nth,
                   count(*) OVER (PARTITION BY pair) AS rows
            FROM bitext
        ) WHERE nth <= least($1, floor(rows * $2))
        """,
        [dev_rows, DEV_SHARE],
    )
    duck.execute("CREATE TABLE held AS SELECT src_key AS key FROM dev UNION SELECT tgt_key FROM dev")
    duck.execute("DELETE FROM held WHERE key = $1", [NONE])
    duck.execute(
        """
        CREATE TABLE offers AS
        SELECT 0::TINYINT AS kind, pair, corpus, row, pick, place, score, cost,
               CASE WHEN dev.pair IS NOT NULL THEN 'dev'
                    WHEN src_key IN (FROM held) OR tgt_key IN (FROM held) THEN 'dev_overlap' END AS fate
        FROM bitext LEFT JOIN (SELECT pair, row FROM dev) AS dev USING (pair, row)
        """
    )
    held = duck.sql("SELECT key FROM held ORDER BY key").fetchnumpy()["key"]
    duck.execute("DROP TABLE bitext; DROP TABLE dev; DROP TABLE held")
    return held


def _load_instructions(
    duck: duckdb.DuckDBPyConnection,
    recipe: Recipe,
    store: Store,
    places: list[Place],
    kinds: list[str],
    names: dict[str, int],
    held: np.ndarray,
    count: budget.Count | None,
    on_progress: ProgressCallback,
) -> None:
    """Add the conversations to table offers. Of those that say the same one is free, in a pair that a draw decides."""
    duck.execute(
        "CREATE TABLE instructions (kind TINYINT, pair SMALLINT, row INTEGER, corpus SMALLINT, overlap BOOLEAN,"
        " content UBIGINT, owner UBIGINT, pick UBIGINT, place UBIGINT, cost INTEGER)"
    )
    work = partial(_instruction_numbers, seed=recipe.seed, kinds=kinds, held=held, count=count)
    for number, rows in _numbered(work, store, "instructions", places, names, on_progress):
        owner = seeded_order(rows["content"].to_numpy(), recipe.seed, "owner", str(places[number]))
        _insert(duck, "instructions", number, rows.append_column("owner", [owner]))
    duck.execute(
        """
        INSERT INTO offers
        SELECT kind, pair, corpus, row, pick, place, NULL AS score, cost,
               CASE WHEN overlap THEN 'dev_overlap' WHEN nth > 1 THEN 'repeat' END AS fate
        FROM (
            SELECT *, row_number() OVER (PARTITION BY kind, content, overlap ORDER BY owner, pair, row) AS nth
            FROM instructions
        )
        """
    )
    duck.execute("DROP TABLE instructions")


def _instruction_numbers(
    batch: pa.RecordBatch, seed: int, kinds: list[str], held: np.ndarray, count: budget.Count | None
) -> pa.RecordBatch:
    n = batch.num_rows
    said = batch["messages"].flatten().field("content")
    turns = pa.ListArray.from_arrays(_offsets(batch["messages"]), said)
    content = digests(pc.binary_join(turns, "\x1f").to_pylist())  # a separator that no text holds
    own = pc.list_element(pc.split_pattern(batch["template"], "/", max_splits=1), 0)
    found = _among(batch["keys"].flatten().to_numpy(), held)
    cost = np.ones(n, np.int64)
    if count:
        cost = np.bincount(pc.list_parent_indices(turns).to_numpy(), weights=count(said), minlength=n).astype(np.int64)
    return pa.record_batch(
        {
            "kind": pc.index_in(own, value_set=pa.array(kinds)).cast(pa.int8()),
            "corpus": batch["corpus"],
            "overlap": np.bincount(pc.list_parent_indices(batch["keys"]).to_numpy()[found], minlength=n) > 0,
            "content": content,
            "pick": seeded_order(content, seed, "pick"),
            "place": seeded_order(content, seed, "place"),
            "cost": cost,
        }
    )


def _offsets(lists: pa.ListArray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]), pa.int32())


def _among(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Whether each value is in `ascending`."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    return ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values


def _chosen(duck: duckdb.DuckDBPyConnection, corpus: CorpusConfig, turn: bool) -> dict[str, RowAssignments]:
    """Where each row of each part goes: in the order of a draw."""
    first_task = 1 + len(corpus.instructions)
    queries = {
        "bitext": f"SELECT pair, row, place, even AND {turn} AS turned FROM chosen WHERE kind = 0",
        "instructions": f"SELECT pair, row, place, false AS turned FROM chosen WHERE kind > 0 AND kind < {first_task}",
        "dev": "SELECT pair, row, place, false AS turned FROM offers WHERE fate = 'dev'",
    }
    if corpus.tasks:
        queries["tasks"] = f"SELECT pair, row, place, false AS turned FROM chosen WHERE kind >= {first_task}"
    out = {}
    for part, query in queries.items():
        found = duck.sql(f"{query} ORDER BY pair, row").fetchnumpy()
        position = np.empty(len(found["row"]), np.int32)
        position[np.argsort(found["place"], kind="stable")] = np.arange(len(position))
        out[part] = RowAssignments(found["pair"], found["row"], position, found["turned"])
    return out


def _dropped(
    duck: duckdb.DuckDBPyConnection, store: Store, places: list[Place], kinds: list[str]
) -> list[dict[str, Any]]:
    """The first SAMPLE_ROWS conversations of each kind that dev overlap and repetition drop, to look at."""
    found = duck.sql(
        f"""
        SELECT pair, row, kind, fate FROM (
            SELECT *, row_number() OVER (PARTITION BY kind, fate ORDER BY pair, row) AS nth
            FROM offers WHERE kind > 0 AND fate IS NOT NULL
        ) WHERE nth <= {SAMPLE_ROWS} ORDER BY pair, row
        """
    ).fetchall()
    out = []
    for pair, group in groupby(found, key=lambda item: item[0]):
        wanted = {row: (kind, fate) for _, row, kind, fate in group}
        start = 0
        for batch in _stored(store, "instructions", places[pair]):
            for row in [row for row in wanted if start <= row < start + batch.num_rows]:
                kind, fate = wanted.pop(row)
                some = as_samples(batch.slice(row - start, 1), f"{kinds[kind]} {places[pair]}")
                out.append(shortened({"step": fate, "score": None, **some.to_pylist()[0]}))
            start += batch.num_rows
            if not wanted:
                break
    return sorted(out, key=lambda item: (item["step"], item["corpus"]))


def _shuffled(
    folder: Path, store: Store, places: list[Place], chosen: dict[str, RowAssignments], on_progress: ProgressCallback
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(part, batch) in the order of `chosen` and of positions; every part begins with an empty batch."""
    pairs = [place for place in places if isinstance(place, Pair)]  # the first of them
    with TemporaryDirectory(dir=folder) as scratch:
        for asset, whose, parts in (
            ("decontaminated_bitext", pairs, ("bitext", "dev")),
            ("instructions", places, ("instructions", "tasks")),
        ):
            _spread(
                Path(scratch),
                store,
                asset,
                whose,
                {part: chosen[part] for part in parts if part in chosen},
                on_progress,
            )
        for part in chosen:
            schema = PARTS[part]
            yield part, empty(schema)
            rows = len(chosen[part].row)
            for start in range(0, rows, BATCH_ROWS):
                on_progress(start, rows, f"writing {part}")
                with pa.ipc.open_stream(pa.OSFile(str(_file(Path(scratch), part, start)))) as stream:
                    found = stream.read_all().combine_chunks()
                order = np.argsort(found["position"].to_numpy())
                for batch in found.select(schema.names).take(order).combine_chunks().to_batches():
                    yield part, pa.record_batch(batch.columns, schema=schema)


def _spread(
    folder: Path,
    store: Store,
    asset: str,
    whose: Sequence[Place],
    parts: dict[str, RowAssignments],
    on_progress: ProgressCallback,
) -> None:
    """Write the rows taken with their positions, each to the file of the batch it goes to."""
    with ExitStack() as stack:
        files = {
            part: [
                stack.enter_context(
                    pa.ipc.new_stream(
                        str(_file(folder, part, start)), PARTS[part].append(pa.field("position", pa.int32()))
                    )
                )
                for start in range(0, len(places.row), BATCH_ROWS)
            ]
            for part, places in parts.items()
        }
        for number, place in enumerate(whose):
            on_progress(number, len(whose), f"reading {asset} of {place} again")
            own = {part: places.of(number) for part, places in parts.items()}
            start = 0
            for batch in _stored(store, asset, place):
                for part, places in own.items():
                    rows = _taken(batch.select(PARTS[part].names), start, places)
                    edges = [BATCH_ROWS * n for n in range(len(files[part]) + 1)]
                    cuts = np.searchsorted(rows["position"].to_numpy(), edges)
                    for file, (first, last) in zip(files[part], pairwise(cuts.tolist()), strict=True):
                        if first < last:
                            file.write_batch(rows.slice(first, last - first))
                start += batch.num_rows


def _file(folder: Path, part: str, start: int) -> Path:
    return folder / f"{part}-{start // BATCH_ROWS:05}.arrow"


def _taken(batch: pa.RecordBatch, start: int, places: RowAssignments) -> pa.RecordBatch:
    """The rows of a batch that are taken, by their positions; `start` is the number of its first row."""
    first, last = np.searchsorted(places.row, [start, start + batch.num_rows])
    order = first + np.argsort(places.position[first:last])
    rows, turned = batch.take(pa.array(places.row[order] - start)), pa.array(places.turned[order])
    if pc.any(turned).as_py():
        for one, other in (("src", "tgt"), ("src_lang", "tgt_lang")):
            a, b = rows[one], rows[other]
            rows = rows.set_column(rows.schema.get_field_index(one), rows.schema.field(one), pc.if_else(turned, b, a))
            rows = rows.set_column(
                rows.schema.get_field_index(other), rows.schema.field(other), pc.if_else(turned, a, b)
            )
    return rows.append_column(pa.field("position", pa.int32()), pa.array(places.position[order]))


def _ledger(
    duck: duckdb.DuckDBPyConnection, places: list[Place], kinds: list[str], receipts: budget.Receipts
) -> list[LedgerRow]:
    """STEPS; the corpus of a row is its kind and pair."""
    counted = duck.sql("SELECT kind, pair, coalesce(fate, ''), count(*) FROM offers GROUP BY ALL").fetchall()
    found = {(kinds[kind], str(places[pair]), fate): rows for kind, pair, fate, rows in counted}
    out = []
    for row in receipts.pairs:
        kind, pair = row["kind"], row["pair"]
        dropped = {step: found.get((kind, pair, step), 0) for step in STEPS}
        dropped |= {"cap": row["available"] - row["capped"], "budget": row["capped"] - row["taken"]}
        left = row["available"] + sum(dropped[step] for step in ("dev", "dev_overlap", "repeat"))
        for step in STEPS:
            out.append(
                LedgerRow(
                    step=step,
                    corpus=f"{kind} {pair}",
                    into=left,
                    dropped=dropped[step],
                    kept=left - dropped[step],
                )
            )
            left -= dropped[step]
        assert left == row["taken"], f"{left} rows left of {row}"
    return out
