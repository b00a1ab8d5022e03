"""Texts as they came -> the same texts in one spelling: NFC, no control characters, single spaces.

Filters, keys and models then meet one form of each text. It changes how a text is encoded, never what it says.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.characters import DROPPED, JOINING, SPACE, SPACES, STACKED, UNUSUAL, read


def normalised(texts: pa.Array) -> pa.Array:
    """`texts` in NFC, without DROPPED, every run of SPACES one space, none at the ends. Doing it twice changes nothing.

    Source: Unicode Standard Annex 15 (NFC).
    """
    unsure = _unsure(texts)
    if not unsure.any():
        return texts
    some = pc.replace_substring_regex(texts.filter(unsure), f"{DROPPED}+", "")
    some = pc.utf8_trim(pc.replace_substring_regex(some, f"{SPACES}+", " "), " ")
    return pc.replace_with_mask(texts, unsure, pc.utf8_normalize(some, form="NFC"))


def _unsure(texts: pa.Array) -> np.ndarray:
    """bool [N]: whether each text may not be normalised yet; of most texts the characters say that they are."""
    text = read(texts)
    odd = text.kind & (UNUSUAL | JOINING)
    odd[text.last] = 0
    # A space at either end stands beside the line feed between texts.
    for beside in (text.kind & SPACE, text.kind & STACKED):
        odd[1:] |= beside[1:] & beside[:-1]
    odd[:1] |= text.kind[:1] & SPACE
    return text.holding(np.flatnonzero(odd > 0))
