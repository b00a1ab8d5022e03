"""Drops rows that are addresses rather than text, or have an address on one side only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter

ADDRESS = "|".join(
    [
        r"(?:https?|ftp)://[!-~]+",  # an address ends at the first character beyond ASCII, as Chinese has no spaces
        r"\bwww\.[!-~]+",
        r"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
        r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}/[!-~]*",
    ]
)
HINT = r"://|www\.|@|\.[a-z]{2,}/"  # every match of the above holds one of these


class UrlOrEmail(Filter):
    """Share of a side's characters that are web or e-mail addresses, the larger of the two sides', in [0, 1].

    It is 1 where one side has addresses and the other none. Their text is not compared: addresses are often rightly
    those of a page in the other language. An empty side scores 0.
    """

    max: float | None = 0.5
    """Drops at most 0.2 % of any language of NTREX-128, TICO-19, WMT's news and Tatoeba, 0.6 % of OpenStreetMap."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        (src, in_src), (tgt, in_tgt) = (addresses(batch[side]) for side in ("src", "tgt"))
        return pa.array(np.where(in_src != in_tgt, 1.0, np.maximum(src, tgt)))


def addresses(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The share of characters that are addresses, float64 [N], and whether there is any, bool [N]."""
    hit = pc.match_substring_regex(texts, HINT)
    some = texts.filter(hit)
    whole = np.asarray(pc.utf8_length(some))
    rest = np.asarray(pc.utf8_length(pc.replace_substring_regex(some, ADDRESS, "")))
    share = np.zeros(len(texts))
    share[np.asarray(hit)] = (whole - rest) / np.maximum(whole, 1)
    return share, share > 0
