"""Drops rows with a side of too few or too many words."""

import numpy as np
import pyarrow as pa

from pipelines.filters import Filter, languages, range_of
from pipelines.languages import script, spaceless
from pipelines.text.characters import SPACE, decode_column

# Characters that stand for one English word where words do not stand apart: medians over the 965 sentences of
# NTREX-128 (github.com/MicrosoftTranslator/NTREX), to the next half.
WORD = {
    "Hani": 2.0, "Hans": 2.0, "Hant": 2.0, "Hrkt": 2.5, "Jpan": 2.5, "Khmr": 6.5, "Laoo": 5.5, "Mymr": 6.5,
    "Thai": 5.5, "Tibt": 6.5,
}  # fmt: skip


class WordLength(Filter):
    """Words of the shorter and of the longer side; both must lie within the bounds.

    Words are what white space parts. Where a script does not part them, words are the characters other than spaces
    over WORD, but at least 1 where there is any: so 孩子们去学校 has three, as has "children attend school".
    """

    min: float | None = 1
    max: float | None = 150
    """Drops at most 0.1 % of any language of NTREX-128, TICO-19, WMT's news and Tatoeba."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        sides = zip(("src", "tgt"), languages(batch), strict=True)
        return range_of(*(words(batch[side], lang) for side, lang in sides))


def words(texts: pa.Array, lang: str) -> pa.Array:
    """Words of each text, as WordLength counts them, float64."""
    text = decode_column(texts)
    black = text.kind & SPACE == 0
    if spaceless(lang):
        count = text.count(black) / WORD[script(lang)]
        return pa.array(np.where(count > 0, np.maximum(count, 1), 0))
    begins = black & np.append(True, ~black[:-1])
    return pa.array(text.count(begins).astype(np.float64))
