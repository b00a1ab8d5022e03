"""Drops rows with a side that says the same again and again: rules of dashes, laughter, loops of a machine."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.characters import Characters, decode_column, grams, per_row, portions

PERIODS = range(1, 13)  # characters; the mean word has 5, and 99 % of words have fewer than 13
N = 16  # characters of a repeat that need not follow at once


class Repetition(Filter):
    """Share of a side's characters that only repeat what stands before them, in [0, 1]; the larger of the two sides'.

    Two kinds of repeat are looked for, and the larger share counts: one to twelve characters that follow themselves
    at least twice (-----, ha ha ha, 好好好), and 16 characters that occurred before anywhere in the side. The first
    occurrence is no repeat: five equal words score 0.8. An empty side scores 0.
    It needs no words, so that all scripts are treated alike.
    Source: the repetition rules of Gopher, Rae et al. 2021, arXiv 2112.11446, table A1, put into characters.
    """

    max: float | None = 0.3
    """Drops at most 0.3 % of any language of NTREX-128, TICO-19, WMT's news and Tatoeba."""

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pa.array(np.maximum(repeated(batch["src"]), repeated(batch["tgt"])))


def repeated(texts: pa.Array) -> np.ndarray:
    """float64 [N]: the share of repeated characters of each text."""
    at_once = _following(decode_column(texts))
    anywhere = np.concatenate([_anywhere(decode_column(part)) for part in portions(texts)])
    return np.maximum(at_once, anywhere) / np.maximum(np.asarray(pc.utf8_length(texts)), 1)


def _following(text: Characters) -> np.ndarray:
    """int64 [N]: the most characters of each text that follow their like with one of PERIODS."""
    points, rows = _parted(text), len(text.first)
    most = np.zeros(rows, np.int64)
    for period in PERIODS:
        same = points[period:] == points[:-period]
        same = same[:-1] & same[1:]  # 2 of 2 or more in a row, of 4 or more below: few places are left to look at
        if period > 1:
            same = same[:-2] & same[2:]
        places = np.flatnonzero(same)
        begin = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        length = np.diff(begin, append=len(places)) + (1 if period == 1 else 3)
        long = length >= 2 * period
        row = text.row(places[begin[long]] + period)
        most = np.maximum(most, np.bincount(row, length[long], minlength=rows).astype(np.int64))
    return most


def _anywhere(text: Characters) -> np.ndarray:
    """int64 [N]: how many of each text's N-grams stood in it before; at most PORTION texts."""
    keys = np.sort(grams(text, _parted(text), N))
    return per_row(np.append(False, keys[1:] == keys[:-1])[: len(keys)], keys, len(text.first))


def _parted(text: Characters) -> np.ndarray:
    """The code points, with a different one beyond Unicode after each text, so that no repeat spans two texts."""
    points = text.points.copy()
    points[text.last] = 0x110000 + np.arange(len(text.first))
    return points
