"""Drops partly untranslated rows: the target copies the source except for a few words."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.characters import decode_column, grams, per_row, portions

N = 4


class Similarity(Filter):
    """Shared distinct character 4-grams divided by those of the side with more of them, in [0, 1].

    Case is ignored. Texts are padded with spaces so that a 4-gram begins at each character; a copy therefore scores 1
    in any script and of any length, as do two empty sides. Unlike the edit distance of `identical`, 4-grams distinguish
    copies from related languages: cognates share letters, but rarely four in a row.
    """

    max: float | None = 0.7
    """Varieties of one language, such as Croatian and Bosnian or Bokmål and Nynorsk, need a higher bound:
    `per: {hr-bs: {max: 0.95}}`."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pa.array(np.concatenate([shared(part["src"], part["tgt"]) for part in portions(batch)]))


def shared(src: pa.Array, tgt: pa.Array) -> np.ndarray:
    """Return the score of each row, float64 [N]."""
    keys = np.concatenate([_grams(src), _grams(tgt) | np.uint32(1)])  # the lowest bit is the side
    keys.sort()
    step = np.append(np.uint32(2), keys[1:] ^ keys[:-1])[: len(keys)]  # 0: same key, 1: other side's
    in_src, in_all, in_both = (
        per_row(which, keys, len(src)) - 1  # without the key 0 of the padding
        for which in ((step != 0) & (keys & np.uint32(1) == 0), step != 0, step == 1)
    )
    larger = np.maximum(in_src, in_all - 1 - in_src)
    return np.where(larger > 0, in_both / np.maximum(larger, 1), 1.0)


def _grams(texts: pa.Array) -> np.ndarray:
    """Return one even key per 4-gram that begins in a text; the keys of those that begin in the padding are 0."""
    text = decode_column(pc.binary_join_element_wise(pc.utf8_lower(texts), " " * (N - 1), ""))
    keys = grams(text, text.points, N) & ~np.uint32(1)
    padding = (text.last[:, None] - np.arange(N)).ravel()
    keys[padding[padding < len(keys)]] &= np.uint32(0xFF000000)
    return keys
