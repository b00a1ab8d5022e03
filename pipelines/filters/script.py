"""Drops rows with a side that is not in the script of its language."""

import contextlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import languages as codes
from pipelines.errors import UserError
from pipelines.filters import Filter, languages
from pipelines.filters.length_ratio import density
from pipelines.filters.markup import measure_bare
from pipelines.text.characters import HAN, decode_column, each, mapped, points

UNICODE = {
    "Adlm": ("Adlam",), "Aghb": ("Caucasian_Albanian",), "Ahom": ("Ahom",), "Arab": ("Arabic",),
    "Armi": ("Imperial_Aramaic",), "Armn": ("Armenian",), "Avst": ("Avestan",), "Bali": ("Balinese",),
    "Batk": ("Batak",), "Beng": ("Bengali",), "Bopo": ("Bopomofo",), "Brah": ("Brahmi",), "Bugi": ("Buginese",),
    "Cakm": ("Chakma",), "Cans": ("Canadian_Aboriginal",), "Cham": ("Cham",), "Cher": ("Cherokee",),
    "Copt": ("Coptic",), "Cprt": ("Cypriot",), "Cyrl": ("Cyrillic",), "Deva": ("Devanagari",),
    "Dsrt": ("Deseret",), "Egyp": ("Egyptian_Hieroglyphs",), "Ethi": ("Ethiopic",), "Geor": ("Georgian",),
    "Glag": ("Glagolitic",), "Goth": ("Gothic",), "Grek": ("Greek",), "Gujr": ("Gujarati",), "Guru": ("Gurmukhi",),
    "Hang": ("Hangul",), "Hani": ("Han",), "Hans": ("Han",), "Hant": ("Han",), "Hebr": ("Hebrew",),
    "Hmng": ("Pahawh_Hmong",), "Hmnp": ("Nyiakeng_Puachue_Hmong",), "Hrkt": ("Hiragana", "Katakana"),
    "Ital": ("Old_Italic",), "Java": ("Javanese",), "Jpan": ("Han", "Hiragana", "Katakana"), "Kali": ("Kayah_Li",),
    "Kana": ("Katakana",), "Khar": ("Kharoshthi",), "Khmr": ("Khmer",), "Knda": ("Kannada",),
    "Kore": ("Hangul", "Han"), "Lana": ("Tai_Tham",), "Laoo": ("Lao",), "Latf": ("Latin",), "Latg": ("Latin",),
    "Latn": ("Latin",), "Lepc": ("Lepcha",), "Limb": ("Limbu",), "Linb": ("Linear_B",), "Lisu": ("Lisu",),
    "Lyci": ("Lycian",), "Lydi": ("Lydian",), "Mand": ("Mandaic",), "Mlym": ("Malayalam",), "Modi": ("Modi",),
    "Mong": ("Mongolian",), "Mtei": ("Meetei_Mayek",), "Mymr": ("Myanmar",), "Newa": ("Newa",), "Nkoo": ("Nko",),
    "Ogam": ("Ogham",), "Olck": ("Ol_Chiki",), "Orkh": ("Old_Turkic",), "Orya": ("Oriya",), "Osge": ("Osage",),
    "Phli": ("Inscriptional_Pahlavi",), "Phlp": ("Psalter_Pahlavi",), "Phnx": ("Phoenician",), "Plrd": ("Miao",),
    "Prti": ("Inscriptional_Parthian",), "Rjng": ("Rejang",), "Rohg": ("Hanifi_Rohingya",), "Runr": ("Runic",),
    "Samr": ("Samaritan",), "Sarb": ("Old_South_Arabian",), "Saur": ("Saurashtra",), "Shaw": ("Shavian",),
    "Sinh": ("Sinhala",), "Sogd": ("Sogdian",), "Sund": ("Sundanese",), "Sylo": ("Syloti_Nagri",),
    "Syrc": ("Syriac",), "Tagb": ("Tagbanwa",), "Takr": ("Takri",), "Tale": ("Tai_Le",), "Talu": ("New_Tai_Lue",),
    "Taml": ("Tamil",), "Tavt": ("Tai_Viet",), "Telu": ("Telugu",), "Tfng": ("Tifinagh",), "Tglg": ("Tagalog",),
    "Thaa": ("Thaana",), "Thai": ("Thai",), "Tibt": ("Tibetan",), "Tirh": ("Tirhuta",), "Ugar": ("Ugaritic",),
    "Vaii": ("Vai",), "Wara": ("Warang_Citi",), "Xpeo": ("Old_Persian",), "Xsux": ("Cuneiform",), "Yiii": ("Yi",),
}  # fmt: skip
"""Unicode scripts, by their RE2 names, of each ISO 15924 code in use."""
NEUTRAL = r"\p{Common}\p{Inherited}"  # letters of no script, such as the Japanese ー

IN_SCRIPT = 0.5
"""Share of letters from which a text counts as written in a script."""
CHINESE_VARIANTS = {"Hans": "Hant", "Hant": "Hans"}
COUNT_BITS = 32
FOREIGN = 1 << COUNT_BITS
"""Weight of a letter of another script: the two halves of one int64 sum count both kinds."""


