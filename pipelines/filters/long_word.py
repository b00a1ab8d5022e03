"""Drops rows with a word too long to be one: tables, keys, text whose spaces were lost."""

import numpy as np
import pyarrow as pa

from pipelines.filters import Filter, languages
from pipelines.filters.markup import of_bare
from pipelines.languages import spaceless
from pipelines.text.characters import SPACE, decode_column


class LongWord(Filter):
    """Characters of the longest word of either side; words are what white space parts, tags and addresses aside.

    A side whose script does not part words counts as 0: there a long run is a clause.
    Source: LongWordFilter of OpusFilter (Aulamo et al. 2020), whose default is 40 too.
    """

    max: float | None = 40
    """Drops nothing of NTREX-128 but 2 % of its Arabic, where spaces are lost; 1 % of GNOME's help, lists of keys."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        sides = zip(("src", "tgt"), languages(batch), strict=True)
        return pa.array(np.maximum(*(longest(batch[side], lang) for side, lang in sides)).astype(np.float64))


def longest(texts: pa.Array, lang: str) -> np.ndarray:
    """int64 [N]: characters of the longest word of each text; 0 without spaces between words."""
    return np.zeros(len(texts), np.int64) if spaceless(lang) else of_bare(_longest, texts)


def _longest(texts: pa.Array) -> np.ndarray:
    text = decode_column(texts)
    breaks = np.flatnonzero(text.kind & SPACE > 0)  # each text's line feed is one of them
    lengths = np.diff(breaks, prepend=-1) - 1
    return np.maximum.reduceat(lengths, np.searchsorted(breaks, text.first))
