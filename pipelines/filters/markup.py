"""Drops rows that are tags, placeholders, addresses and code rather than language."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.characters import MARKUP, decode_column, memoize_column

TAGS = "|".join(
    [
        r"<!--[^<>]*-->",  # without <: else each of many that are not closed is read to the end of the text
        r"</?[A-Za-z][^<>]*>",  # a < b > c is none
        r"&(?:#[0-9]+|#x[0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]+);",
        r"\{\{[^{}]*\}\}|[$%#]?\{ ?[-\w.:!$]* ?\}",  # {{x}}, ${x}, %{x}, {0}, {}, { -brand-name }
        r"%\([^()\s]*\)[#0+-]?[0-9.]*[a-zA-Z]?|%[0-9]+\$[@a-zA-Z]|%[0-9.]*l?l?[sdiufgxcS@]",  # %(x)s, %1$s, %d
        r"\bhttps?://[!-~]+|\bwww\.[!-~]+",  # addresses end at the first character beyond ASCII
        r"\[\[[^\[\]]*\]\]",
    ]
)
ROLES = r":[a-z][a-z:+-]*:`|`+"  # reStructuredText and Markdown around code
FOLLOWED = np.zeros(0x80, np.uint32)  # by what a first character must be followed to begin any of the above; 0: by any
FOLLOWED[[ord(mark) for mark in ":[w"]] = [ord(mark) for mark in "/[w"]
CODE = r":[a-z][a-z:+-]*:`[^`]*`|``[^`]+``"


class Markup(Filter):
    """Share of a side's characters that are tags, entities, placeholders, addresses or marks of code, in [0, 1].

    The score is the larger of the two sides'. Names inside the marks are text, as they are part of the sentence. An
    empty side has no markup.
    """

    max: float | None = 0.4
    """Drops 6 % of Python's documentation and 7 % of GNOME's (0.3: 13 % and 11 %), none of the news and tales."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pc.max_element_wise(share(batch["src"]), share(batch["tgt"]))


def share(texts: pa.Array) -> pa.Array:
    """Share of characters that are markup, float64 in [0, 1]; 0 of an empty text."""
    hit = holds(texts)
    some = texts.filter(pa.array(hit))
    whole, bare = (
        np.asarray(pc.utf8_length(found)) for found in (some, pc.replace_substring_regex(some, f"{TAGS}|{ROLES}", ""))
    )
    found = np.zeros(len(texts))
    found[hit] = (whole - bare) / whole
    return pa.array(found)


def bare(texts: pa.Array) -> pa.Array:
    """`texts` without markup and without the code it holds: what is left to tell a language by."""
    return pc.replace_with_mask(texts, pa.array(holds(texts)), _bare(texts))


def of_bare(measure: Callable[[pa.Array], np.ndarray], texts: pa.Array) -> np.ndarray:
    """`measure` of `bare` texts: of the many without markup it is asked as they are, and of the others again."""
    found, hit = measure(texts), holds(texts)
    if hit.any():
        found[hit] = measure(_bare(texts))
    return found


@memoize_column
def holds(texts: pa.Array) -> np.ndarray:
    """bool [N]: whether each text may hold markup or code; most cannot, which is seen ten times as fast."""
    text = decode_column(texts)
    places = np.flatnonzero(text.kind & MARKUP > 0)
    wanted = FOLLOWED[text.points[places]]
    return text.holding(places[(wanted == 0) | (text.points[places + 1] == wanted)])


@memoize_column
def _bare(texts: pa.Array) -> pa.Array:
    """Of the texts that `holds` is true of, what is left without markup and code."""
    return pc.replace_substring_regex(texts.filter(pa.array(holds(texts))), f"{TAGS}|{CODE}", " ")
