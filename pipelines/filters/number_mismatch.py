"""Drops rows whose sides do not name the same numbers."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.filters import Filter, languages
from pipelines.languages import script
from pipelines.text.characters import DIGIT, SPACE, Characters, decode_column, digits

COMMAS = [ord(mark) for mark in ",،٬，"]
GROUPING = [*COMMAS, *(ord(mark) for mark in ".'’‘ʼ＇ \xa0\u2007\u2008\u2009\u202f٫．")]
"""Marks between the groups of digits of a long number, all scripts."""
MYRIADS = ("Hang", "Hani", "Hans", "Hant", "Hrkt", "Jpan", "Kore")


class NumberMismatch(Filter):
    """(1 + shared numbers) / (1 + numbers of either side), in (0, 1]: 1 where both sides have the same numbers or none.

    It is the Jaccard index of the two multisets of numbers, with 1 added so that one number which the other side
    spells out (0.5) weighs less than four that it has otherwise (0.2). The digits of all scripts are equal, whatever
    separates their groups: of three (1,234.5, 1.234,5 and 1 234,5 are each 1234 and 5), of lakh and crore with commas
    (12,34,567), and of four with commas, two of them or more (1,2345,6789), of which Chinese, Japanese and Korean,
    where no comma stands before decimals, need but one (123,4567). Other separators part numbers, so that a
    date is its three numbers in any order. Zeros do not count, so that 8:00 is 8; nor do superscripts.
    """

    min: float | None = 0.25
    """Drops at most 1 % of any language of NTREX-128 (inches that became centimetres) and WMT's news, and the shifted
    parts of TICO-19's Somali (7 %); 14 % of misaligned TICO-19, 4 % of misaligned news, which has fewer numbers."""

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
    """The numbers of a column, in order: the row of each, and its value modulo 2^64."""

    row: np.ndarray
    value: np.ndarray


def numbers(text: Characters, myriads: bool = False) -> Numbers:
    """The numbers of each text, as NumberMismatch reads them; a line feed ends each text, so none spans two.

    myriads: whether digits are grouped by four in their language, if they are grouped so at all.
    """
    places = np.flatnonzero(text.kind & DIGIT > 0)
    if not len(places):
        return Numbers(np.array([], np.int64), np.array([], np.uint64))
    runs = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    length = np.diff(runs, append=len(places))
    begin = places[runs]
    new = np.append(True, ~_joined(text, begin, length, myriads))[: len(begin)]
    number = np.repeat(np.cumsum(new) - 1, length)  # which number each digit belongs to
    last = np.cumsum(np.bincount(number)) - 1
    power = POWERS[np.minimum(last[number] - np.arange(len(places)), len(POWERS) - 1)]
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    row, value = text.row(begin[new]), np.add.reduceat(digits()[text.points[places]].astype(np.uint64) * power, starts)
    return Numbers(row[value > 0], value[value > 0])


def _joined(text: Characters, begin: np.ndarray, length: np.ndarray, myriads: bool) -> np.ndarray:
    """bool [R - 1]: whether each run of digits but the first goes on with the number of the one before.

    begin, length: [R] where in `text` the runs stand and how many digits they have.
    """
    before, after = length[:-1], length[1:]
    gap = begin[1:] - (begin[:-1] + before) == 1
    mark = text.points[begin[1:] - 1]
    joined = gap & np.isin(mark, GROUPING) & (after == 3) & (before <= 3)
    commas = gap & np.isin(mark, COMMAS)
    # A stretch of groups of two belongs to a lakh or crore where one or two digits and then three stand around it.
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
    # Groups have one mark: another one after them stands before decimals, as in 1,234.567.
    mark = np.where(text.kind[begin[1:] - 1] & SPACE > 0, ord(" "), mark)  # spaces may differ
    joined[1:] &= ~(joined[:-1] & (mark[1:] != mark[:-1]) & (after[1:] == 3))
    return joined


POWERS = np.array([pow(10, exponent, 1 << 64) for exponent in range(65)], np.uint64)  # 10^64 is 0 modulo 2^64
