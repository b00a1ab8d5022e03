"""Drops rows that are tags, placeholders, addresses and code rather than language."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter

TAGS = "|".join(
    [
        r"<!--[^>]*-->",
        r"</?[A-Za-z][^<>]*>",  # a < b > c is none
        r"&(?:#[0-9]+|#x[0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]+);",
        r"\{\{[^{}]*\}\}|[$%#]?\{ ?[-\w.:!$]* ?\}",  # {{x}}, ${x}, %{x}, {0}, {}, { -brand-name }
        r"%\([^()\s]*\)[#0+-]?[0-9.]*[a-zA-Z]?|%[0-9]+\$[@a-zA-Z]|%[0-9.]*l?l?[sdiufgxcS@]",  # %(x)s, %1$s, %d
        r"\bhttps?://[!-~]+|\bwww\.[!-~]+",  # addresses end at the first character beyond ASCII
        r"\[\[[^\[\]]*\]\]",
    ]
)
ROLES = r":[a-z][a-z:+-]*:`|`+"  # reStructuredText and Markdown around code
HINT = r"[<&{%`]|://|www\.|\[\["  # every match of the above holds one of these
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
    whole = pc.utf8_length(texts)
    marks = pc.subtract(whole, pc.utf8_length(_replaced(texts, f"{TAGS}|{ROLES}", "")))
    return pc.divide(pc.cast(marks, pa.float64()), pc.cast(pc.max_element_wise(whole, 1), pa.float64()))


def bare(texts: pa.Array) -> pa.Array:
    """`texts` without markup and without the code it holds: what is left to tell a language by."""
    return _replaced(texts, f"{TAGS}|{CODE}", " ")


def _replaced(texts: pa.Array, pattern: str, by: str) -> pa.Array:
    """`texts` with every match replaced; the many that cannot hold one are passed over, ten times as fast."""
    hit = pc.match_substring_regex(texts, HINT)
    return pc.replace_with_mask(texts, hit, pc.replace_substring_regex(texts.filter(hit), pattern, by))
