"""Stage: decontaminated_bitext -> instructions. Each instruction type renders the bitext, and adds data of its own."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import languages
from pipelines.config import Recipe
from pipelines.errors import UserError, with_batch_context
from pipelines.instructions import RENDERED, InstructionType
from pipelines.languages import Pair
from pipelines.licences import require
from pipelines.progress import ProgressCallback, no_progress
from pipelines.schema import INSTRUCTION, check
from pipelines.stages.decontaminate import EVALUATION, Forbidden, pins
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.ledger import KEPT, Samples, empty, rebatch
from pipelines.storage.manifest import LedgerRow, Manifest
from pipelines.storage.store import Store
from pipelines.text.identifying import Conversation, Frequency, identifying, sentence_keys
from pipelines.text.segments import generator, keys

IDENTIFYING = pa.field("identifying", pa.list_(pa.string()), nullable=False)
"""The texts that identify a row: of bitext, all that it is made of."""
STORED = INSTRUCTION.append(pa.field("keys", pa.list_(pa.uint64()), nullable=False))
"""INSTRUCTION and the keys of the texts that identify a row: by them the mix keeps dev text out of training."""

SALT = "pipelines.instruct"
"""Salt of the draws of wordings: the module's first name, kept when it moved, so that the same rows are drawn."""


