"""Vectorized word hashing: texts of any script -> word numbers, without vocabularies or models.

A word is a run of letters and marks, a run of digits, or one punctuation mark or symbol; case is ignored. In scripts
without spaces each Han or kana character is a word, and in Thai, Lao, Khmer, Burmese and Tibetan every two characters.
"""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BITS = 22  # of a word number; 1 % of a vocabulary of 40,000 collide
STEM = 5  # letters
LETTER, DIGIT, SYLLABLE, CHARACTER, MARK = 1, 2, 3, 4, 5
ALPHABET = 0x20000  # code points from here on are rare Han characters, which are treated as one
SYLLABIC = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}ー]"
POSITIONS = 64  # distinct positions in a word; longer words reuse them


class Words(NamedTuple):
    """Words of N texts in order: text i has words[starts[i] : starts[i + 1]]."""

    starts: np.ndarray
    """int64 [N + 1]"""
    words: np.ndarray
    """int64 [T] in [0, 2**BITS)"""
    stems: np.ndarray
    """int64 [T]: the number of the first STEM letters of a longer word, else -1."""


def words(texts: pa.Array) -> Words:
    """Segment and hash the words of `texts`."""
    kinds, codes, weights = _tables()
    starts = np.append(0, np.cumsum(np.asarray(pc.utf8_length(texts)), dtype=np.int64))
    text = np.frombuffer("".join(texts.to_pylist()).encode("utf-32-le"), np.uint32)
    if not len(text):
        return Words(np.zeros(len(texts) + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
    text = np.minimum(text, ALPHABET)
    kind, code = kinds[text], codes[text]
    is_start = np.ones(len(text) + 1, bool)
    is_start[1:-1] = (kind[1:] != kind[:-1]) | (kind[1:] >= SYLLABLE)
    is_start[starts] = True
    first = np.flatnonzero(is_start)
    lengths, first = np.diff(first), first[:-1]
    place = np.arange(len(text)) - np.repeat(first, lengths)
    # A word's hash is the sum of code * weight of position, so cumulative sums give all words at once.
    sums = np.zeros(len(text) + 1, np.uint64)
    np.cumsum(code * weights[place % POSITIONS], out=sums[1:])
    is_word = kind[first] > 0
    first, lengths = first[is_word], lengths[is_word]
    kind_of, last = kind[first], first + lengths
    hashes = sums[last] - sums[first]
    long = (kind_of == LETTER) & (lengths > STEM)
    stems = np.full(len(first), -1)
    stems[long] = _number(sums[first[long] + STEM] - sums[first[long]] + np.uint64(LETTER))
    pairs = np.flatnonzero((kind_of == SYLLABLE) & ~is_text_boundary(starts, last))
    pairs = pairs[kind[last[pairs]] == SYLLABLE]
    hashes[pairs] += code[last[pairs]] * weights[1]
    return Words(np.searchsorted(first, starts), _number(hashes), stems)


def is_text_boundary(starts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return whether each place is the start of a text or the end of the last one."""
    return starts[np.searchsorted(starts, places)] == places


def _number(hashes: np.ndarray) -> np.ndarray:
    return (_scramble(hashes) >> np.uint64(64 - BITS)).astype(np.int64)


def _scramble(numbers: np.ndarray) -> np.ndarray:
    """Apply the finalizer of SplitMix64 (Steele et al. 2014, doi 10.1145/2714064.2660195, figure 16)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, per code point, its kind and the hash of its lower-case letter or digit; and the odd position weights."""
    numbers = np.setdiff1d(np.arange(ALPHABET, dtype=np.uint32), np.arange(0xD800, 0xE000, dtype=np.uint32))
    characters = pa.array(list(numbers.tobytes().decode("utf-32-le")))
    kinds = np.zeros(ALPHABET + 1, np.uint8)
    kinds[ALPHABET] = CHARACTER
    for kind, pattern in (
        (LETTER, r"[\p{L}\p{M}\x{200C}\x{200D}]"),
        (MARK, r"[\p{P}\p{S}]"),
        (SYLLABLE, SYLLABIC),
        (CHARACTER, UNSPACED),
        (DIGIT, r"\p{N}"),
    ):
        kinds[numbers[np.asarray(pc.match_substring_regex(characters, pattern))]] = kind
    folded = np.arange(ALPHABET + 1, dtype=np.uint64)
    lowered = pc.utf8_lower(characters)
    single = pc.equal(pc.utf8_length(lowered), 1)
    folded[numbers[np.asarray(single)]] = np.frombuffer(
        "".join(lowered.filter(single).to_pylist()).encode("utf-32-le"), np.uint32
    )
    for number in np.flatnonzero(kinds == DIGIT):
        folded[number] = ord("0") + unicodedata.digit(chr(number), number - ord("0"))
    step = np.uint64(0x9E3779B97F4A7C15)
    weights = _scramble(np.arange(1, POSITIONS + 1, dtype=np.uint64) * step) | np.uint64(1)
    return kinds, _scramble((folded + np.uint64(1)) * step), weights
