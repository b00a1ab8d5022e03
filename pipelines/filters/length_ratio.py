"""Drops rows with one side much longer than the other."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter, languages
from pipelines.languages import script

DENSITY = {"Hans": 0.35, "Hant": 0.35, "Jpan": 0.44, "Kore": 0.55, "Hang": 0.55, "Ethi": 0.68, "Hebr": 0.81}
"""Characters that carry as much content as one English character, by script: medians over the 965 sentences of
NTREX-128 (github.com/MicrosoftTranslator/NTREX). Other scripts lie between 0.94 and 1.25 and count as 1."""


class LengthRatio(Filter):
    """Length of the longer side divided by that of the shorter one, >= 1, in characters / DENSITY.

    For example, 7 Han characters and 20 English ones score 1. Leading and trailing whitespace does not count. One empty
    side scores inf, two score NaN; any finite `max` drops both.
    """

    max: float | None = 3.0
    """The 99th percentile of correct translations lies between 1.6 (German-English news) and 2.2 (Chinese-English)."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (
            pc.divide(pc.cast(pc.utf8_length(pc.utf8_trim_whitespace(batch[side])), pa.float64()), density(lang))
            for side, lang in zip(("src", "tgt"), languages(batch), strict=True)
        )
        return pc.divide(pc.max_element_wise(src, tgt), pc.min_element_wise(src, tgt))


def density(lang: str) -> float:
    """Return how many characters of `lang` carry as much content as one English character."""
    return DENSITY.get(script(lang), 1.0)
