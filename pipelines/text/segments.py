"""Texts -> numbers that stand for them: keys that find the same text again, and draws that order rows by chance."""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipelines.text.matching import match_key

NONE = 0
"""The key of a text without letters, digits or symbols: it is the same as no other."""

_SENTENCE_END = re.compile(r"(?<=[.!?؟:])[\"'”’»)\]]*\s+|(?<=[。！？।۔：])[”’」』）]*\s*|\n+")
"""A colon ends a sentence too: what stands before it is most often an instruction, as in `Translate to German: ...`."""


def keys(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    """uint64 [N], equal where `match_key` is; NONE where that is empty."""
    array = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.string())
    matched = match_key(array).to_pylist()
    return np.where([bool(text) for text in matched], digests(matched), np.uint64(NONE))


def digests(texts: Iterable[str]) -> np.ndarray:
    """uint64 [N], the same on every machine; a million different texts share one with probability 3e-8."""
    parts = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(parts), dtype="<u8").astype(np.uint64)


def seeded_order(numbers: np.ndarray, *salt: int | str) -> np.ndarray:
    """uint64 [N]: `numbers` in an order that `salt` decides, by a bijection (SplitMix64, Steele et al. 2014)."""
    (start,) = digests([repr(salt)])
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def generator(*salt: int | str) -> np.random.Generator:
    """The one random generator of a stage's piece of work, e.g. of (seed, stage, pair)."""
    return np.random.default_rng(int(digests([repr(salt)])[0]))


def sentences(text: str) -> list[str]:
    """The sentences of a text, each once, in order; no blank ones."""
    return [part for part in dict.fromkeys(_SENTENCE_END.split(text)) if part.strip()]


def texts_and_sentences(texts: Iterable[str]) -> list[str]:
    """The texts and the sentences within them, each once, in order; no blank ones."""
    return list(dict.fromkeys(piece for text in texts if text.strip() for piece in (text, *sentences(text))))
