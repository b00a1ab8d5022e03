"""Texts as they came -> the same texts in one spelling: NFC, no control characters, single spaces.

Filters, keys and models then meet one form of each text. It changes how a text is encoded, never what it says.
"""

import pyarrow as pa
import pyarrow.compute as pc

# Unicode's separators and the controls that break or space a line.
SPACES = r"[\p{Z}\t\n\v\f\r\x{85}]"
# Controls, and the format characters that carry no text: soft hyphen, zero-width space and no-break space, word joiner,
# marks and changes of direction. U+200C and U+200D stay: Persian, the Indic scripts and emoji are spelt with them.
DROPPED = (
    r"[\x{00}-\x{08}\x{0E}-\x{1F}\x{7F}-\x{84}\x{86}-\x{9F}\x{AD}"
    r"\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}\x{2066}-\x{2069}\x{FEFF}]"
)
BROAD = r"\t\n\v\f\r\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"  # SPACES but " "
UNUSUAL = rf"{DROPPED}|[{BROAD}]|  |^ | $"


def normalised(texts: pa.Array) -> pa.Array:
    """`texts` in NFC, without DROPPED, every run of SPACES one space, none at the ends. Doing it twice changes nothing.

    Source: Unicode Standard Annex 15 (NFC).
    """
    unusual = pc.match_substring_regex(texts, UNUSUAL)  # few texts hold such: the others are passed over
    if pc.any(unusual).as_py():
        some = pc.replace_substring_regex(texts.filter(unusual), f"{DROPPED}+", "")
        some = pc.utf8_trim(pc.replace_substring_regex(some, f"{SPACES}+", " "), " ")
        texts = pc.replace_with_mask(texts, unusual, some)
    wide = pc.invert(pc.string_is_ascii(texts))
    if pc.any(wide).as_py():
        texts = pc.replace_with_mask(texts, wide, pc.utf8_normalize(texts.filter(wide), form="NFC"))
    return texts
