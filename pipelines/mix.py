"""Stage: decontaminated_bitext and instructions of all pairs -> training_mix, under the recipe's budget.

Dev first: of every pair, the rows whose pivot side has the smallest draws. Draws hang on the text alone, so pairs that
share their pivot texts set the same ones aside. A row that shares a segment, on either side and in any pair, with a dev
row trains nothing. What is left is taken in the order of another draw until its quota is full: a row's place in that
order hangs on nothing but the row and the seed, so a further pair only moves the quotas.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.dedup import connection
from pipelines.languages import Pair
from pipelines.ledger import BATCH_ROWS, Samples, empty, rebatch
from pipelines.progress import Tell, silent
from pipelines.schema import BITEXT, INSTRUCTION
from pipelines.segments import NONE, digests, draws, keys
from pipelines.store import LedgerRow, Manifest, Store, fingerprint

DEV_SHARE = 0.1
"""At most this part of a pair becomes dev."""

PARTS = {"bitext": BITEXT, "instructions": INSTRUCTION, "dev": BITEXT}


def run(recipe: Recipe, store: Store, tell: Tell = silent) -> Manifest:
    """Set dev rows aside, divide the budget among kinds and pairs, and write what each may give in a shuffled order."""
    corpus = recipe.corpus
    pairs = sorted(corpus.pairs)
    kinds = ["bitext", *(item.name for item in corpus.instructions)]
    manifests = {
        f"{asset}/{pair}": store.require(asset, pair)
        for asset in ("decontaminated_bitext", "instructions")
        for pair in pairs
    }
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    settings = {
        "seed": recipe.seed,
        "budget": corpus.budget.model_dump(mode="json"),
        "dev_rows": corpus.dev_rows,
        "pivot": corpus.pivot,
        "kinds": kinds,
    }
    print_ = fingerprint(
        __name__,
        settings,
        inputs,
        modules=("pipelines.segments", "pipelines.matching", "pipelines.ledger", "pipelines.dedup"),
        libraries=("pyarrow", "duckdb", "numpy"),
    )
    if done := store.unchanged("training_mix", None, print_):
        return done
    with store.writing("training_mix") as out:
        with connection(out.path / "duckdb") as duck:
            _load_bitext(duck, recipe, store, pairs, tell)
            held = _set_dev_aside(duck, corpus.dev_rows)
            _load_instructions(duck, recipe, store, pairs, held, tell)
            receipt = _choose(duck, recipe, pairs, kinds)
            rows = {part: sum(row["taken"] for row in receipt if (row["kind"] == "bitext") == (part == "bitext"))
                    for part in ("bitext", "instructions")}  # fmt: skip
            if not rows["bitext"] and not corpus.allow_empty:
                raise ValueError(
                    f"training_mix: found no bitext row to train on in {len(pairs)} pairs. Allowed: at least one. "
                    f"Lower corpus.dev_rows, raise the share of bitext, or set corpus.allow_empty: true."
                )
            samples = Samples()
            for part in PARTS:
                for batch in rebatch(_chosen(duck, part)):
                    out.write(batch, part)
                    if part == "bitext":
                        samples.see("kept", batch)
                tell(len(pairs), len(pairs), f"writing {part}")
            numbers: dict[str, Any] = {
                "rows_in": sum(manifest.rows["data"] for manifest in manifests.values()),
                "rows_out": sum(rows.values()),
                "budget": corpus.budget.rows,
                "dev_rows": duck.sql("SELECT count(*) FROM bitext WHERE dev").fetchall()[0][0],
                "receipt": receipt,
            }
            ledger = _ledger(duck, pairs, receipt)
        return out.commit(
            print_,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger,
            numbers=numbers,
            samples={"kept": samples.of("kept"), "dropped": []},
            corpora={name: facts for manifest in manifests.values() for name, facts in manifest.corpora.items()},
        )


def fill(total: int, weights: Sequence[float], sizes: Sequence[int]) -> list[int]:
    """Divide `total` rows in proportion to `weights`; who has fewer rows than that gives the rest to the others.

    Whole numbers that sum to `total`, or to all the rows of those with a weight above 0 where these are fewer; what
    rounding leaves goes to the largest remainders, the first of equals.
    """
    given = [0] * len(sizes)
    active = [i for i, weight in enumerate(weights) if weight > 0 and sizes[i] > 0]
    left = min(total, sum(sizes[i] for i in active))
    while active:
        whole = sum(weights[i] for i in active)
        full = [i for i in active if left * weights[i] / whole >= sizes[i]]
        if not full:
            exact = [left * weights[i] / whole for i in active]
            for i, share in zip(active, exact, strict=True):
                given[i] = int(share)
            short = left - sum(given[i] for i in active)
            order = sorted(range(len(active)), key=lambda k: (int(exact[k]) - exact[k], k))
            for k in order[:short]:
                given[active[k]] += 1
            break
        for i in full:
            given[i] = sizes[i]
            left -= sizes[i]
        active = [i for i in active if i not in full]
    return given


def shares(kinds: Sequence[str], named: dict[str, float]) -> list[float]:
    """The share of each kind; those the recipe does not name have what is left in equal parts."""
    rest = [kind for kind in kinds if kind not in named]
    left = max(0.0, 1 - sum(named.values()))
    return [named[kind] if kind in named else left / len(rest) for kind in kinds]


def _load_bitext(duck: duckdb.DuckDBPyConnection, recipe: Recipe, store: Store, pairs: list[Pair], tell: Tell) -> None:
    """Table bitext: one row per row, with its number within the pair, its keys and its draws."""
    duck.execute(
        "CREATE TABLE bitext (pair SMALLINT, row BIGINT, dev BOOLEAN, overlap BOOLEAN, src_key UBIGINT,"
        " tgt_key UBIGINT, held UBIGINT, pick UBIGINT, place UBIGINT, src VARCHAR, tgt VARCHAR, corpus VARCHAR)"
    )
    duck.execute("CREATE TABLE names (pair SMALLINT, src_lang VARCHAR, tgt_lang VARCHAR)")
    for number, pair in enumerate(pairs):
        tell(number, len(pairs), f"reading bitext of {pair}")
        duck.execute("INSERT INTO names VALUES ($1, $2, $3)", [number, *pair])
        start, pivot = 0, "tgt" if pair.tgt == recipe.corpus.pivot else "src"
        for batch in store.batches("decontaminated_bitext", pair):
            side = {name: keys(batch[name]) for name in ("src", "tgt")}
            content = draws(side["src"], "src") ^ draws(side["tgt"], "tgt")
            rows = pa.table(
                {
                    "pair": pa.array(np.full(batch.num_rows, number, np.int16)),
                    "row": np.arange(start, start + batch.num_rows),
                    "src_key": side["src"],
                    "tgt_key": side["tgt"],
                    "held": draws(side[pivot], recipe.seed, "dev"),
                    "pick": draws(content, recipe.seed, "pick"),
                    "place": draws(content, recipe.seed, "place"),
                    "src": batch["src"],
                    "tgt": batch["tgt"],
                    "corpus": batch["corpus"],
                }
            )
            duck.register("rows", rows)
            duck.execute("INSERT INTO bitext BY NAME SELECT *, false AS dev, false AS overlap FROM rows")
            duck.unregister("rows")
            start += batch.num_rows


def _set_dev_aside(duck: duckdb.DuckDBPyConnection, dev_rows: int) -> np.ndarray:
    """Mark dev rows and the rows that share a segment with one; return the keys of all dev segments."""
    duck.execute(
        """
        UPDATE bitext SET dev = true FROM (
            SELECT pair, row, row_number() OVER (PARTITION BY pair ORDER BY held, row) AS nth,
                   count(*) OVER (PARTITION BY pair) AS rows FROM bitext
        ) AS ranked
        WHERE bitext.pair = ranked.pair AND bitext.row = ranked.row
          AND nth <= least($1, floor(rows * $2))
        """,
        [dev_rows, DEV_SHARE],
    )
    duck.execute(
        "CREATE TABLE held AS SELECT src_key AS key FROM bitext WHERE dev UNION SELECT tgt_key FROM bitext WHERE dev"
    )
    duck.execute("DELETE FROM held WHERE key = $1", [NONE])
    duck.execute(
        "UPDATE bitext SET overlap = true WHERE NOT dev AND (src_key IN (FROM held) OR tgt_key IN (FROM held))"
    )
    return duck.sql("SELECT key FROM held ORDER BY key").fetchnumpy()["key"]


def _load_instructions(
    duck: duckdb.DuckDBPyConnection, recipe: Recipe, store: Store, pairs: list[Pair], held: np.ndarray, tell: Tell
) -> None:
    """Table instructions, likewise; `again` marks a conversation that an earlier pair or row has too."""
    duck.execute(
        "CREATE TABLE instructions (pair SMALLINT, row BIGINT, kind VARCHAR, overlap BOOLEAN, again BOOLEAN, content"
        " UBIGINT, pick UBIGINT, place UBIGINT, messages STRUCT(role VARCHAR, content VARCHAR)[], src_lang VARCHAR,"
        " tgt_lang VARCHAR, corpus VARCHAR, template VARCHAR)"
    )
    for number, pair in enumerate(pairs):
        tell(number, len(pairs), f"reading instructions of {pair}")
        start = 0
        for batch in store.batches("instructions", pair):
            parents = pc.list_parent_indices(batch["keys"]).to_numpy()
            found = np.isin(pc.list_flatten(batch["keys"]).to_numpy(), held)
            content = digests(_contents(batch["messages"]))
            rows = pa.table(
                {
                    "pair": pa.array(np.full(batch.num_rows, number, np.int16)),
                    "row": np.arange(start, start + batch.num_rows),
                    "kind": pc.list_element(pc.split_pattern(batch["template"], "/", max_splits=1), 0),
                    "overlap": np.bincount(parents[found], minlength=batch.num_rows) > 0,
                    "content": content,
                    "pick": draws(content, recipe.seed, "pick"),
                    "place": draws(content, recipe.seed, "place"),
                    **{name: batch[name] for name in INSTRUCTION.names},
                }
            )
            duck.register("rows", rows)
            duck.execute("INSERT INTO instructions BY NAME SELECT *, false AS again FROM rows")
            duck.unregister("rows")
            start += batch.num_rows
    duck.execute(
        """
        UPDATE instructions SET again = true FROM (
            SELECT pair, row, row_number() OVER (PARTITION BY kind, content ORDER BY pair, row) AS nth
            FROM instructions WHERE NOT overlap
        ) AS ranked
        WHERE instructions.pair = ranked.pair AND instructions.row = ranked.row AND nth > 1
        """
    )


def _contents(messages: pa.Array) -> list[str]:
    """One text per conversation: all it says, with separators that no text holds."""
    content = pc.struct_field(pc.list_flatten(messages), "content").to_pylist()
    ends = np.cumsum(pc.list_value_length(messages).to_numpy()).tolist()
    return ["\x1f".join(content[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _choose(
    duck: duckdb.DuckDBPyConnection, recipe: Recipe, pairs: list[Pair], kinds: list[str]
) -> list[dict[str, Any]]:
    """Table chosen: the rows that train. Returns a receipt: {kind, pair, available, quota, taken} each."""
    duck.execute(
        """
        CREATE VIEW free AS
            SELECT 'bitext' AS kind, pair, row, pick FROM bitext WHERE NOT dev AND NOT overlap
            UNION ALL SELECT kind, pair, row, pick FROM instructions WHERE NOT overlap AND NOT again
        """
    )
    counted = {
        (kind, pair): n for kind, pair, n in duck.sql("SELECT kind, pair, count(*) FROM free GROUP BY ALL").fetchall()
    }
    sizes = [[counted.get((kind, number), 0) for number in range(len(pairs))] for kind in kinds]
    budget = recipe.corpus.budget
    totals = fill(budget.rows, shares(kinds, budget.shares), [sum(row) for row in sizes])
    receipt, quotas = [], []
    for kind, total, available in zip(kinds, totals, sizes, strict=True):
        weights = [n**budget.language_alpha if n else 0 for n in available]
        whole = sum(weights) or 1
        taken = fill(total, weights, available)
        for number, pair in enumerate(pairs):
            quotas.append((kind, number, taken[number]))
            receipt.append(
                {
                    "kind": kind,
                    "pair": str(pair),
                    "available": available[number],
                    "quota": round(total * weights[number] / whole, 1),
                    "taken": taken[number],
                }
            )
    duck.execute("CREATE TABLE quotas (kind VARCHAR, pair SMALLINT, quota BIGINT)")
    duck.executemany("INSERT INTO quotas VALUES ($1, $2, $3)", quotas)
    duck.execute(
        """
        CREATE TABLE chosen AS SELECT kind, pair, row FROM (
            SELECT *, row_number() OVER (PARTITION BY kind, pair ORDER BY pick, row) AS nth FROM free
        ) JOIN quotas USING (kind, pair) WHERE nth <= quota
        """
    )
    return receipt


def _chosen(duck: duckdb.DuckDBPyConnection, part: str) -> Iterator[pa.RecordBatch]:
    """The rows of a part in their shuffled order."""
    schema = PARTS[part]
    yield empty(schema)
    if part == "instructions":
        query = "FROM instructions SEMI JOIN chosen USING (kind, pair, row)"
    elif part == "dev":
        query = "FROM bitext JOIN names USING (pair) WHERE dev"
    else:
        query = "FROM bitext JOIN names USING (pair) SEMI JOIN (FROM chosen WHERE kind = 'bitext') USING (pair, row)"
    ordered = duck.sql(f"SELECT {', '.join(schema.names)} {query} ORDER BY place, pair, row")
    for batch in ordered.to_arrow_reader(BATCH_ROWS):
        yield pa.record_batch([batch[field.name].cast(field.type) for field in schema], schema=schema)


def _ledger(duck: duckdb.DuckDBPyConnection, pairs: list[Pair], receipt: list[dict[str, Any]]) -> list[LedgerRow]:
    """Steps dev, dev_overlap, repeat and budget; the corpus of a row is its kind and pair."""
    counts = duck.sql(
        """
        SELECT 'bitext', pair, count(*), count(*) FILTER (dev), count(*) FILTER (overlap), 0 FROM bitext GROUP BY ALL
        UNION ALL
        SELECT kind, pair, count(*), 0, count(*) FILTER (overlap), count(*) FILTER (again)
        FROM instructions GROUP BY ALL
        """
    ).fetchall()
    found = {(kind, str(pairs[pair])): numbers for kind, pair, *numbers in counts}
    out = []
    for row in receipt:
        left, dev, overlap, again = found.get((row["kind"], row["pair"]), (0, 0, 0, 0))
        steps = {"dev": dev, "dev_overlap": overlap, "repeat": again}
        for step, dropped in {**steps, "budget": row["available"] - row["taken"]}.items():
            corpus = f"{row['kind']} {row['pair']}"
            out.append(LedgerRow(step=step, corpus=corpus, into=left, dropped=dropped, kept=left - dropped))
            left -= dropped
        assert left == row["taken"], f"{left} rows left of {row}"
    return out
