"""Stage: decontaminated_bitext -> instructions. Each instruction type renders the bitext, and adds data of its own."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.decontaminate import Forbidden, pins
from pipelines.errors import UserError, with_batch_context
from pipelines.instructions import RENDERED, InstructionType
from pipelines.languages import Pair
from pipelines.ledger import empty, rebatch
from pipelines.licences import require
from pipelines.progress import Tell, silent
from pipelines.schema import INSTRUCTION, check
from pipelines.segments import generator, keys
from pipelines.storage.fingerprint import fingerprint
from pipelines.store import LedgerRow, Manifest, Store

SAMPLES = 10
STORED = INSTRUCTION.append(pa.field("keys", pa.list_(pa.uint64()), nullable=False))
"""INSTRUCTION and the keys of the segments a row was made of: by them the mix keeps dev text out of training."""


def run(recipe: Recipe, store: Store, pair: Pair, tell: Tell = silent) -> Manifest:
    """Render every row once per instruction type, and drop what was made of a text training must not hold.

    The bitext no longer holds such texts, data of the types' own may. In which of the pair's languages a segment is
    does not matter here.
    """
    upstream, held_out = store.require("decontaminated_bitext", pair), store.require("eval_text")
    inputs = {"decontaminated_bitext": upstream.fingerprint, "eval_text": held_out.content()}
    types: list[InstructionType] = recipe.corpus.instructions
    for item in types:
        require(item.provenance(pair, store.sources), recipe.corpus.licences, f"instruction type '{item.name}', {pair}")
    settings = {"seed": recipe.seed, "pins": [item.pin(pair, store.sources) for item in types]}
    settings["decontaminate"] = pins(recipe.corpus.decontaminate)
    print_ = fingerprint(
        __name__,
        settings,
        inputs,
        plugins=types,
        libraries=("pyarrow", "numpy"),
    )
    if done := store.unchanged("instructions", pair, print_):
        return done
    forbidden = [Forbidden(recipe.corpus.decontaminate, store, lang) for lang in pair]
    steps = forbidden[0].steps
    rows_in = upstream.rows["data"]
    into, dropped, templates = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[str]()
    kept = 0
    samples: list[dict[str, str]] = []
    corpora = dict(upstream.corpora)
    with store.writing("instructions", pair) as out:
        out.write(empty(STORED))
        for item in types:
            rendered = _rendered(item, recipe, store, pair, tell, rows_in)
            for batch in rebatch(with_batch_context(rendered, f"instruction type '{item.name}', {pair}")):
                check(batch, RENDERED, f"instruction type '{item.name}'")
                segments = pc.list_flatten(batch["segments"])
                gone = np.zeros(batch.num_rows, dtype=bool)
                for step, rows in zip(steps, overlapping(batch, segments, forbidden), strict=True):
                    into[step, item.name] += int((~gone).sum())
                    dropped[step, item.name] += int((rows & ~gone).sum())
                    gone |= rows
                stored = as_stored(batch, keys(segments)).filter(pa.array(~gone))
                kept += stored.num_rows
                templates.update(stored["template"].to_pylist())
                samples += shown(stored, SAMPLES - sum(row["type"] == item.name for row in samples), item.name)
                out.write(stored)
            corpora |= item.provenance(pair, store.sources)
        if types and not kept and not recipe.corpus.allow_empty:
            raise UserError(
                f"instructions of {pair}: found none in {rows_in:,} rows of bitext. Allowed: at least one row. Change "
                f"corpus.instructions, or set corpus.allow_empty: true."
            )
        ledger = [
            LedgerRow(step=step, corpus=item.name, into=n, dropped=lost, kept=n - lost)
            for step in steps
            for item in types
            for n, lost in [(into[step, item.name], dropped[step, item.name])]
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


def overlapping(batch: pa.RecordBatch, segments: pa.Array, forbidden: list[Forbidden]) -> np.ndarray:
    """bool [steps, N]: whether a row was made of a segment that is forbidden in any of the languages."""
    each = segments.dictionary_encode()  # most segments were made into several rows
    scores = np.fmax.reduce([lang.held(each.dictionary) for lang in forbidden])
    held = ~np.isnan(scores)[:, each.indices.to_numpy()]
    parents = pc.list_parent_indices(batch["segments"]).to_numpy()
    return np.stack([np.bincount(parents[hit], minlength=batch.num_rows) > 0 for hit in held])


def as_stored(batch: pa.RecordBatch, found: np.ndarray) -> pa.RecordBatch:
    """A RENDERED batch as STORED; `found` are the keys of all its segments, one after another."""
    lengths = pc.list_value_length(batch["segments"]).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    listed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(found))
    return pa.record_batch(
        [*(batch[name] for name in INSTRUCTION.names), listed.cast(STORED.field("keys").type)], STORED
    )


def shown(batch: pa.RecordBatch, wanted: int, kind: str) -> list[dict[str, str]]:
    """Up to `wanted` conversations spread evenly over the batch, prompt as src and response as tgt."""
    places = np.linspace(0, batch.num_rows - 1, num=max(0, min(wanted, batch.num_rows))).astype(int)
    turns = [batch["messages"][int(place)].as_py() for place in places]
    return [
        {"type": kind, "src": "\n".join(t["content"] for t in turn[:-1])[:300], "tgt": turn[-1]["content"][:300]}
        for turn in turns
    ]
