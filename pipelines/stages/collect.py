"""Stage: the recipe's sources -> raw_bitext, as they are; the held-out texts of its evals -> eval_text."""

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.errors import UserError, with_batch_context
from pipelines.languages import Pair
from pipelines.licences import allowed
from pipelines.progress import ProgressCallback, no_progress
from pipelines.registry import Plugin
from pipelines.schema import BITEXT, EVAL_TEXT, check
from pipelines.sources import Source
from pipelines.storage.fingerprint import compute_fingerprint, plugin_modules
from pipelines.storage.ledger import Samples, empty
from pipelines.storage.manifest import LedgerRow, Manifest
from pipelines.storage.store import Store


def run(recipe: Recipe, store: Store, pair: Pair, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Write the rows that the sources have of `pair`, source by source, of the corpora whose licence is allowed."""
    sources, home, licences = recipe.corpus.sources, store.sources, recipe.corpus.licences
    for source in sources:
        source.prepare(pair, home, on_progress)
    fingerprint = compute_fingerprint(
        __name__,
        {
            "pair": str(pair),
            "pins": [[source.name, source.pin(pair, home)] for source in sources],
            "licences": licences,
        },
        {},
        plugins=[source for source in sources if not source.pin_is_whole],
        modules=[name for source in sources if source.pin_is_whole for name in plugin_modules(source)],
        libraries=["pyarrow", *(name for s in sources for name in s.libraries)],
    )
    if done := store.unchanged("raw_bitext", pair, fingerprint):
        return done
    seen, samples = _Seen(), Samples()
    known: dict[str, dict[str, Any]] = {}
    with store.writing("raw_bitext", pair) as out:
        for source in sources:
            here = source.provenance(pair, home)
            counts: Counter[str] = Counter()
            for found in with_batch_context(source.fetch(pair, home), f"source '{source.name}', {pair}"):
                batch = _checked(found, pair, f"source '{source.name}', {pair}")
                counts.update(_count(batch["corpus"]))
                if strange := sorted(set(counts) - set(here)):
                    raise UserError(
                        f"corpus.sources, {pair}: rows of {', '.join(strange)} come without provenance. Allowed: "
                        f"corpora of which the source states version, licence and address. State them in the source's "
                        f"provenance()."
                    )
                refused = [name for name in counts if not allowed(here[name]["licence"], licences)]
                if refused:
                    batch = batch.filter(pc.invert(pc.is_in(batch["corpus"], pa.array(refused))))
                if not batch.num_rows:
                    continue
                out.write(batch)
                samples.see("kept", batch)
                seen.add(batch)
                on_progress(seen.rows, 0, f"{seen.rows:,} rows")
            seen.came(counts, here)
            known |= {name: facts for name, facts in here.items() if name in counts}
        refused = {name: facts["licence"] for name, facts in known.items() if not allowed(facts["licence"], licences)}
        if not seen.rows and not recipe.corpus.allow_empty:
            raise UserError(_none(recipe, pair, refused))
        if not seen.rows:
            out.write(empty(BITEXT))
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs=_releases(sources, [pair], home),
            ledger=seen.ledger(refused if licences is not None else None),
            numbers={"rows_in": seen.read.total(), "rows_out": seen.rows}
            | seen.flaws
            | ({"licences_refused": refused} if refused else {}),
            samples={"kept": samples.of("kept")},
            corpora={name: facts for name, facts in known.items() if name not in refused},
        )


def _none(recipe: Recipe, pair: Pair, refused: dict[str, str]) -> str:
    if refused:
        found = "; ".join(f"{name}: {stated}" for name, stated in refused.items())
        return (
            f"corpus.licences, {pair}: found {found}. Allowed: {', '.join(recipe.corpus.licences or ())}. Nothing is "
            f"left: allow a licence, add a source, remove the pair, or set corpus.allow_empty."
        )
    return (
        f"corpus.sources, {pair}: found no row in {', '.join(source.name for source in recipe.corpus.sources)}. "
        f"Allowed: at least one. Add a source that holds the pair, remove the pair, or set corpus.allow_empty."
    )


def _releases(sources: Iterable[Source], pairs: list[Pair], home: Path) -> dict[str, str]:
    """{source, name, pair: SHA-256} of what a refresh may move: by it `moved` sees what did."""
    found = {
        f"{source.name} {name} {pair}": state
        for source in sources
        for pair in pairs
        for name, state in source.releases(pair, home).items()
    }
    return {name: hashlib.sha256(json.dumps(state, default=str).encode()).hexdigest() for name, state in found.items()}


def run_evals(recipe: Recipe, store: Store, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Write the held-out texts of all evals, eval by eval: what training must not see and evaluation asks."""
    pairs, home = recipe.corpus.pairs, store.sources
    inner = [value for item in recipe.eval for _, value in item if isinstance(value, Plugin)]  # such as its source
    fingerprint = compute_fingerprint(
        __name__,
        {"pairs": [str(pair) for pair in pairs], "pins": [item.pin(pairs, home) for item in recipe.eval]},
        {},
        plugins=[*recipe.eval, *inner],
    )
    if done := store.unchanged("eval_text", None, fingerprint):
        return done
    counts: Counter[str] = Counter()
    corpora: dict[str, dict[str, Any]] = {}
    with store.writing("eval_text") as out:
        for item in recipe.eval:
            before = counts.total()
            for found in with_batch_context(item.texts(pairs, home), f"eval '{item.name}'"):
                batch = check(found, EVAL_TEXT, f"eval '{item.name}'").select(EVAL_TEXT.names).cast(EVAL_TEXT)
                out.write(batch)
                counts.update(_count(batch["eval"]))
                on_progress(counts.total(), 0, f"{counts.total():,} texts")
            if counts.total() == before:
                raise UserError(
                    f"eval '{item.name}': found no text for {', '.join(map(str, pairs))}. Allowed: at least one. Give "
                    f"it a source that holds these pairs, or remove the eval."
                )
            corpora |= item.provenance(pairs, home)
        if not counts:
            out.write(empty(EVAL_TEXT))
        numbers = {"rows_out": counts.total()} | {f"texts/{name}": rows for name, rows in counts.items()}
        inputs = _releases([value for value in inner if isinstance(value, Source)], pairs, home)
        return out.commit(fingerprint, recipe.resolved(), inputs=inputs, numbers=numbers, corpora=corpora)


def refresh(recipe: Recipe, store: Store, on_progress: ProgressCallback = no_progress) -> list[Pair]:
    """Ask upstream for newer releases of unpinned corpora and move the lock; the pairs concerned, in recipe order."""
    moved: set[Pair] = set()
    online = [source for source in recipe.corpus.sources if source.online]
    for done, source in enumerate(online):
        on_progress(done, len(online), source.name)
        moved.update(source.refresh(recipe.corpus.pairs, store.sources))
    return [pair for pair in recipe.corpus.pairs if pair in moved]


def moved(recipe: Recipe, store: Store) -> list[Pair]:
    """The pairs whose raw_bitext was made of other releases than the lock has now, in recipe order; asks nobody.

    All that are made, where the texts of the evals moved. What was never made did not move, nor what the recipe took in
    or changed since: that is for whoever changed it to run.
    """
    home, pairs = store.sources, recipe.corpus.pairs
    made = {pair: manifest for pair in pairs if (manifest := store.manifest("raw_bitext", pair))}
    asked = [value for item in recipe.eval for value in item.nested().values() if isinstance(value, Source)]
    if (texts := store.manifest("eval_text")) and _other(texts, _releases(asked, pairs, home)):
        return list(made)
    return [pair for pair, old in made.items() if _other(old, _releases(recipe.corpus.sources, [pair], home))]


def _other(made: Manifest, now: dict[str, str]) -> bool:
    return any(made.inputs[name] != state for name, state in now.items() if name in made.inputs)


def prune(recipe: Recipe, store: Store) -> list[Path]:
    """Remove downloads of the recipe's sources that their lock no longer names; the files and folders removed."""
    named = [*recipe.corpus.sources, *recipe.corpus.instructions, *recipe.eval]
    inner = [value for item in named for value in item.nested().values()]
    sources = {item.name: item for item in (*named, *inner) if isinstance(item, Source)}  # each has one lock
    return [path for source in sources.values() for path in source.prune(store.sources)]


def _checked(batch: pa.RecordBatch, pair: Pair, where: str) -> pa.RecordBatch:
    """The BITEXT columns of `batch`; ValueError where they are not BITEXT of `pair`."""
    check(batch, BITEXT, where)
    for column, code in zip(("src_lang", "tgt_lang"), pair, strict=True):
        if strange := sorted(set(pc.unique(batch[column]).to_pylist()) - {code}):
            raise UserError(
                f"{where}: column '{column}' holds {', '.join(strange)}. Allowed: {code}. Swap the sides in the source."
            )
    return batch.select(BITEXT.names).cast(BITEXT)


def _count(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


def _bytes(texts: pa.Array) -> bytes:
    """The UTF-8 of all texts, one after another."""
    _, offsets, data = texts.buffers()
    spans = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return data[int(spans[0]) : int(spans[-1])].to_pybytes() if data and len(texts) else b""


class _Seen:
    """Counts of what was written: rows per corpus in order of appearance, and flaws that filters may act on."""

    def __init__(self) -> None:
        self.corpora: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        """Rows that the sources looked at: more than came where a corpus has a cap."""
        self.fetched: Counter[str] = Counter()
        self.flaws: Counter[str] = Counter(empty_segments=0, replacement_characters=0)

    @property
    def rows(self) -> int:
        return self.corpora.total()

    def add(self, batch: pa.RecordBatch) -> None:
        self.corpora.update(_count(batch["corpus"]))
        for side in ("src", "tgt"):
            self.flaws["empty_segments"] += pc.sum(pc.equal(batch[side], "")).as_py() or 0
            self.flaws["replacement_characters"] += _bytes(batch[side]).count("\ufffd".encode())

    def came(self, counts: Counter[str], known: dict[str, dict[str, Any]]) -> None:
        """Note the rows that one source gave of each corpus, and how many it read to draw them from."""
        self.fetched.update(counts)
        for name, rows in counts.items():
            read = [file["rows_read"] for file in known[name].get("files", ()) if "rows_read" in file]
            self.read[name] += sum(read) if read else rows

    def ledger(self, refused: Container[str] | None) -> list[LedgerRow]:
        """Steps collect, cap where rows were drawn, licence where the recipe has a list; `refused` are not on it."""
        out = []
        for name, rows in self.fetched.items():
            read = self.read[name]
            out.append(LedgerRow(step="collect", corpus=name, into=read, dropped=0, kept=read))
            if read != rows:
                out.append(LedgerRow(step="cap", corpus=name, into=read, dropped=read - rows, kept=rows))
            if refused is not None:
                kept = self.corpora[name]
                assert kept == (0 if name in refused else rows), name
                out.append(LedgerRow(step="licence", corpus=name, into=rows, dropped=rows - kept, kept=kept))
        return out
