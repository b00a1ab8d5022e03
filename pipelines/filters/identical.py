"""Drops untranslated rows: both sides are the same text, or nearly."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.matching import match_key

LONGEST = 4_000  # characters compared; the cost of a comparison is quadratic in them


class Identical(Filter):
    """Similarity of the two sides in [0, 1]: 1 - Indel distance / total length; 1 means identical.

    Case, digits, punctuation and spaces are ignored, so two numbers score 1, as do two empty sides. Names and interface
    terms are often legitimately identical in two languages, but teach no alignment. Of a side longer than LONGEST only
    the first and the last LONGEST / 2 characters are compared, and the score is capped at what the lengths allow.
    """

    max: float | None = 0.9
    """Translations between related languages score up to 0.8."""
    libraries = ("RapidFuzz",)

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        from rapidfuzz import fuzz, process

        src, tgt = (pc.replace_substring_regex(match_key(batch[side]), r"\p{N}+", "") for side in ("src", "tgt"))
        lengths = [np.asarray(pc.utf8_length(side), np.float64) for side in (src, tgt)]
        longer, shorter = np.maximum(*lengths), np.minimum(*lengths)
        scores = process.cpdist(_ends(src).to_pylist(), _ends(tgt).to_pylist(), scorer=fuzz.ratio) / 100
        limit = np.where(longer > LONGEST, 2 * shorter / np.maximum(longer + shorter, 1), 1)
        return pa.array(np.minimum(scores, limit), pa.float64())


def _ends(texts: pa.Array) -> pa.Array:
    half = LONGEST // 2
    joined = pc.binary_join_element_wise(
        pc.utf8_slice_codeunits(texts, 0, half), pc.utf8_slice_codeunits(texts, -half), ""
    )
    return pc.if_else(pc.greater(pc.utf8_length(texts), LONGEST), joined, texts)
