"""Drops rows with too few or too many words on a side."""

import numpy as np
import pyarrow as pa

from pipelines.filters import Filter, languages, range_of
from pipelines.languages import script, spaceless
from pipelines.text.characters import SPACE, decode_column

CHARACTERS_PER_WORD = {
    "Hani": 2.0, "Hans": 2.0, "Hant": 2.0, "Hrkt": 2.5, "Jpan": 2.5, "Khmr": 6.5, "Laoo": 5.5, "Mymr": 6.5,
    "Thai": 5.5, "Tibt": 6.5,
}  # fmt: skip
"""Characters per English word in scripts without spaces: medians over the 965 sentences of NTREX-128
(github.com/MicrosoftTranslator/NTREX), rounded to halves."""


class WordLength(Filter):
    """Words of the shorter and the longer side, both of which must lie within the bounds.

    Words are separated by whitespace. In a script without spaces their number is the non-space characters divided by
    CHARACTERS_PER_WORD, at least 1 for non-empty text: 孩子们去学校 has three, like "children attend school".
    """

    min: float | None = 1
    max: float | None = 150

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        sides = zip(("src", "tgt"), languages(batch), strict=True)
        return range_of(*(words(batch[side], lang) for side, lang in sides))


def words(texts: pa.Array, lang: str) -> pa.Array:
    """Return the words of each text as defined by WordLength, float64."""
    text = decode_column(texts)
    is_printed = text.kind & SPACE == 0
    if spaceless(lang):
        count = text.count(is_printed) / CHARACTERS_PER_WORD[script(lang)]
        return pa.array(np.where(count > 0, np.maximum(count, 1), 0))
    is_word_start = is_printed & np.append(True, ~is_printed[:-1])
    return pa.array(text.count(is_word_start).astype(np.float64))
