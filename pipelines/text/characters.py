"""A column of texts -> one array of its characters, for whoever counts or maps characters: a few ns each."""

import re
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

T = TypeVar("T")

LETTER, DIGIT, SPACE, OPEN, CLOSE, JOINING, STACKED, UNUSUAL, MARKUP = (1 << bit for bit in range(9))
"""Bits of kinds(). Letters include the marks that vowels are written by. JOINING: normal form C changes it, or joins it
to what stands before. STACKED: a mark that has its order among others. UNUSUAL: no text in one spelling has it. MARKUP:
it may begin markup."""
CATEGORIES = {
    "L": LETTER, "M": LETTER, "Nd": DIGIT, "Z": SPACE, "Cc": SPACE, "Ps": OPEN, "Pi": CLOSE, "Pe": CLOSE, "Pf": CLOSE,
}  # fmt: skip
# Controls, and the format characters that carry no text: soft hyphen, zero-width space and no-break space, word joiner,
# marks and changes of direction. U+200C and U+200D stay: Persian, the Indic scripts and emoji are spelt with them.
DROPPED = (
    r"[\x{00}-\x{08}\x{0E}-\x{1B}\x{7F}\x{AD}"
    r"\x{200B}\x{200E}\x{200F}\x{202A}-\x{202E}\x{2060}\x{2066}-\x{2069}\x{FEFF}]"
)
SPACES = r"[\p{Z}\t\n\v\f\r\x{1C}-\x{1F}\x{85}]"
"""Unicode's separators and the controls that break or space a line or part fields."""
C1 = r"[\x{80}-\x{9F}]"
"""The C1 controls: characters of windows-1252 in disguise (`normalise.without_c1`)."""
MARKS = "<&{%`:[w"  # of http://, [[ and www. the first character
RARE = 0x20000  # from here on there are rare Han characters, tags and private use: none is looked at one by one
HAN = slice(RARE, 0x323B0)
REMEMBERED = 4  # columns: both sides of a batch, and what they became
PORTION = 256  # rows whose n-grams are sorted at once: their number fits 8 bits, their keys the processor's cache
MOST_MARKS, JOINER = 30, "\u034f"
FACTOR = 0x9E3779B1  # a prime near 2^32 over the golden ratio: spreads what it multiplies over all 32 bits


@dataclass(frozen=True, eq=False)
class Characters:
    """Code points of N texts, one after the other; each text is followed by a line feed, so that none is empty."""

    points: np.ndarray
    """uint32 [C]"""
    first: np.ndarray
    """int64 [N]: where in `points` each text begins."""

    @classmethod
    def of(cls, texts: pa.Array) -> "Characters":
        """The characters of `texts`, which hold no null."""
        whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
        joined = pc.binary_join(whole, "\n")[0].as_py() + "\n" * bool(len(texts))
        lengths = np.asarray(pc.utf8_length(texts), np.int64) + 1
        return cls(np.frombuffer(joined.encode("utf-32-le"), np.uint32), np.cumsum(lengths) - lengths)

    @cached_property
    def kind(self) -> np.ndarray:
        """uint16 [C]: the kinds() of each."""
        return mapped(self.points, kinds())

    @property
    def last(self) -> np.ndarray:
        """int64 [N]: where in `points` the line feed of each text stands."""
        return np.append(self.first[1:], len(self.points))[: len(self.first)] - 1

    def count(self, which: np.ndarray) -> np.ndarray:
        """int64 [N]: how many characters of each text are true in the bool [C] `which`."""
        return np.add.reduceat(which, self.first, dtype=np.int64)

    def row(self, places: np.ndarray) -> np.ndarray:
        """int64 [P]: the text that holds each of P places in `points`."""
        return np.searchsorted(self.first, places, side="right") - 1

    def holding(self, places: np.ndarray) -> np.ndarray:
        """bool [N]: whether each text holds any of P places in `points`."""
        found = np.zeros(len(self.first), bool)
        found[self.row(places)] = True
        return found


