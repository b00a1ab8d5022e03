"""Drops rows with a repetitive side: lines of dashes, laughter, degenerate machine output."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.filters import Filter
from pipelines.text.characters import Characters, decode_column, grams, per_row, portions

PERIODS = range(1, 13)  # characters; the mean word has 5, and 99 % of words have fewer than 13
N = 16  # characters of a repeat that need not be adjacent


class Repetition(Filter):
    """Share of characters that repeat earlier ones, in [0, 1]; the larger of the two sides.

    The score is the larger of two shares: units of one to twelve characters that are repeated immediately at least
    twice (-----, ha ha ha, 好好好), and 16-grams that occurred earlier in the side. The first occurrence does not
    count: five equal words score 0.8. An empty side scores 0. Words are not segmented: all scripts are treated alike.
    Source: the repetition rules of Gopher, Rae et al. 2021, arXiv 2112.11446, table A1, applied to characters.
    """

    max: float | None = 0.3

    def score(self, batch: pa.RecordBatch, loaded: None = None) -> pa.Array:
        return pa.array(np.maximum(repeated(batch["src"]), repeated(batch["tgt"])))


def repeated(texts: pa.Array) -> np.ndarray:
    """Return the share of repeated characters of each text, float64 [N]."""
    adjacent = _count_adjacent(decode_column(texts))
    distant = np.concatenate([_count_distant(decode_column(part)) for part in portions(texts)])
    return np.maximum(adjacent, distant) / np.maximum(np.asarray(pc.utf8_length(texts)), 1)


def _count_adjacent(text: Characters) -> np.ndarray:
    """Return the characters of each text that repeat those one period earlier, for the best of PERIODS, int64 [N]."""
    points, rows = _with_separators(text), len(text.first)
    most = np.zeros(rows, np.int64)
    for period in PERIODS:
        same = points[period:] == points[:-period]
        same = same[:-1] & same[1:]  # require 2 matches in a row, 4 below, to leave few places to examine
        if period > 1:
            same = same[:-2] & same[2:]
        places = np.flatnonzero(same)
        begin = np.flatnonzero(np.diff(places, prepend=-2) != 1)
        length = np.diff(begin, append=len(places)) + (1 if period == 1 else 3)
        long = length >= 2 * period
        row = text.row(places[begin[long]] + period)
        most = np.maximum(most, np.bincount(row, length[long], minlength=rows).astype(np.int64))
    return most


def _count_distant(text: Characters) -> np.ndarray:
    """Return how many N-grams of each text occurred in it earlier, int64 [N]; for at most PORTION texts."""
    keys = np.sort(grams(text, _with_separators(text), N))
    return per_row(np.append(False, keys[1:] == keys[:-1])[: len(keys)], keys, len(text.first))


def _with_separators(text: Characters) -> np.ndarray:
    """Return the code points with a distinct non-Unicode one after each text, so that no repeat spans two texts."""
    points = text.points.copy()
    points[text.last] = 0x110000 + np.arange(len(text.first))
    return points
