"""Drops rows with a side that is not in the script of its language."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import languages as codes
from pipelines.filters import Filter, languages
from pipelines.filters.length_ratio import density
from pipelines.filters.markup import bare

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


class Script(Filter):
    """Share of a side's letters, markup and code aside, that are in the script of its language, in [0, 1].

    A Han character or a Hangul syllable counts for as many Latin letters as it stands for (DENSITY of length_ratio), or
    a foreign name would outweigh a Chinese sentence.
    The score is the smaller of the two sides'. A side without letters, such as a number or a date, scores 0: it holds
    no language to align. Hans and Hant are both Han: which of them it is this filter cannot say.
    """

    min: float | None = 0.4
    """Low enough for a sentence with a long foreign name; 0.5 drops another 1 % of the documentation corpora."""
    modules = ("pipelines.filters.markup", "pipelines.filters.length_ratio")

    def check(self, pairs: list[codes.Pair]) -> None:
        for lang in sorted({lang for pair in pairs for lang in pair}):
            if codes.script(lang) not in UNICODE:
                raise ValueError(
                    f"{lang}: script {codes.script(lang)} is not known. Allowed: {', '.join(sorted(UNICODE))}. "
                    f"Add it to UNICODE in pipelines/filters/script.py, or leave this filter out."
                )

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (share(batch[side], lang) for side, lang in zip(("src", "tgt"), languages(batch), strict=True))
        return pc.min_element_wise(src, tgt)


def share(texts: pa.Array, lang: str) -> pa.Array:
    """Share of the letters of `texts` that are in the script of `lang`, as Script has it, float64."""
    own = "".join(rf"\p{{{name}}}" for name in UNICODE.get(codes.script(lang), ()))
    letters = pc.replace_substring_regex(bare(texts), rf"[{NEUTRAL}\P{{L}}]+", "")
    foreign = pc.utf8_length(pc.replace_substring_regex(letters, f"[{own}]+", "") if own else letters)
    others = pc.cast(foreign, pa.float64())
    owned = pc.divide(pc.cast(pc.subtract(pc.utf8_length(letters), foreign), pa.float64()), density(lang))
    return pc.divide(owned, pc.max_element_wise(pc.add(owned, others), 1.0))
