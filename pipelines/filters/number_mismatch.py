"""Drops rows whose sides contain different numbers."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.filters import Filter, languages
from pipelines.languages import script
from pipelines.text.characters import DIGIT, SPACE, Characters, decode_column, digits

COMMAS = [ord(mark) for mark in ",،٬，"]
GROUPING = [*COMMAS, *(ord(mark) for mark in ".'’‘ʼ＇ \xa0\u2007\u2008\u2009\u202f٫．")]
"""Separators between the digit groups of long numbers, in all scripts."""
MYRIADS = ("Hang", "Hani", "Hans", "Hant", "Hrkt", "Jpan", "Kore")
"""Scripts whose languages may group digits by four."""
POWERS = np.array([pow(10, exponent, 1 << 64) for exponent in range(65)], np.uint64)  # 10^64 is 0 modulo 2^64


class NumberMismatch(Filter):
    """Smoothed Jaccard index of the two multisets of numbers, in (0, 1]: (1 + intersection) / (1 + union).

    1 means that both sides have the same numbers or none. Due to the added 1, one number that the other side spells out
    (0.5) weighs less than four different ones (0.2). Digits of all scripts are equal. Grouping separators are ignored:

    - groups of three: 1,234.5, 1.234,5 and 1 234,5 are each 1234 and 5;
    - lakh and crore with commas: 12,34,567;
    - groups of four with at least two commas, 1,2345,6789, or one comma in Chinese, Japanese and Korean, 123,4567,
      where a comma is never a decimal separator.

    Other separators end a number, so a date is three numbers in any order. Zeros are ignored, so that 8:00 equals 8, as
    are superscripts.
    """

    min: float | None = 0.25

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        src, tgt = (
            numbers(decode_column(batch[side]), script(lang) in MYRIADS)
            for side, lang in zip(("src", "tgt"), languages(batch), strict=True)
        )
        row, value = np.concatenate([src.row, tgt.row]), np.concatenate([src.value, tgt.value])
        is_src = np.arange(len(row)) < len(src.row)
        order = np.lexsort((value, row))
        row, value, is_src = row[order], value[order], is_src[order]
        first = np.flatnonzero(np.append(True, (np.diff(row) != 0) | (value[1:] != value[:-1])))[: len(row)]
        of_src, of_tgt = (np.add.reduceat(which, first, dtype=np.int64) for which in (is_src, ~is_src))
        shared, either = (
            np.bincount(row[first], pick(of_src, of_tgt), minlength=batch.num_rows) for pick in (np.minimum, np.maximum)
        )
        return pa.array((1 + shared) / (1 + either))


class Numbers(NamedTuple):
    """The numbers of a column in order: the row of each, int64 [N], and its value modulo 2^64, uint64 [N]."""

    row: np.ndarray
    value: np.ndarray


def numbers(text: Characters, myriads: bool = False) -> Numbers:
    """Parse the numbers of each text as described in NumberMismatch.

    Args:
        text: Decoded column; the line feed after each text keeps numbers from spanning two.
        myriads: Whether a single comma may separate groups of four digits.
    """
    places = np.flatnonzero(text.kind & DIGIT > 0)
    if not len(places):
        return Numbers(np.array([], np.int64), np.array([], np.uint64))
    runs = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    length = np.diff(runs, append=len(places))
    begin = places[runs]
    new = np.append(True, ~_continues_number(text, begin, length, myriads))[: len(begin)]
    number = np.repeat(np.cumsum(new) - 1, length)  # index of the number that each digit belongs to
    last = np.cumsum(np.bincount(number)) - 1
    power = POWERS[np.minimum(last[number] - np.arange(len(places)), len(POWERS) - 1)]
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    row, value = text.row(begin[new]), np.add.reduceat(digits()[text.points[places]].astype(np.uint64) * power, starts)
    return Numbers(row[value > 0], value[value > 0])


def _continues_number(text: Characters, begin: np.ndarray, length: np.ndarray, myriads: bool) -> np.ndarray:
    """Return whether each run of digits but the first continues the number of the run before it, bool [R - 1].

    Args:
        text: Decoded column.
        begin: Position of each run in `text`, [R].
        length: Digits of each run, [R].
        myriads: As in `numbers`.
    """
    before, after = length[:-1], length[1:]
    gap = begin[1:] - (begin[:-1] + before) == 1
    mark = text.points[begin[1:] - 1]
    joined = gap & np.isin(mark, GROUPING) & (after == 3) & (before <= 3)
    commas = gap & np.isin(mark, COMMAS)
    # (digits per group, most digits before the first group, fewest groups). Groups of two are a lakh or crore only
    # between one or two digits and a final group of three.
    for size, most, least in ((2, 2, 1), (4, 3, 1 if myriads else 2)):
        group = commas & (after == size) if size == 2 else gap & (mark == ord(",")) & (after == size)
        first = np.flatnonzero(group & ~np.append(False, group[:-1]))
        last = np.flatnonzero(group & ~np.append(group[1:], False))
        fits = (before[first] <= most) & (last - first + 1 >= least)
        if size == 2:
            following = np.append(commas & (after == 3), False)
            fits &= following[last + 1]
        spans = np.zeros(len(group) + 1, np.int64)
        np.add.at(spans, first[fits], 1)
        np.add.at(spans, last[fits] + 1, -1)
        joined |= np.cumsum(spans)[:-1] > 0
    # A number has one grouping mark: another is a decimal separator, as in 1,234.567. Kinds of space may differ.
    mark = np.where(text.kind[begin[1:] - 1] & SPACE > 0, ord(" "), mark)
    joined[1:] &= ~(joined[:-1] & (mark[1:] != mark[:-1]) & (after[1:] == 3))
    return joined
