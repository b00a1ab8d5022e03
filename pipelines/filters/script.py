"""Drops rows with a side that is not in the script of its language."""

from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import languages as codes
from pipelines.characters import HAN, each, mapped, points, read
from pipelines.errors import UserError
from pipelines.filters import Filter, languages
from pipelines.filters.length_ratio import density
from pipelines.filters.markup import of_bare

# Unicode's scripts, as RE2 names them, of each ISO 15924 code in use.
UNICODE = {
    "Arab": ("Arabic",), "Armn": ("Armenian",), "Beng": ("Bengali",), "Cans": ("Canadian_Aboriginal",),
    "Cher": ("Cherokee",), "Copt": ("Coptic",), "Cyrl": ("Cyrillic",), "Deva": ("Devanagari",), "Ethi": ("Ethiopic",),
    "Geor": ("Georgian",), "Grek": ("Greek",), "Gujr": ("Gujarati",), "Guru": ("Gurmukhi",), "Hang": ("Hangul",),
    "Hani": ("Han",), "Hans": ("Han",), "Hant": ("Han",), "Hebr": ("Hebrew",), "Hrkt": ("Hiragana", "Katakana"),
    "Jpan": ("Han", "Hiragana", "Katakana"), "Khmr": ("Khmer",), "Knda": ("Kannada",), "Kore": ("Hangul", "Han"),
    "Laoo": ("Lao",), "Latn": ("Latin",), "Mlym": ("Malayalam",), "Mong": ("Mongolian",), "Mtei": ("Meetei_Mayek",),
    "Mymr": ("Myanmar",), "Nkoo": ("Nko",), "Olck": ("Ol_Chiki",), "Orya": ("Oriya",), "Sinh": ("Sinhala",),
    "Sund": ("Sundanese",), "Syrc": ("Syriac",), "Taml": ("Tamil",), "Telu": ("Telugu",), "Tfng": ("Tifinagh",),
    "Thaa": ("Thaana",), "Thai": ("Thai",), "Tibt": ("Tibetan",), "Yiii": ("Yi",),
}  # fmt: skip
NEUTRAL = r"\p{Common}\p{Inherited}"  # letters of no script, such as the Japanese ー

BITS = 32
OTHER = 1 << BITS


class Script(Filter):
    """Share of a side's letters, markup and code aside, that are in the script of its language, in [0, 1].

    A Han character or a Hangul syllable counts for as many Latin letters as it stands for (DENSITY of length_ratio), or
    a foreign name would outweigh a Chinese sentence.
    The score is the smaller of the two sides'. A side without letters, such as a number or a date, scores 0: it holds
    no language to align. Hans and Hant are both Han: which of them it is this filter cannot say.
    """

    min: float | None = 0.4
    """Low enough for a sentence with a long foreign name; 0.5 drops another 1 % of the documentation corpora."""

    def check(self, pairs: list[codes.Pair]) -> None:
        for lang in sorted({lang for pair in pairs for lang in pair}):
            if codes.script(lang) not in UNICODE:
                raise UserError(
                    f"{lang}: script {codes.script(lang)} is not known. Allowed: {', '.join(sorted(UNICODE))}. "
                    f"Add it to UNICODE in pipelines/filters/script.py, or leave this filter out."
                )

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (share(batch[side], lang) for side, lang in zip(("src", "tgt"), languages(batch), strict=True))
        return pa.array(np.minimum(src, tgt))


def share(texts: pa.Array, lang: str) -> np.ndarray:
    """float64 [N]: the share of the letters of `texts` that are in the script of `lang`, as Script has it."""
    letters, weight = _letters(UNICODE.get(codes.script(lang), ())), density(lang)

    def measure(texts: pa.Array) -> np.ndarray:
        text = read(texts)
        counts = np.add.reduceat(mapped(text.points, letters), text.first)
        owned = (counts & OTHER - 1) / weight
        return owned / np.maximum(owned + (counts >> BITS), 1)

    return of_bare(measure, texts)


@cache
def _letters(script: tuple[str, ...]) -> np.ndarray:
    """int64 [0x110000]: 1 for a letter of the script, OTHER for one of another script, so that one sum counts both."""
    table = np.zeros(0x110000, np.int64)
    of_any, of_own = (
        np.asarray(pc.match_substring_regex(each(), pattern))
        for pattern in (rf"[^{NEUTRAL}\P{{L}}]", "|".join(rf"\p{{{name}}}" for name in script) or "^$")
    )
    table[points()[of_any]] = np.where(of_own[of_any], 1, OTHER)
    table[HAN] = 1 if "Han" in script else OTHER
    return table