def run(recipe: Recipe, store: Store, pair: Pair, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Render every row once per instruction type, and drop what was made of a text training must not hold.

    The bitext no longer holds such texts, data of the types' own may: of these rows the texts that identify them are
    compared (`identifying`). In which of the pair's languages a segment is does not matter here.
    """
    upstream, eval_text = store.require("decontaminated_bitext", pair), store.require("eval_text")
    inputs = {"decontaminated_bitext": upstream.fingerprint, "eval_text": eval_text.content()}
    types: list[InstructionType] = recipe.corpus.instructions
    for item in types:
        require(item.provenance(pair, store.sources), recipe.corpus.licences, f"instruction type '{item.name}', {pair}")
    settings = {"seed": recipe.seed, "pins": [item.pin(pair, store.sources) for item in types]}
    settings["decontaminate"] = pins(recipe.corpus.decontaminate)
    settings["names"] = [languages.name(lang, tuple(recipe.corpus.languages)) for lang in pair]
    fingerprint = compute_fingerprint(
        __name__,
        settings,
        inputs,
        plugins=types,
        libraries=("pyarrow", "numpy"),
    )
    if done := store.unchanged("instructions", pair, fingerprint):
        return done
    forbidden = [Forbidden(recipe.corpus.decontaminate, store, lang) for lang in pair]
    steps = forbidden[0].steps
    rows_in = upstream.rows["data"]
    into, dropped, templates = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[str]()
    kept = 0
    samples = Samples()
    corpora = dict(upstream.corpora)
    with store.writing("instructions", pair) as out:
        out.write(empty(STORED))
        for item in types:
            rendered = _rendered(item, recipe, store, pair, on_progress, rows_in)
            for batch in rebatch(with_batch_context(rendered, f"instruction type '{item.name}', {pair}")):
                identifying_texts = batch[IDENTIFYING.name]
                gone = np.zeros(batch.num_rows, dtype=bool)
                for step, rows in zip(steps, overlapping(batch["segments"], identifying_texts, forbidden), strict=True):
                    into[step, item.name] += int((~gone).sum())
                    dropped[step, item.name] += int((rows & ~gone).sum())
                    samples.see(step, as_samples(batch.filter(pa.array(rows & ~gone)), item.name))
                    gone |= rows
                stored = as_stored(batch, identifying_texts).filter(pa.array(~gone))
                kept += stored.num_rows
                templates.update(stored["template"].to_pylist())
                samples.see(KEPT, as_samples(stored, item.name))
                out.write(stored)
            corpora |= item.provenance(pair, store.sources)
        if types and not kept and not recipe.corpus.allow_empty:
            raise UserError(
                f"instructions of {pair}: found none in {rows_in:,} rows of bitext. Allowed: at least one row. Change "
                f"corpus.instructions, or set corpus.allow_empty: true."
            )
        out.write(samples.batch(), "samples")
        ledger = [
            LedgerRow(step=step, corpus=item.name, into=n, dropped=lost, kept=n - lost)
            for step in steps
            for item in types
            for n, lost in [(into[step, item.name], dropped[step, item.name])]
        ]
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs=inputs,
            ledger=ledger,
            numbers={
                "rows_in": rows_in,
                "rows_out": kept,
                **{f"rows {name}": n for name, n in sorted(templates.items())},
            },
            samples={"kept": samples.of(KEPT), "dropped": samples.of(*steps)},
            corpora=corpora,
        )


def _rendered(
    item: InstructionType, recipe: Recipe, store: Store, pair: Pair, on_progress: ProgressCallback, total: int
) -> Iterator[pa.RecordBatch]:
    """RENDERED batches of one instruction type, of the bitext and then of its own data, with the column IDENTIFYING."""
    rng, seen = generator(recipe.seed, SALT, str(pair), item.name), 0
    yield empty(RENDERED.append(IDENTIFYING))
    for batch in rebatch(store.batches("decontaminated_bitext", pair)):
        rows = check(item.render(batch, rng), RENDERED, f"instruction type '{item.name}'")
        yield rows.append_column(IDENTIFYING, rows["segments"])
        seen += batch.num_rows
        on_progress(seen, total, item.name)
    found, owners, count = list[np.ndarray](), list[np.ndarray](), 0
    for rows in _own_data(item, pair, copy.deepcopy(rng), store):  # which sentences are common, a first pass shows
        keys_of_batch, numbers = sentence_keys(rows["segments"].to_pylist())
        found.append(keys_of_batch)
        owners.append(numbers + count)
        count += rows.num_rows
    frequency = Frequency(np.concatenate(owners).astype(np.uint64), np.concatenate(found))
    for rows in _own_data(item, pair, rng, store):
        texts = identifying([_conversation(row) for row in rows.to_pylist()], frequency, pair)
        yield rows.append_column(IDENTIFYING, pa.array(texts, IDENTIFYING.type))


def _own_data(item: InstructionType, pair: Pair, rng: np.random.Generator, store: Store) -> Iterator[pa.RecordBatch]:
    yield empty(RENDERED)
    for batch in item.extra(pair, rng, store.sources):
        yield check(batch, RENDERED, f"instruction type '{item.name}'")


def _conversation(row: dict[str, Any]) -> Conversation:
    prompt = "\n".join(turn["content"] for turn in row["messages"][:-1] if turn["role"] != "system")
    return Conversation(row["segments"], prompt, row["messages"][-1]["content"])


def overlapping(segments: pa.ListArray, identifying_texts: pa.ListArray, forbidden: list[Forbidden]) -> np.ndarray:
    """bool [steps, N]: whether a row is forbidden in any of the languages.

    By the evals it is if one of the texts that identify it is; by the lists if any of its segments is.
    """
    found = []
    for name in forbidden[0].keys:
        lists = identifying_texts if name == EVALUATION else segments
        each = pc.list_flatten(lists).dictionary_encode()  # most segments were made into several rows
        scores = np.fmax.reduce([lang.scores_of(name, each.dictionary, wordings=True) for lang in forbidden])
        held = ~np.isnan(scores)[:, each.indices.to_numpy()]
        parents = pc.list_parent_indices(lists).to_numpy()
        found += [np.bincount(parents[hit], minlength=len(lists)) > 0 for hit in held]
    return np.stack(found)


def as_stored(batch: pa.RecordBatch, identifying_texts: pa.ListArray) -> pa.RecordBatch:
    """A RENDERED batch as STORED, with the keys of the texts that identify each row."""
    lengths = pc.list_value_length(identifying_texts).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    listed = pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys(pc.list_flatten(identifying_texts))))
    return pa.record_batch(
        [*(batch[name] for name in INSTRUCTION.names), listed.cast(STORED.field("keys").type)], STORED
    )


def as_samples(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """Conversations for `Samples`: prompt as src, answer as tgt, and the type or task in place of the corpus."""
    turns = batch["messages"].to_pylist()
    columns = (
        ["\n".join(turn["content"] for turn in talk[:-1]) for talk in turns],
        [talk[-1]["content"] for talk in turns],
        [name] * len(turns),
    )
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], names=["src", "tgt", "corpus"])
