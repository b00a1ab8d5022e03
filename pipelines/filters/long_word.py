"""Drops rows with a word too long to be one: tables, keys, text whose spaces were lost."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter, languages
from pipelines.filters._characters import SPACE, kinds, read
from pipelines.filters.markup import bare
from pipelines.languages import spaceless


class LongWord(Filter):
    """Characters of the longest word of either side; words are what white space parts, tags and addresses aside.

    A side whose script does not part words counts as 0: there a long run is a clause.
    Source: LongWordFilter of OpusFilter (Aulamo et al. 2020), whose default is 40 too.
    """

    max: float | None = 40
    """Drops nothing of NTREX-128 but 2 % of its Arabic, where spaces are lost; 1 % of GNOME's help, lists of keys."""
    modules = ("pipelines.filters._characters", "pipelines.filters.markup", "pipelines.languages")

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        sides = zip(("src", "tgt"), languages(batch), strict=True)
        return pc.max_element_wise(*(longest(batch[side], lang) for side, lang in sides))


def longest(texts: pa.Array, lang: str) -> pa.Array:
    """Characters of the longest word of each text, float64; 0 without spaces between words."""
    if spaceless(lang):
        return pa.repeat(pa.scalar(0.0), len(texts))
    text = read(bare(texts))
    breaks = np.flatnonzero(kinds()[text.points] & SPACE)  # each text's line feed is one of them
    lengths = np.diff(breaks, prepend=-1) - 1
    return pa.array(np.maximum.reduceat(lengths, np.searchsorted(breaks, text.first)).astype(np.float64))
