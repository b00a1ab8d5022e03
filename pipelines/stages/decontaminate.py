"""Stage: deduped_bitext -> decontaminated_bitext. Rows that hold a text of the evals or lists are set aside."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import Decontaminate, Recipe
from pipelines.errors import UserError
from pipelines.fetching.paths import content_hash
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, no_progress
from pipelines.storage.fingerprint import compute_fingerprint
from pipelines.storage.ledger import KEPT, Sieve, rebatch
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.text.identifying import held_out
from pipelines.text.matching import match_key
from pipelines.text.near import HeldOutIndex
from pipelines.text.text_files import file_lines

EVALUATION, LIST = "evaluation", "list"


def run(recipe: Recipe, store: Store, pair: Pair, on_progress: ProgressCallback = no_progress) -> Manifest:
    """Drop a row where either side is, or nearly is, an eval text in that side's language or a text of the lists."""
    upstream, eval_text = store.require("deduped_bitext", pair), store.require("eval_text")
    inputs = {"deduped_bitext": upstream.fingerprint, "eval_text": eval_text.content()}
    settings = recipe.corpus.decontaminate
    fingerprint = compute_fingerprint(__name__, pins(settings), inputs, libraries=("pyarrow", "numpy"))
    if done := store.unchanged("decontaminated_bitext", pair, fingerprint):
        return done
    forbidden = [Forbidden(settings, store, lang) for lang in pair]
    steps = forbidden[0].steps
    total, seen, kept = upstream.rows["data"], 0, 0
    with store.writing("decontaminated_bitext", pair) as out:
        sieve = Sieve(steps, out)
        for batch in rebatch(store.batches("deduped_bitext", pair)):
            src, tgt = (side.held(batch[name]) for side, name in zip(forbidden, ("src", "tgt"), strict=True))
            held = np.fmax(src, tgt)
            went, score = np.zeros(batch.num_rows, np.uint8), np.full(batch.num_rows, np.nan)
            for number, step in reversed(list(enumerate(steps, start=1))):  # of several the first counts
                gone = ~np.isnan(held[number - 1])
                went[gone] = number
                score[gone] = held[number - 1, gone] if step.endswith("near") else np.nan
            rows = sieve.sift(batch, went, pa.array(score, from_pandas=True))
            out.write(rows)
            seen, kept = seen + batch.num_rows, kept + rows.num_rows
            on_progress(seen, total, f"{kept:,} of {seen:,} rows kept")
        if not kept and not recipe.corpus.allow_empty:
            raise UserError(sieve.none_left(f"decontaminated_bitext of {pair}", total))
        out.write(sieve.samples.batch(), "samples")
        return out.commit(
            fingerprint,
            recipe.resolved(),
            inputs=inputs,
            ledger=sieve.rows(),
            numbers={"rows_in": total, "rows_out": kept, **_sizes(forbidden)},
            samples={"kept": sieve.samples.of(KEPT), "dropped": sieve.samples.of(*steps)},
            corpora=upstream.corpora,
        )


class Forbidden:
    """What training must not hold in one language: what identifies the evals' items in it, and the lists' texts."""

    def __init__(self, settings: Decontaminate, store: Store, lang: str):
        texts_held_out = held_out(store)
        own = texts_held_out.filter(pc.equal(texts_held_out["lang"], lang))
        texts = {EVALUATION: own["identifying"]}
        rare = own.filter(own["rare"])
        self._collections = tuple(
            tuple(rare.filter(pc.equal(rare["eval"], name))["identifying"].to_pylist())
            for name in sorted(set(rare["eval"].to_pylist()))
        )
        if settings.lists:
            lines = (line for file in settings.files() for _, line in file_lines(file))
            texts[LIST] = pa.chunked_array([pa.array(lines, pa.string())])
        self.keys = {name: _keys(found) for name, found in texts.items()}
        self._lang, self._threshold = lang, settings.near
        self._texts = {name: tuple(sorted(set(found.to_pylist()))) for name, found in texts.items()}
        self._texts[EVALUATION] = tuple(sorted(set(rare["identifying"].to_pylist())))

    @property
    def steps(self) -> list[str]:
        """The ways in which a text can be forbidden, as the ledger calls them, in order."""
        kinds = ["overlap"] if self._threshold is None else ["overlap", "near"]
        return [f"{name}_{kind}" for name in self.keys for kind in kinds]

    def held(self, texts: pa.Array) -> np.ndarray:
        """float64 [steps, N]: how much of a forbidden text each text holds, 1 where it is one; NaN where none."""
        return np.concatenate([self.scores_of(name, texts, wordings=False) for name in self.keys])

    def scores_of(self, name: str, texts: pa.Array, wordings: bool) -> np.ndarray:
        """`held` of EVALUATION or LIST alone, float64 [1 or 2, N].

        wordings: whether `texts` may be near a held-out text by a wording alone that many of an eval share, which then
        does not count.
        """
        same = pc.is_in(match_key(texts), value_set=self.keys[name]).to_numpy(zero_copy_only=False)
        out = [np.where(same, 1.0, np.nan)]
        if self._threshold is not None:
            collections = self._collections if wordings and name == EVALUATION else ()
            scores = _index(self._texts[name], self._lang, self._threshold, collections).scores(texts)
            out.append(np.where(scores > 0, scores, np.nan))
        return np.stack(out)


def pins(settings: Decontaminate) -> dict[str, object]:
    """What decides the outcome beside the evals' texts, as JSON: the settings, and the lists by their content."""
    return {"near": settings.near, "lists": [content_hash(file) for file in settings.files()]}


@lru_cache(maxsize=8)
def _index(
    texts: tuple[str, ...], lang: str, near: float, collections: tuple[tuple[str, ...], ...] = ()
) -> HeldOutIndex:
    """Kept, as the pivot's texts are the same in every pair."""
    return HeldOutIndex(pa.array(texts, pa.string()), lang, near, [pa.array(own, pa.string()) for own in collections])


def _keys(texts: pa.ChunkedArray) -> pa.Array:
    """Distinct match keys; a text of punctuation alone forbids nothing."""
    keys = pc.unique(match_key(texts))
    return keys.filter(pc.not_equal(keys, ""))


def _sizes(forbidden: Sequence[Forbidden]) -> dict[str, int]:
    """How many distinct texts were looked for."""
    lists = {"list_texts": len(forbidden[0].keys[LIST])} if LIST in forbidden[0].keys else {}
    return {"eval_texts": sum(len(side.keys[EVALUATION]) for side in forbidden), **lists}
