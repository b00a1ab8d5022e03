"""Texts as they came -> the same texts in one spelling: NFC, no control characters, single spaces.

Filters, keys and models then meet one form of each text. It changes how a text is encoded, never what it says.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.text.characters import C1, DROPPED, JOINING, SPACE, SPACES, STACKED, UNUSUAL, decode_column, nfc

NEL = "\x85"
WINDOWS_1252 = {code: bytes([code]).decode("cp1252", "replace").replace("\ufffd", " ") for code in range(0x80, 0xA0)}
"""What the C1 control characters stand for; of the five that windows-1252 leaves undefined, a space."""
_C1 = re.compile("[\x80-\x9f]")
_C1_BUT_NEL = re.compile("[\x80-\x84\x86-\x9f]")
_NEL_BREAK = re.compile(r"(?<=\S)\x85+(?=\S)")


def without_c1(text: str) -> str:
    """`text` with the characters of windows-1252 that its C1 controls (U+0080 to U+009F) stand for.

    No text has C1 controls: they come of windows-1252 read as Latin-1, and HTML maps references to them in the same way
    (https://html.spec.whatwg.org/multipage/parsing.html#numeric-character-reference-end-state). Only U+0085 has a use
    of its own, as a line break. It is one, and a space here, where it parts two words in a text without other C1
    controls; else it is an ellipsis.
    """
    if text.isascii() or not _C1.search(text):
        return text
    if NEL in text and not _C1_BUT_NEL.search(text):
        text = _NEL_BREAK.sub(" ", text)
    return text.translate(WINDOWS_1252)


def has_c1(text: str | np.ndarray) -> bool:
    """Whether a C1 control is in a text, or in its UTF-8 as uint8: there they are C2 80 to C2 9F."""
    if isinstance(text, str):
        if text.isascii():
            return False
        text = np.frombuffer(text.encode(), np.uint8)
    return bool(((text[:-1] == 0xC2) & (text[1:] < 0xA0)).any())


def c1_replaced(texts: pa.Array) -> pa.Array:
    """`without_c1` of each text; few have any."""
    mask = pc.match_substring_regex(texts, C1)
    if not pc.any(mask).as_py():
        return texts
    return pc.replace_with_mask(texts, mask, pa.array(map(without_c1, texts.filter(mask).to_pylist()), pa.string()))


def normalised(texts: pa.Array) -> pa.Array:
    """`texts` in NFC, without DROPPED, every run of SPACES one space, none at the ends. Doing it twice changes nothing.

    C1 controls become what they stand for. Source: Unicode Standard Annex 15 (NFC).
    """
    unsure = _unsure(texts)
    if not unsure.any():
        return texts
    some = pc.replace_substring_regex(c1_replaced(texts.filter(unsure)), f"{DROPPED}+", "")
    some = pc.utf8_trim(pc.replace_substring_regex(some, f"{SPACES}+", " "), " ")
    return pc.replace_with_mask(texts, unsure, nfc(some))


def _unsure(texts: pa.Array) -> np.ndarray:
    """bool [N]: whether each text may not be normalised yet; of most texts the characters say that they are."""
    text = decode_column(texts)
    odd = text.kind & (UNUSUAL | JOINING)
    odd[text.last] = 0
    # A space at either end stands beside the line feed between texts.
    for beside in (text.kind & SPACE, text.kind & STACKED):
        odd[1:] |= beside[1:] & beside[:-1]
    odd[:1] |= text.kind[:1] & SPACE
    return text.holding(np.flatnonzero(odd > 0))
