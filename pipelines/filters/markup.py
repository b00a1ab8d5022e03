"""Drops rows that are mostly tags, placeholders, addresses and code rather than text."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.characters import MARKUP, decode_column, memoize_column

TAGS = "|".join(
    [
        r"<!--[^<>]*-->",  # no <, or each unclosed comment would scan to the end of the text: quadratic
        r"</?[A-Za-z][^<>]*>",  # not a < b > c
        r"&(?:#[0-9]+|#x[0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]+);",
        r"\{\{[^{}]*\}\}|[$%#]?\{ ?[-\w.:!$]* ?\}",  # {{x}}, ${x}, %{x}, {0}, {}, { -brand-name }
        r"%\([^()\s]*\)[#0+-]?[0-9.]*[a-zA-Z]?|%[0-9]+\$[@a-zA-Z]|%[0-9.]*l?l?[sdiufgxcS@]",  # %(x)s, %1$s, %d
        r"\bhttps?://[!-~]+|\bwww\.[!-~]+",  # addresses end at the first non-ASCII character
        r"\[\[[^\[\]]*\]\]",
    ]
)
ROLES = r":[a-z][a-z:+-]*:`|`+"  # reStructuredText roles and Markdown code marks
CODE = r":[a-z][a-z:+-]*:`[^`]*`|``[^`]+``"
SECOND = np.zeros(0x80, np.uint32)
"""The character that must follow a MARKUP character for it to begin any of the above patterns; 0 for any character."""
SECOND[[ord(mark) for mark in ":[w"]] = [ord(mark) for mark in "/[w"]


class Markup(Filter):
    """Share of characters in tags, entities, placeholders, addresses and code marks, in [0, 1]; the larger side's.

    Words between the marks count as text, as they are part of the sentence. An empty side scores 0.
    """

    max: float | None = 0.4
    """Technical documentation loses 6 to 7 % of its rows, twice as many at 0.3."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pc.max_element_wise(share(batch["src"]), share(batch["tgt"]))


def share(texts: pa.Array) -> pa.Array:
    """Return the share of characters that are markup, float64 in [0, 1]; 0 for an empty text."""
    candidates = may_contain_markup(texts)
    subset = texts.filter(pa.array(candidates))
    total, outside = (
        np.asarray(pc.utf8_length(part)) for part in (subset, pc.replace_substring_regex(subset, f"{TAGS}|{ROLES}", ""))
    )
    shares = np.zeros(len(texts))
    shares[candidates] = (total - outside) / total
    return pa.array(shares)


def bare(texts: pa.Array) -> pa.Array:
    """Return `texts` without markup and code, for language identification."""
    return pc.replace_with_mask(texts, pa.array(may_contain_markup(texts)), _bare_candidates(texts))


def measure_bare(measure: Callable[[pa.Array], np.ndarray], texts: pa.Array) -> np.ndarray:
    """Return `measure(bare(texts))`, reusing the decoded column for the many texts without markup."""
    values, candidates = measure(texts), may_contain_markup(texts)
    if candidates.any():
        values[candidates] = measure(_bare_candidates(texts))
    return values


@memoize_column
def may_contain_markup(texts: pa.Array) -> np.ndarray:
    """Return whether each text may contain markup or code, bool [N]; ten times as fast as the regular expressions."""
    text = decode_column(texts)
    places = np.flatnonzero(text.kind & MARKUP > 0)
    second = SECOND[text.points[places]]
    return text.holding(places[(second == 0) | (text.points[places + 1] == second)])


@memoize_column
def _bare_candidates(texts: pa.Array) -> pa.Array:
    """Return the texts that `may_contain_markup`, without markup and code."""
    return pc.replace_substring_regex(texts.filter(pa.array(may_contain_markup(texts))), f"{TAGS}|{CODE}", " ")
