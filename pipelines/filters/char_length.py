"""Drops rows with a side that is too short or too long."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter, range_of


class CharLength(Filter):
    """Characters of the shorter and the longer side, both of which must lie within the bounds.

    Leading and trailing whitespace does not count.
    """

    min: float | None = 2
    """Two Han characters can be a word. Alphabets need a higher minimum only in noisy corpora."""
    max: float | None = 1000
    """Longer segments are mostly listings rather than sentences."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return range_of(*(pc.utf8_length(pc.utf8_trim_whitespace(batch[side])) for side in ("src", "tgt")))
