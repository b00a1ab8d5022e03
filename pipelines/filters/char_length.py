"""Drops rows with a side that is too short or too long."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter


class CharLength(Filter):
    """Characters of the shorter side where that is below `min`, else of the longer side.

    One number thus says for both sides whether they lie within the bounds: min <= score <= max holds just where it
    holds for each side. White space at the ends does not count.
    """

    min: float | None = 2
    """Two Han characters are a word already; scripts with letters need more only where the corpus is noisy."""
    max: float | None = 1000
    """The 99th percentile lies below 700 in every corpus of the mirror looked at; what is longer is listings."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (pc.utf8_length(pc.utf8_trim_whitespace(batch[side])) for side in ("src", "tgt"))
        shorter, longer = pc.min_element_wise(src, tgt), pc.max_element_wise(src, tgt)
        if self.min is None:
            return pc.cast(longer, pa.float64())
        return pc.cast(pc.if_else(pc.less(shorter, self.min), shorter, longer), pa.float64())
