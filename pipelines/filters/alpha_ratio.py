"""Drops rows with a side that is mostly digits, punctuation and symbols."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.characters import LETTER, SPACE, decode_column


class AlphaRatio(Filter):
    """Share of letters among the non-space characters, in [0, 1]; the smaller of the two sides.

    Letters include combining marks, which write the vowels of many scripts. A side without any character scores 0.
    """

    min: float | None = 0.4
    """0.5 would drop medical sentences full of percentages."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pc.min_element_wise(share(batch["src"]), share(batch["tgt"]))


def share(texts: pa.Array) -> pa.Array:
    """Return the share of letters and marks among the non-space characters, float64 [N] in [0, 1]."""
    text = decode_column(texts)
    return pa.array(text.count(text.kind & LETTER > 0) / np.maximum(text.count(text.kind & SPACE == 0), 1))
