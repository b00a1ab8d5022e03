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
from pipelines.filters.markup import of_bare
from pipelines.text.characters import HAN, decode_column, each, mapped, points

# Unicode's scripts, as RE2 names them, of each ISO 15924 code in use.
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
NEUTRAL = r"\p{Common}\p{Inherited}"  # letters of no script, such as the Japanese ー

OWN_SCRIPT = 0.5
"""Share of letters from which a text is in a script."""
OPPOSITE = {"Hans": "Hant", "Hant": "Hans"}
BITS = 32
OTHER = 1 << BITS


class Script(Filter):
    """Share of a side's letters, markup and code aside, that are in the script of its language, in [0, 1].

    A Han character or a Hangul syllable counts for as many Latin letters as it stands for (DENSITY of length_ratio), or
    a foreign name would outweigh a Chinese sentence.
    The score is the smaller of the two sides'. A side without letters, such as a number or a date, scores 0: it holds
    no language to align. Hans and Hant are both Han: a side with more characters that only the other one has than such
    that only its own has (`only_in`) is in the other script.
    """

    min: float | None = 0.4
    """Low enough for a sentence with a long foreign name; 0.5 drops another 1 % of the documentation corpora."""

    def check(self, pairs: list[codes.Pair]) -> None:
        for lang in sorted({lang for pair in pairs for lang in pair}):
            if codes.script(lang) not in UNICODE:
                raise UserError(
                    f"{lang}: found script {codes.script(lang)}, of which no letters are known. Allowed: "
                    f"{', '.join(sorted(UNICODE))}. Write the language with the script that your data are in, such as "
                    f"{codes.alpha2(lang)}-Latn, or leave this filter out."
                )

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (share(batch[side], lang) for side, lang in zip(("src", "tgt"), languages(batch), strict=True))
        return pa.array(np.minimum(src, tgt))


def share(texts: pa.Array, lang: str) -> np.ndarray:
    """float64 [N]: the share of the letters of `texts` that are in the script of `lang`, as Script has it."""
    letters, weight = _letters(UNICODE.get(codes.script(lang), ())), density(lang)
    opposed = _opposed(codes.script(lang)) if codes.script(lang) in OPPOSITE else None

    def measure(texts: pa.Array) -> np.ndarray:
        text = decode_column(texts)
        counts = np.add.reduceat(mapped(text.points, letters), text.first)
        owned = (counts & OTHER - 1) / weight
        shares = owned / np.maximum(owned + (counts >> BITS), 1)
        if opposed is not None:
            shares[np.add.reduceat(mapped(text.points, opposed), text.first, dtype=np.int64) < 0] = 0
        return shares

    return of_bare(measure, texts)


def in_own_scripts(batch: pa.RecordBatch, other_scripts: Callable[[str], Sequence[str]]) -> pa.RecordBatch:
    """The rows of a BITEXT batch without those of which a side is rather in another script.

    other_scripts: of a language, the languages that its rows may be in instead (`Source.other_scripts`).
    """
    kept = np.ones(batch.num_rows, dtype=bool)
    for side, lang in zip(("src", "tgt"), languages(batch), strict=True) if batch.num_rows else ():
        for other in other_scripts(lang):
            kept &= (share(batch[side], lang) >= OWN_SCRIPT) | (share(batch[side], other) < OWN_SCRIPT)
    return batch if kept.all() else batch.filter(pa.array(kept))


def same_letters(one: str, other: str) -> bool:
    """Whether two scripts, as ISO 15924 has them, share letters: Hans and Hant, Kore and Hang; or are the same."""
    return one == other or bool({*UNICODE.get(one, ())} & {*UNICODE.get(other, ())})


@cache
def _opposed(script: str) -> np.ndarray:
    """int8 [0x110000]: 1 for a character of this of Hans and Hant alone, -1 for one of the other alone."""
    table = np.zeros(0x110000, np.int8)
    for own, sign in ((script, 1), (OPPOSITE[script], -1)):
        table[[ord(char) for char in only_in(own)]] = sign
    return table


@cache
def only_in(script: str) -> str:
    """The characters that of simplified and traditional Chinese writing this one alone has.

    Simplified: those of GB 2312 that Big5 lacks. Traditional: those among the 5,401 frequent ones of Big5 (its level 1)
    that GB 2312 lacks; of the rare ones many are names that both have.
    """
    simplified, traditional = (_encoded("gb2312"), _encoded("big5"))
    if script == "Hans":
        return "".join(char for char in simplified if char not in traditional)
    return "".join(char for char, code in traditional.items() if code < b"\xc6\xa1" and char not in simplified)


def _encoded(charset: str) -> dict[str, bytes]:
    """{Han character: its bytes} of a Chinese character set."""
    found = {}
    for point in range(0x4E00, 0xA000):
        with contextlib.suppress(UnicodeEncodeError):
            found[chr(point)] = chr(point).encode(charset)
    return found


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
