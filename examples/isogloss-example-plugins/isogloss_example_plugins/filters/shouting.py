"""Drops rows that are written in capital letters: headings, warnings and labels rather than sentences."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter


class Shouting(Filter):
    """Share of upper-case letters among the letters of a side, in [0, 1]; the larger of the two sides counts."""

    max: float | None = 0.5
    """An assumption, for the example: no sentence of the sample is above 0.5."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pc.max_element_wise(_upper_share(batch["src"]), _upper_share(batch["tgt"]))


def _upper_share(texts: pa.Array) -> pa.Array:
    letters = pc.max_element_wise(pc.count_substring_regex(texts, r"\p{L}"), 1)
    return pc.divide(pc.cast(pc.count_substring_regex(texts, r"\p{Lu}"), pa.float64()), pc.cast(letters, pa.float64()))