class Script(Filter):
    """Share of letters that are in the script of the side's language, in [0, 1]; the smaller of the two sides.

    Markup and code are ignored. Han characters and Hangul syllables are weighted by DENSITY of `length_ratio`, or a
    foreign name would outweigh a Chinese sentence. A side without letters, such as a number or a date, scores 0, as it
    contains no language to align. Hans and Hant share the Han script: a side scores 0 if it has more characters that
    only the other variant uses than ones that only its own uses (`only_in`).
    """

    min: float | None = 0.4
    """Low enough for a sentence with a long foreign name."""

    def check(self, pairs: list[codes.Pair]) -> None:
        for lang in sorted({lang for pair in pairs for lang in pair}):
            if codes.script(lang) not in UNICODE:
                raise UserError(
                    f"{lang}: found script {codes.script(lang)}, whose letters are unknown. Expected: "
                    f"{', '.join(sorted(UNICODE))}. Fix: write the language with the script of your data, such "
                    f"as {codes.alpha2(lang)}-Latn, or remove this filter from the recipe."
                )

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (share(batch[side], lang) for side, lang in zip(("src", "tgt"), languages(batch), strict=True))
        return pa.array(np.minimum(src, tgt))


def share(texts: pa.Array, lang: str) -> np.ndarray:
    """Return the share of letters of each text that are in the script of `lang`, as in Script, float64 [N]."""
    letters, weight = _letter_weights(UNICODE.get(codes.script(lang), ())), density(lang)
    variant = _variant_signs(codes.script(lang)) if codes.script(lang) in CHINESE_VARIANTS else None

    def measure(texts: pa.Array) -> np.ndarray:
        text = decode_column(texts)
        counts = np.add.reduceat(mapped(text.points, letters), text.first)
        native = (counts & FOREIGN - 1) / weight
        shares = native / np.maximum(native + (counts >> COUNT_BITS), 1)
        if variant is not None:
            shares[np.add.reduceat(mapped(text.points, variant), text.first, dtype=np.int64) < 0] = 0
        return shares

    return measure_bare(measure, texts)


def in_own_scripts(batch: pa.RecordBatch, other_scripts: Callable[[str], Sequence[str]]) -> pa.RecordBatch:
    """Return a BITEXT batch without the rows that have a side in another script of its language.

    Args:
        batch: Rows of one pair.
        other_scripts: Maps a language to the languages that its rows may be in instead (`Source.other_scripts`).
    """
    kept = np.ones(batch.num_rows, dtype=bool)
    for side, lang in zip(("src", "tgt"), languages(batch), strict=True) if batch.num_rows else ():
        for other in other_scripts(lang):
            kept &= (share(batch[side], lang) >= IN_SCRIPT) | (share(batch[side], other) < IN_SCRIPT)
    return batch if kept.all() else batch.filter(pa.array(kept))


def same_letters(one: str, other: str) -> bool:
    """Return whether two ISO 15924 scripts are equal or share letters, as Hans and Hant or Kore and Hang do."""
    return one == other or bool({*UNICODE.get(one, ())} & {*UNICODE.get(other, ())})


@cache
def _variant_signs(script: str) -> np.ndarray:
    """Return 1 for characters of only this Chinese variant, -1 for those of only the other one, int8 [0x110000]."""
    table = np.zeros(0x110000, np.int8)
    for variant, sign in ((script, 1), (CHINESE_VARIANTS[script], -1)):
        table[[ord(char) for char in only_in(variant)]] = sign
    return table


@cache
def only_in(script: str) -> str:
    """Return the characters that are used in only this one of simplified (Hans) and traditional (Hant) Chinese.

    Simplified: those of GB 2312 that Big5 lacks. Traditional: those of the 5,401 frequent ones of Big5 (level 1) that
    GB 2312 lacks; many of its rare ones occur in names in both variants.
    """
    simplified, traditional = (_encoded("gb2312"), _encoded("big5"))
    if script == "Hans":
        return "".join(char for char in simplified if char not in traditional)
    return "".join(char for char, code in traditional.items() if code < b"\xc6\xa1" and char not in simplified)


def _encoded(charset: str) -> dict[str, bytes]:
    """Return {Han character: its bytes} for a Chinese character set."""
    encoded = {}
    for point in range(0x4E00, 0xA000):
        with contextlib.suppress(UnicodeEncodeError):
            encoded[chr(point)] = chr(point).encode(charset)
    return encoded


@cache
def _letter_weights(scripts: tuple[str, ...]) -> np.ndarray:
    """Return 1 for letters of `scripts`, FOREIGN for letters of other scripts, else 0, int64 [0x110000]."""
    table = np.zeros(0x110000, np.int64)
    is_letter, is_native = (
        np.asarray(pc.match_substring_regex(each(), pattern))
        for pattern in (rf"[^{NEUTRAL}\P{{L}}]", "|".join(rf"\p{{{name}}}" for name in scripts) or "^$")
    )
    table[points()[is_letter]] = np.where(is_native[is_letter], 1, FOREIGN)
    table[HAN] = 1 if "Han" in scripts else FOREIGN
    return table
