"""Drops rows that are mostly addresses, or have an address on one side only."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter

ADDRESS = "|".join(
    [
        r"(?:https?|ftp)://[!-~]+",  # ends at the first non-ASCII character, as Chinese has no spaces
        r"\bwww\.[!-~]+",
        r"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+",
        r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}/[!-~]*",
    ]
)
HINT = r"://|www\.|@|\.[a-z]{2,}/"  # a cheap test: every match of ADDRESS contains one of these


class UrlOrEmail(Filter):
    """Share of characters in web and e-mail addresses, in [0, 1]; the larger of the two sides.

    The score is 1 if only one side has addresses. The addresses themselves are not compared, as each side may
    legitimately link to a page in its own language. An empty side scores 0.
    """

    max: float | None = 0.5

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        (src, in_src), (tgt, in_tgt) = (addresses(batch[side]) for side in ("src", "tgt"))
        return pa.array(np.where(in_src != in_tgt, 1.0, np.maximum(src, tgt)))


def addresses(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of characters in addresses, float64 [N], and whether there is any address, bool [N]."""
    candidates = pc.match_substring_regex(texts, HINT)
    subset = texts.filter(candidates)
    total = np.asarray(pc.utf8_length(subset))
    outside = np.asarray(pc.utf8_length(pc.replace_substring_regex(subset, ADDRESS, "")))
    share = np.zeros(len(texts))
    share[np.asarray(candidates)] = (total - outside) / np.maximum(total, 1)
    return share, share > 0
