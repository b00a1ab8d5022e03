"""Drops rows with an implausibly long word: tables, keys, text that lost its spaces."""

import numpy as np
import pyarrow as pa

from pipelines.filters import Filter, languages
from pipelines.filters.markup import measure_bare
from pipelines.languages import spaceless
from pipelines.text.characters import SPACE, decode_column


class LongWord(Filter):
    """Characters of the longest word of either side; words are separated by whitespace, markup is ignored.

    A side in a script without spaces scores 0, as a long run is a clause there.
    Source: LongWordFilter of OpusFilter (Aulamo et al. 2020), with the same default.
    """

    max: float | None = 40

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        sides = zip(("src", "tgt"), languages(batch), strict=True)
        return pa.array(np.maximum(*(longest(batch[side], lang) for side, lang in sides)).astype(np.float64))


def longest(texts: pa.Array, lang: str) -> np.ndarray:
    """Return the characters of the longest word of each text, int64 [N]; 0 in a script without spaces."""
    return np.zeros(len(texts), np.int64) if spaceless(lang) else measure_bare(_longest, texts)


def _longest(texts: pa.Array) -> np.ndarray:
    text = decode_column(texts)
    breaks = np.flatnonzero(text.kind & SPACE > 0)  # includes the line feed after each text
    lengths = np.diff(breaks, prepend=-1) - 1
    return np.maximum.reduceat(lengths, np.searchsorted(breaks, text.first))
