"""Stage: decontaminated_bitext -> instructions. Each instruction type renders the bitext, and adds data of its own."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.instructions import RENDERED, InstructionType
from pipelines.languages import Pair
from pipelines.ledger import empty, rebatch
from pipelines.progress import Tell, silent
from pipelines.schema import INSTRUCTION, check
from pipelines.segments import NONE, generator, keys
from pipelines.store import LedgerRow, Manifest, Store, fingerprint

STEP = "evaluation_overlap"
SAMPLES = 10
STORED = INSTRUCTION.append(pa.field("keys", pa.list_(pa.uint64()), nullable=False))
"""INSTRUCTION and the keys of the segments a row was made of: by them the mix keeps dev text out of training."""


def run(recipe: Recipe, store: Store, pair: Pair, tell: Tell = silent) -> Manifest:
    """Render every row once per instruction type, and drop what was made of a text of the recipe's evals.

    The bitext no longer holds such texts, data of the types' own may.
    """
    upstream, held_out = store.require("decontaminated_bitext", pair), store.require("eval_text")
    inputs = {"decontaminated_bitext": upstream.fingerprint, "eval_text": held_out.content()}
    types: list[InstructionType] = recipe.corpus.instructions
    settings = {"seed": recipe.seed, "pins": [item.pin(pair, store.sources) for item in types]}
    print_ = fingerprint(
        __name__,
        settings,
        inputs,
        plugins=types,
        modules=("pipelines.instructions", "pipelines.segments", "pipelines.matching", "pipelines.ledger"),
        libraries=("pyarrow", "numpy"),
    )
    if done := store.unchanged("instructions", pair, print_):
        return done
    texts = store.table("eval_text")
    texts = texts.filter(pc.is_in(texts["lang"], pa.array(list(pair))))
    forbidden = np.setdiff1d(keys(texts["text"]), [NONE])
    rows_in = upstream.rows["data"]
    into, dropped, templates = Counter[str](), Counter[str](), Counter[str]()
    samples: list[dict[str, str]] = []
    corpora = dict(upstream.corpora)
    with store.writing("instructions", pair) as out:
        out.write(empty(STORED))
        for item in types:
            for batch in rebatch(_rendered(item, recipe, store, pair, tell, rows_in)):
                check(batch, RENDERED, f"instruction type '{item.name}'")
                found = keys(pc.list_flatten(batch["segments"]))
                parents = pc.list_parent_indices(batch["segments"]).to_numpy()
                overlaps = np.bincount(parents[np.isin(found, forbidden)], minlength=batch.num_rows) > 0
                stored = _stored(batch, found).filter(pa.array(~overlaps))
                into[item.name] += batch.num_rows
                dropped[item.name] += int(overlaps.sum())
                templates.update(stored["template"].to_pylist())
                samples += _samples(stored, SAMPLES - sum(row["type"] == item.name for row in samples), item.name)
                out.write(stored)
            corpora |= item.provenance(pair, store.sources)
        kept = sum(into.values()) - sum(dropped.values())
        if types and not kept and not recipe.corpus.allow_empty:
            raise ValueError(
                f"instructions of {pair}: found none in {rows_in:,} rows of bitext. Allowed: at least one row. Change "
                f"corpus.instructions, or set corpus.allow_empty: true."
            )
        ledger = [
            LedgerRow(step=STEP, corpus=name, into=n, dropped=dropped[name], kept=n - dropped[name])
            for name, n in into.items()
        ]
        return out.commit(
            print_,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger,
            numbers={
                "rows_in": rows_in,
                "rows_out": kept,
                **{f"rows {name}": n for name, n in sorted(templates.items())},
            },
            samples={"kept": [{"src": row["src"], "tgt": row["tgt"]} for row in samples], "dropped": []},
            corpora=corpora,
        )


def _rendered(
    item: InstructionType, recipe: Recipe, store: Store, pair: Pair, tell: Tell, total: int
) -> Iterator[pa.RecordBatch]:
    """RENDERED batches of one instruction type: of the bitext, then of its own data."""
    yield empty(RENDERED)
    rng, seen = generator(recipe.seed, __name__, str(pair), item.name), 0
    for batch in rebatch(store.batches("decontaminated_bitext", pair)):
        yield item.render(batch, rng)
        seen += batch.num_rows
        tell(seen, total, item.name)
    yield from item.extra(pair, rng, store.sources)


def _stored(batch: pa.RecordBatch, found: np.ndarray) -> pa.RecordBatch:
    """A RENDERED batch as STORED; `found` are the keys of all its segments, one after another."""
    lengths = pc.list_value_length(batch["segments"]).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    listed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(found))
    return pa.record_batch(
        [*(batch[name] for name in INSTRUCTION.names), listed.cast(STORED.field("keys").type)], STORED
    )


def _samples(batch: pa.RecordBatch, wanted: int, kind: str) -> list[dict[str, str]]:
    """Up to `wanted` conversations spread evenly over the batch, prompt as src and response as tgt."""
    places = np.linspace(0, batch.num_rows - 1, num=max(0, min(wanted, batch.num_rows))).astype(int)
    turns = [batch["messages"][int(place)].as_py() for place in places]
    return [
        {"type": kind, "src": "\n".join(t["content"] for t in turn[:-1])[:300], "tgt": turn[-1]["content"][:300]}
        for turn in turns
    ]
