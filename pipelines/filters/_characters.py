"""A column of texts -> one array of its characters, for filters that count characters by kind: a few ns each."""

import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LETTER, SPACE, OPEN, CLOSE = 1, 2, 4, 8  # bits of kinds()
KINDS = {"L": LETTER, "M": LETTER, "Z": SPACE, "Cc": SPACE, "Ps": OPEN, "Pi": CLOSE, "Pe": CLOSE, "Pf": CLOSE}
PORTION = 256  # rows whose n-grams are sorted at once: their number fits 8 bits, their keys the processor's cache
FACTOR = 0x9E3779B1  # a prime near 2^32 over the golden ratio: spreads what it multiplies over all 32 bits


class Characters(NamedTuple):
    """Code points of N texts, one after the other; each text is followed by a line feed, so that none is empty."""

    points: np.ndarray
    """uint32 [C]"""
    first: np.ndarray
    """int64 [N]: where in `points` each text begins."""

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


def read(texts: pa.Array) -> Characters:
    """The characters of `texts`, which hold no null."""
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts), "\n")[0].as_py()
    lengths = np.asarray(pc.utf8_length(texts), np.int64) + 1
    return Characters(np.frombuffer(f"{joined}\n".encode("utf-32-le"), np.uint32), np.cumsum(lengths) - lengths)


@cache
def kinds() -> np.ndarray:
    """uint8 [0x110000]: the kind of each code point, in bits; letters include the marks that vowels are written by."""
    known = np.zeros(0x110000, np.uint8)
    for point in (*range(0x40000), *range(0xE0000, 0xE1000)):  # no letters, spaces or brackets beyond
        category = unicodedata.category(chr(point))
        known[point] = KINDS.get(category) or KINDS.get(category[0], 0)
    return known


@cache
def digits() -> np.ndarray:
    """int8 [0x110000]: the decimal value of each code point; -1 where it is no digit."""
    table = np.full(0x110000, -1, np.int8)
    for point in range(0x20000):
        table[point] = unicodedata.decimal(chr(point), -1)
    return table


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
