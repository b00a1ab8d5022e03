"""Stage: raw_bitext -> clean_bitext. Rows every filter keeps, with their scores, and the rejected with the reason.

Every row gets every score, and the scores of all rows are kept beside the result (part `scores`): a bound moves, or a
filter is added or left out, without scoring again what the others have scored. Only an expensive filter scores just the
rows that the filters before it keep; the others have null there, and it scores again where a bound before it moves.
"""

import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Recipe
from pipelines.engine import mapped
from pipelines.errors import UserError, error_context, with_batch_context
from pipelines.filters import RANGE, Filter, ends
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, no_progress
from pipelines.schema import BITEXT, check
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.ledger import KEPT, Sieve, empty, rebatch
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.normalise import normalised

NORMALISE = "normalise"
LEARNING = threading.Lock()  # of pairs made side by side one learns at a time: it is what takes most memory
CHANGED = "changed"
"""Column of a scored batch: whether normalising changed either side."""


def run(recipe: Recipe, store: Store, pair: Pair, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Normalise the pair's raw rows and judge them by the recipe's filters, in order.

    A row is rejected by the first filter that drops it, with that filter's score; a kept row carries `score_<filter>`
    of every filter.
    """
    upstream = store.require("raw_bitext", pair)
    chain: list[Filter] = recipe.corpus.filters
    inputs = {"raw_bitext": upstream.fingerprint}
    fingerprint = compute_fingerprint(__name__, {}, inputs, plugins=chain)
    if done := store.unchanged("clean_bitext", pair, fingerprint):
        return done
    scored = {
        f"score/{item.name}": compute_fingerprint(
            "pipelines.text.normalise",
            {},
            inputs,
            plugins=[*(chain[:place] if item.is_expensive else ()), item.unbounded()],
        )
        for place, item in enumerate(chain)
    }
    notes = [sentence for item in chain for sentence in item.notes([pair])]
    names = [item.name for item in chain]
    before = store.manifest("clean_bitext", pair)
    known = [
        item for item in chain
        if before and before.inputs.get(f"score/{item.name}") == scored[f"score/{item.name}"]
    ]  # fmt: skip
    total, seen, kept = upstream.rows["data"], 0, 0
    with store.writing("clean_bitext", pair) as out:
        sieve = Sieve(names, out, [NORMALISE])
        fitted = {}
        for item in (item for item in chain if item.fits):
            folder = out.path / "fit" / item.name
            if item in known:
                assert before
                notes += [note for note in before.numbers["notes"] if note.startswith(f"{item.name}: ")]
                shutil.copytree(store.fetched("clean_bitext", pair, f"fit/{item.name}") / "fit" / item.name, folder)
                continue
            on_progress(0, 0, f"{item.name} learns")
            folder.mkdir(parents=True)
            with LEARNING, error_context(f"filter '{item.name}', {pair}"):
                notes += item.fit((_normalised(batch)[0] for batch in _raw(store, pair)), folder)
                fitted[item.name] = item.reopen(folder)
        work = Scorer(pair, chain, known, fitted)
        if recipe.corpus.engine == "local":
            work.open()  # once, not in each thread
        batches = mapped(work, _with_known(store, pair, known), recipe.corpus.engine)
        for place, batch in enumerate(with_batch_context(batches, f"clean_bitext of {pair}")):
            rows = batch.select(BITEXT.names)
            scores = {item.name: batch[f"score_{item.name}"] for item in chain}
            if place == 0:
                schema = pa.schema([*BITEXT, *(pa.field(f"score_{name}", scores[name].type) for name in names)])
                out.write(empty(schema))
            if chain:
                out.write(pa.record_batch(list(scores.values()), names=names), "scores")
            sieve.changed(NORMALISE, rows, batch[CHANGED])
            went, decisive = np.zeros(rows.num_rows, np.uint8), pa.nulls(rows.num_rows, pa.float64())
            for number, item in enumerate(chain, start=1):
                verdict = item.keep(scores[item.name], pair, rows["corpus"]).to_numpy(zero_copy_only=False)
                gone = (went == 0) & ~verdict
                if gone.any():
                    went[gone] = number
                    mask = pa.array(gone)
                    decisive = pc.replace_with_mask(
                        decisive, mask, _decisive(item, pair, rows, scores[item.name], mask)
                    )
            for name in names:
                rows = rows.append_column(f"score_{name}", scores[name])
            rows = sieve.sift(rows, went, decisive)
            out.write(rows)
            seen, kept = seen + batch.num_rows, kept + rows.num_rows
            on_progress(seen, total, f"{kept:,} of {seen:,} rows kept")
        if not kept and not recipe.corpus.allow_empty:
            raise UserError(sieve.none_left(f"clean_bitext of {pair}", total))
        out.write(sieve.samples.batch(), "samples")
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs={**inputs, **scored},
            ledger=sieve.rows(),
            numbers={"rows_in": total, "rows_out": kept, "notes": notes},
            samples={"kept": sieve.samples.of(KEPT), "dropped": sieve.samples.of(*names)},
            corpora=upstream.corpora,
        )


class Scorer:
    """A function of one batch: BITEXT as it came, in; normalised, with CHANGED and a score per filter, out.

    It goes to other processes without what its filters have opened, but with what they have learnt.
    """

    def __init__(self, pair: Pair, chain: Sequence[Filter], known: Sequence[Filter], fitted: dict[str, Any]):
        """`known` are the filters of the chain whose scores the batches have already."""
        self._pair, self._chain, self._fitted = pair, chain, fitted
        self._new = [item.name for item in chain if item not in known]
        self._opened: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def open(self) -> dict[str, Any]:
        """What the filters need to score, by name."""
        if self._opened is None:
            new = (item for item in self._chain if item.name in self._new and not item.fits)
            self._opened = {item.name: item.open() for item in new} | self._fitted
        return self._opened

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        opened = self.open()
        rows, changed = _normalised(batch.select(BITEXT.names))
        out = batch.set_column(0, BITEXT.field("src"), rows["src"]).set_column(1, BITEXT.field("tgt"), rows["tgt"])
        kept = pa.repeat(pa.scalar(True), rows.num_rows)
        for place, item in enumerate(self._chain):
            if item.name in self._new:
                with error_context(f"filter '{item.name}'"):
                    scores = _scores(item, rows, opened[item.name], kept)
                out = out.append_column(f"score_{item.name}", scores)
            if any(later.is_expensive for later in self._chain[place + 1 :]):
                kept = pc.and_(kept, item.keep(out[f"score_{item.name}"], self._pair, rows["corpus"]))
        return out.append_column(CHANGED, changed)


def _scores(item: Filter, rows: pa.RecordBatch, loaded: Any, kept: pa.Array) -> pa.Array:
    """A score for each row; null where the filter is expensive and an earlier one does not keep the row."""
    scores = item.score(rows.filter(kept) if item.is_expensive else rows, loaded)
    if scores.type != RANGE:
        scores = pc.cast(scores, pa.float64())
    if not item.is_expensive:
        return scores
    place = np.cumsum(np.asarray(kept)) - 1
    return scores.take(pa.array(place, mask=~np.asarray(kept)))


def _raw(store: Store, pair: Pair) -> Iterator[pa.RecordBatch]:
    for batch in rebatch(store.batches("raw_bitext", pair)):
        yield check(batch, BITEXT, f"raw_bitext of {pair}").select(BITEXT.names)


def _with_known(store: Store, pair: Pair, known: Sequence[Filter]) -> Iterator[pa.RecordBatch]:
    """The raw batches, with the scores that an earlier run has left of them."""
    if not known:
        yield from _raw(store, pair)
        return
    for rows, scores in zip(_raw(store, pair), rebatch(store.batches("clean_bitext", pair, "scores")), strict=True):
        for item in known:
            rows = rows.append_column(f"score_{item.name}", scores[item.name])
        yield rows


def _normalised(rows: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.Array]:
    """The rows with both sides normalised, and whether that changed either."""
    src, tgt = normalised(rows["src"]), normalised(rows["tgt"])
    changed = pc.or_(pc.not_equal(src, rows["src"]), pc.not_equal(tgt, rows["tgt"]))
    return rows.set_column(0, BITEXT.field("src"), src).set_column(1, BITEXT.field("tgt"), tgt), changed


def _decisive(item: Filter, pair: Pair, rows: pa.RecordBatch, scores: pa.Array, gone: pa.Array) -> pa.Array:
    """One number for each row that is `gone`: of a RANGE the end out of bounds, the lower one where both are."""
    scores = scores.filter(gone)
    if scores.type != RANGE:
        return scores
    low, high = ends(scores)
    corpora = rows["corpus"].filter(gone).dictionary_encode()
    least = [item.bounds(pair, corpus).min for corpus in corpora.dictionary.to_pylist()]
    below = pc.less(low, pa.array(least, pa.float64()).take(corpora.indices))
    return pc.if_else(pc.fill_null(below, False), low, high)
