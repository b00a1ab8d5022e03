"""Text -> the key under which two texts count as the same; duplicates and evaluation overlap are found by it."""

from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.text.characters import JOINING, RARE, STACKED, Characters, each, kinds, mapped, nfc, points

POINT = np.uint32(0x1FFFFF)
"""Bits of folds() that are a code point."""
MARK, ALONE = np.uint32(1 << 30), np.uint32(1 << 31)
PORTION = 20_000  # texts, a column of which takes several times its bytes


def match_key(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """`texts` in NFC without case, punctuation, spaces and invisible characters; symbols such as + and € stay.

    Case goes by upper and then lower case, which, unlike lower case alone, joins Greek final and other sigmas. The
    key is empty where a text has nothing else.
    """
    if isinstance(texts, pa.ChunkedArray):
        return pa.chunked_array([match_key(chunk) for chunk in texts.chunks], pa.string())
    if len(texts) > PORTION:
        parts = [match_key(texts.slice(start, PORTION)) for start in range(0, len(texts), PORTION)]
        return pa.concat_arrays(parts)
    text = Characters.of(texts)
    folded = mapped(text.points, folds())
    hard = np.flatnonzero(folded >= MARK)  # few texts have what does not go one by one
    found = folded & POINT
    found[text.last] = ord("\n")
    left = np.flatnonzero(found != 0)  # of bool it takes a third of the time
    if len(hard):
        beside = np.append(False, np.diff(np.searchsorted(left, hard)) == 1)
        hard = hard[(folded[hard] >= ALONE) | beside]
    keys = _texts(found.take(left), len(texts))
    if len(hard):
        rows = text.holding(hard)
        keys = pc.replace_with_mask(keys, rows, _key(texts.filter(pa.array(rows))))
    return keys


def _key(texts: pa.Array) -> pa.Array:
    """`match_key` by its definition, which takes four times as long."""
    bare = pc.replace_substring_regex(texts, r"[\p{P}\p{Z}\p{C}]+", "")
    return nfc(pc.utf8_lower(pc.utf8_upper(bare)))


def _texts(points: np.ndarray, rows: int) -> pa.Array:
    """The texts of which `points` are the code points, each ended by a line feed."""
    joined = points.tobytes().decode("utf-32-le").encode()
    ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord("\n"))
    offsets = np.append(0, ends - np.arange(rows)).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(joined.replace(b"\n", b""))]
    )


@cache
def folds() -> np.ndarray:
    """uint32 [0x110000]: the (first) code point of each one's match key, 0 for none.

    ALONE is added where the key of a text is not that of its characters one by one, MARK where it is unless two such
    meet: their order is not decided yet.
    """
    table = np.arange(0x110000, dtype=np.uint32)
    table[0xE0000:] = 0
    table[RARE:] |= ALONE
    keys = _key(each()).to_pylist()
    found = np.array([ord(key[0]) if key else 0 for key in keys], np.uint32)
    kind = kinds()[found]
    several = np.array([len(key) > 1 for key in keys])
    alone = several | (kind & JOINING > 0)
    table[points()] = found | np.where(alone, ALONE, np.where(kind & STACKED, MARK, np.uint32(0)))
    return table