def mapped(points: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[points], by Arrow: it neither converts the places nor checks them, and takes a third of the time."""
    return np.asarray(pc.take(pa.array(table), pa.array(points), boundscheck=False))


def memoize_column(derive: Callable[[pa.Array], T]) -> Callable[[pa.Array], T]:
    """`derive` with its last few results at hand: the filters of a batch ask for the same of one column."""
    own = threading.local()

    @wraps(derive)
    def found(texts: pa.Array) -> T:
        held = own.__dict__.setdefault("held", OrderedDict())
        key = (texts.offset, len(texts), *(buffer.address for buffer in texts.buffers() if buffer))
        if key not in held:
            held[key] = texts, derive(texts)  # with the texts, or others could take their place in memory
            if len(held) > REMEMBERED:
                held.popitem(last=False)
        return held[key][1]

    return found


decode_column = memoize_column(Characters.of)
"""The characters of a column, read once for all who ask of it."""


@cache
def points() -> np.ndarray:
    """uint32: the code points below RARE that are characters."""
    return np.concatenate([np.arange(0xD800, dtype=np.uint32), np.arange(0xE000, RARE, dtype=np.uint32)])


@cache
def each() -> pa.Array:
    """The characters of points(), one a text."""
    return pa.array(list(points().tobytes().decode("utf-32-le")), pa.string())


@cache
def kinds() -> np.ndarray:
    """uint16 [0x110000]: the kind of each code point, in bits."""
    known = np.zeros(0x110000, np.uint16)
    texts = each().to_pylist()
    categories = list(map(unicodedata.category, texts))
    bits = {name: CATEGORIES.get(name) or CATEGORIES.get(name[0], 0) for name in set(categories)}
    bits["Cn"] = JOINING  # not in Python's Unicode, but maybe in Arrow's
    known[points()] = [bits[name] for name in categories]
    known[HAN] = LETTER | JOINING
    known[[ord(mark) for mark in MARKS]] |= MARKUP
    composed, apart = (pc.utf8_normalize(each(), form=form) for form in ("NFC", "NFD"))
    changed = np.asarray(pc.not_equal(composed, each()))
    later = set("".join(text[1:] for text in apart.filter(pc.not_equal(apart, each())).to_pylist()))
    known[points()[changed]] |= JOINING
    known[[ord(mark) for mark in later]] |= JOINING
    stacked = [name[0] == "M" and unicodedata.combining(text) > 0 for name, text in zip(categories, texts, strict=True)]
    known[points()[stacked]] |= STACKED
    unusual = np.asarray(pc.match_substring_regex(each(), f"{DROPPED}|{SPACES}|{C1}"))
    known[points()[unusual]] |= UNUSUAL
    known[ord(" ")] = SPACE
    return known


@cache
def digits() -> np.ndarray:
    """int8 [0x110000]: the decimal value of each code point; -1 where it is no digit."""
    table = np.full(0x110000, -1, np.int8)
    for point in np.flatnonzero(kinds() & DIGIT):
        table[point] = unicodedata.decimal(chr(point))
    return table


def nfc(texts: pa.Array) -> pa.Array:
    """`texts` in normal form C, in time linear in their length; doing it twice changes nothing.

    Putting combining marks into their order takes the square of how many stand together. More than MOST_MARKS, which
    no language has, are therefore separated by combining grapheme joiners: the Stream-Safe Text Process of Unicode
    Standard Annex 15, section 13.
    """
    return _stream_safe(pc.utf8_normalize(_stream_safe(texts), form="NFC"))  # again, as U+0344 becomes two marks


def _stream_safe(texts: pa.Array) -> pa.Array:
    text = Characters.of(texts)
    places = np.flatnonzero(text.kind & STACKED > 0)
    long = places[MOST_MARKS:][places[MOST_MARKS:] - places[:-MOST_MARKS] == MOST_MARKS]
    if not len(long):
        return texts
    rows = text.holding(long)
    marks = "".join(map(chr, np.flatnonzero(kinds() & STACKED)))
    full = re.compile(f"[{marks}]{{{MOST_MARKS}}}(?=[{marks}])")
    separated = [full.sub(rf"\g<0>{JOINER}", text) for text in texts.filter(pa.array(rows)).to_pylist()]
    return pc.replace_with_mask(texts, rows, pa.array(separated, pa.string()))


def portions(rows: Any) -> Iterator[Any]:
    """An array or a batch in slices of PORTION; one empty slice where there are none."""
    for first in range(0, max(len(rows), 1), PORTION):
        yield rows.slice(first, PORTION)


def grams(text: Characters, points: np.ndarray, n: int) -> np.ndarray:
    """uint32 [C - n + 1]: a key for the n code points from each place on; n is a power of 2, `points` those of `text`.

    The upper 8 bits say which text it is, the others are a polynomial in FACTOR (Karp and Rabin 1987), made by joining
    halves: sorted, the equal ones of a text stand together. Of 1,000 keys of a text 0.03 are taken for another one;
    64 bits took twice as long.
    """
    found = points * np.uint32(FACTOR)
    width = 1
    while width < n:
        found = found[:-width] * np.uint32(pow(FACTOR, width, 1 << 32)) + found[width:]
        width *= 2
    lengths = np.diff(text.first, append=len(points))
    which = np.repeat(np.arange(len(lengths), dtype=np.uint32) << np.uint32(24), lengths)
    return found >> np.uint32(8) | which[: len(found)]


def per_row(which: np.ndarray, keys: np.ndarray, rows: int) -> np.ndarray:
    """int64 [rows]: how many of the sorted `keys` are true in `which`, for each text."""
    bounds = np.append(np.searchsorted(keys, np.arange(rows, dtype=np.uint32) << np.uint32(24)), len(keys))
    return np.diff(np.append(0, np.cumsum(which, dtype=np.int32))[bounds])
