"""Texts -> which of them say nearly the same, by their character shingles.

Two questions have an answer here. Which rows of a corpus repeat a better one (`near_duplicates`): MinHash signatures
(rensa) and their bands find candidates, the exact Jaccard similarity decides. Which texts hold one of a set that is
small enough for memory (`HeldOut`): an exact join, so nothing is missed.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine import parallel
from pipelines.languages import spaceless
from pipelines.text.characters import mapped, nfc
from pipelines.text.matching import POINT, folds

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection  # a machine that evaluates need not have it

SIZE, DENSE_SIZE = 5, 3
"""Characters of a shingle; the few where a script has no spaces, as a word takes one to three characters there."""
CONTAINED = {SIZE: 40, DENSE_SIZE: 16}
"""Characters, spaces and punctuation apart, by the size of the shingles: shorter sentences turn up in others by
themselves (in English 40 letters are some nine words)."""
PERMUTATIONS, SEED = 128, 1
"""Of MinHash: an estimate of J is off by sqrt(J (1 - J) / 128) on average, 0.035 at J = 0.8. With 64, bands are so
narrow that unlike rows of a small vocabulary share them: 200 a row at ten million rows."""
RECALL = 0.98
"""Probability, at the least, that two rows just at the threshold share a band and so become candidates."""
ESTIMATE_ERRORS = 3
"""Candidates whose estimate is so many standard errors below the threshold are not looked at: loses 0.1 %."""
NEIGHBOURS = 8
"""Rows of a bucket that a row is compared with: the best so many, and so many just better than it."""
SLICE_ROWS = 1_000  # worked on at a time: their shingles fit the caches
EDGES, PAIRS, POSTINGS = 16_384, 262_144, 4_000_000  # looked at a time: they bound memory
TABLE_BITS = 22


class Shingles(NamedTuple):
    """Hashes of the shingles of N rows, repeats included: row i has `hashes[offsets[i] : offsets[i + 1]]`."""

    hashes: np.ndarray
    """uint64"""
    offsets: np.ndarray
    """int64 [N + 1]"""


def size(lang: str) -> int:
    """Characters a shingle in that language."""
    return DENSE_SIZE if spaceless(lang) else SIZE


def shingles(columns: Sequence[pa.Array], sizes: Sequence[int]) -> Shingles:
    """The shingles of each row: of its texts in all columns, each apart; `sizes` are characters, one a column.

    Texts are in NFC; case, punctuation and spaces do not count, as in `match_key`. A text shorter than a shingle is
    one shingle; a text of which nothing counts has none.
    """
    rows, width = len(columns[0]), len(columns)
    texts = columns[0]
    if width > 1:
        texts = pa.concat_arrays(columns).take(pa.array(np.arange(width * rows).reshape(width, rows).T.ravel()))
    points = mapped(_code_points(texts), folds()) & POINT
    counting = np.flatnonzero(points != 0)
    points = points[counting].astype(np.uint64)
    ends = np.searchsorted(counting, np.cumsum(pc.utf8_length(texts).to_numpy(), dtype=np.int64))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    lengths, wanted = ends - starts, np.tile(np.asarray(sizes), rows)

    hashes, begins = np.zeros_like(points), np.ones(len(points), dtype=bool)
    grams = np.zeros_like(points)  # of `length` characters from each place on
    whole = []  # texts shorter than a shingle, and their hashes
    for length in range(1, max(sizes) + 1):
        begins[ends[(length < wanted) & (lengths >= length)] - length] = False
        grams *= np.uint64(0x9E3779B97F4A7C15)
        rest = points[length - 1 :]
        grams[: len(rest)] += rest
        if length in sizes:
            here = slice(None) if length == max(sizes) == min(sizes) else np.repeat(wanted == length, lengths)
            hashes[here] = grams[here]
        short = starts[(lengths == length) & (length < wanted)]
        whole.append((short, grams[short]))
    for short, found in whole:
        hashes[short], begins[short] = found, True
    places = np.flatnonzero(begins)
    hashes = hashes[places]
    if width > 1:  # the same shingle in another column is another one
        hashes ^= np.repeat(np.tile(_mixed(np.arange(width, dtype=np.uint64)), rows), lengths)[places]
    return Shingles(_mixed(hashes), np.concatenate([[0], np.searchsorted(places, ends[width - 1 :: width])]))


def near_duplicates(
    rows: Callable[[], Iterable[Sequence[pa.Array]]],
    sizes: Sequence[int],
    threshold: float,
    duck: "DuckDBPyConnection",
    folder: Path,
    better: np.ndarray | None = None,
) -> np.ndarray:
    """float64 [N]: the Jaccard similarity of each row to the row kept in its stead; NaN where the row is kept.

    rows: gives, each time, batches of N rows in all, as columns for `shingles`. A row goes where one that is kept and
    comes before it is at least `threshold` similar, so none goes that is unlike all that stay. `better` [N] numbers
    the rows in their order, 0 first; without it they come as they are. Rows without shingles are kept.
    Source: Broder 1997 (MinHash); Leskovec, Rajaraman & Ullman 2020, Mining of Massive Datasets, 3.4 (banding).

    Memory: some 60 bytes a row, PERMUTATIONS bytes a row of file pages that can be given back, and what `duck` may
    use. Time grows with N (sorting apart), as a row meets at most 16 others per band.
    """
    bands, width = banding(threshold)
    with Sketches(folder, bands, width) as sketches:
        sketches.add(rows(), sizes)
        order = np.arange(sketches.rows) if better is None else np.argsort(better)
        _find_edges(sketches, threshold, order, order if better is None else better, duck)
        met = duck.sql("SELECT a FROM edges UNION SELECT b FROM edges").fetchnumpy()["a"]
        sketches.keep_hashes(rows(), sizes, order[met])
        score = np.full(sketches.rows, np.nan)
        edges = duck.sql("SELECT DISTINCT a, b FROM edges ORDER BY a, b").to_arrow_reader(EDGES)
        for batch in edges:
            _settle(sketches, threshold, order, score, *(batch[name].to_numpy().astype(np.int64) for name in "ab"))
        duck.execute("DROP TABLE edges")
    return score


def banding(threshold: float) -> tuple[int, int]:
    """Bands, and values of the signature in each: the widest by which RECALL is reached at `threshold`."""
    for width in range(PERMUTATIONS // 2, 0, -1):
        bands = PERMUTATIONS // width
        if 1 - (1 - threshold**width) ** bands >= RECALL:
            return bands, width
    raise AssertionError(f"no banding for {threshold}")


class Sketches:
    """What is kept of the rows while near duplicates are sought: on disk, their bands, one byte for each value of
    their signatures and, of those that have a candidate, the hashes of their shingles.
    """

    def __init__(self, folder: Path, bands: int, width: int):
        self._folder, self._bands, self._width = folder, bands, width
        folder.mkdir(parents=True)
        self.rows = 0
        self.full = np.zeros(0, dtype=bool)
        """Which rows have shingles."""
        self._slots = np.zeros(0, dtype=np.int64)
        self._offsets = np.zeros(1, dtype=np.int64)

    def __enter__(self) -> "Sketches":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)

    def add(self, rows: Iterable[Sequence[pa.Array]], sizes: Sequence[int]) -> None:
        """Sketch all rows, in one call."""
        full = [self.full]
        with (self._folder / "bands").open("wb") as bands, (self._folder / "bytes").open("wb") as values:
            for found, signatures in parallel(lambda part: _sketched(part, sizes), _slices(rows)):
                keys = _mixed_rows(signatures[:, : self._bands * self._width].reshape(-1, self._bands, self._width))
                bands.write(keys.tobytes())
                values.write(signatures.astype(np.uint8).tobytes())
                full.append(np.diff(found.offsets) > 0)
        self.full = np.concatenate(full)
        self.rows = len(self.full)

    def keep_hashes(self, rows: Iterable[Sequence[pa.Array]], sizes: Sequence[int], wanted: np.ndarray) -> None:
        """Have the shingles of the rows `wanted` at hand for `jaccard`."""
        mask = np.zeros(self.rows, dtype=bool)
        mask[wanted] = True
        self._slots = np.cumsum(mask) - 1
        ends = [self._offsets]
        with (self._folder / "hashes").open("wb") as file:
            for found in parallel(lambda part: shingles(part, sizes), _slices(_masked(rows, mask))):
                file.write((found.hashes >> np.uint64(32)).astype(np.uint32).tobytes())
                ends.append(ends[-1][-1] + found.offsets[1:])
        self._offsets = np.concatenate(ends)

    def band(self, number: int) -> np.ndarray:
        """uint32 [N]: equal where the values of this band are."""
        return self._map("bands", np.uint32).reshape(self.rows, self._bands)[:, number].copy()

    def signatures(self) -> np.ndarray:
        """uint64 [N, PERMUTATIONS / 8]: a byte for each value."""
        return self._map("bytes", np.uint64).reshape(self.rows, PERMUTATIONS // 8)

    def jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        held = Shingles(self._map("hashes", np.uint32), self._offsets)
        both, of_a, of_b = shared(held, self._slots[a], held, self._slots[b])
        return both / (of_a + of_b - both)

    def _map(self, name: str, kind: type) -> np.ndarray:
        """A file as an array; mapped anew each time, so that pages once read do not stay in this process."""
        return np.memmap(self._folder / name, dtype=kind, mode="r") if self.rows else np.zeros(0, dtype=kind)


def _slices(batches: Iterable[Sequence[pa.Array]]) -> Iterator[list[pa.Array]]:
    for columns in batches:
        for start in range(0, len(columns[0]), SLICE_ROWS):
            yield [column.slice(start, SLICE_ROWS) for column in columns]


def _masked(batches: Iterable[Sequence[pa.Array]], mask: np.ndarray) -> Iterator[list[pa.Array]]:
    start = 0
    for columns in batches:
        here = pa.array(mask[start : start + len(columns[0])])
        yield [column.filter(here) for column in columns]
        start += len(here)


def shared(left: Shingles, a: np.ndarray, right: Shingles, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows `a` of `left` and `b` of `right`, pair by pair: distinct hashes in both, in the one, in the other.

    Hashes are 32 bits wide; fewer than 2**31 pairs.
    """
    parts = []
    for side, (held, rows) in enumerate(((left, a), (right, b))):
        begins, counts = held.offsets[rows], held.offsets[rows + 1] - held.offsets[rows]
        jumps = np.repeat(begins - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        hashes = held.hashes[np.arange(len(jumps)) + jumps].astype(np.uint64)
        pairs = np.repeat(np.arange(len(rows), dtype=np.uint64), counts)
        parts.append((pairs << np.uint64(33)) | (hashes << np.uint64(1)) | np.uint64(side))
    keys = np.sort(np.concatenate(parts))
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    pairs, twice = (keys >> np.uint64(33)).astype(np.int64), keys[1:] >> np.uint64(1) == keys[:-1] >> np.uint64(1)
    second = (keys & np.uint64(1)).astype(bool)
    both = np.bincount(pairs[1:][twice], minlength=len(a))
    return both, np.bincount(pairs[~second], minlength=len(a)), np.bincount(pairs[second], minlength=len(a))


class HeldOutIndex:
    """Texts of one language that others must not hold, and the search for those that do.

    The join is exact. Of a text of n shingles at least m = ceil(threshold * n) must be found, so of its n - m + r
    rarest at least r: only these are indexed (prefix filter: Chaudhuri et al. 2006; r > 1: Wang et al. 2012).
    """

    RARE = 6  # 3 to 12 take about as long; 1 takes ten times as long
    COMMON = 0.1
    """Share of the texts of a collection of which a shingle, in more of them, is part of a wording that they share."""
    PARTICULAR = 0.5
    """Share of a text's other shingles that another text must hold as well, to be near by more than the wording."""

    def __init__(self, texts: pa.Array, lang: str, threshold: float, collections: Sequence[pa.Array] = ()):
        """collections: subsets of `texts`, such as those of one eval, which may share a wording."""
        self._size, self._threshold = size(lang), threshold
        unique = pc.unique(nfc(texts))
        found = distinct(shingles([unique], [self._size]))
        counts = np.diff(found.offsets)
        self.texts = unique.filter(pa.array(counts > 0))
        """Those that have a shingle, in NFC, each once."""
        found = Shingles(found.hashes, np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64))
        counts = counts[counts > 0]
        self._held, self._counts = found, counts
        self._particular = self._without_common(collections) if collections else None
        least = np.ceil(threshold * counts - 1e-9).astype(np.int64)
        self._needed = np.minimum(self.RARE, least)
        owners = np.repeat(np.arange(len(counts)), counts)
        _, inverse, often = np.unique(found.hashes, return_inverse=True, return_counts=True)
        order = np.lexsort((found.hashes, often[inverse], owners))
        place = np.arange(len(order)) - np.repeat(found.offsets[:-1], counts)
        chosen = order[place < np.repeat(counts - least + self._needed, counts)]
        chosen = chosen[np.argsort(found.hashes[chosen], kind="stable")]
        self._hashes, self._owners = found.hashes[chosen], owners[chosen]
        self._table = np.zeros(1 << TABLE_BITS, dtype=bool)
        self._table[self._hashes >> np.uint32(32 - TABLE_BITS)] = True

    def __len__(self) -> int:
        """Texts that have a shingle."""
        return len(self._counts)

    def scores(self, texts: pa.Array) -> np.ndarray:
        """float64 [N]: how much of a held-out text each of `texts` holds, at the most; 0 where below the threshold.

        That is the Jaccard similarity, or, of a held-out text of CONTAINED characters or more, the share of its
        shingles: then the text around it may be of any length.
        """
        score = np.zeros(len(texts))
        for start, (rows, _, similar) in zip(range(0, len(texts), SLICE_ROWS), self._met(texts), strict=False):
            np.maximum.at(score, start + rows, similar)
        return score

    def held(self, texts: pa.Array) -> np.ndarray:
        """float64 [len(self)]: how much of each held-out text that of `texts` holds which holds most; as `scores`."""
        score = np.zeros(len(self))
        for _, owners, similar in self._met(texts):
            np.maximum.at(score, owners, similar)
        return score

    def _met(self, texts: pa.Array) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each SLICE_ROWS of `texts`: (row, held-out text, similarity) of all that reach the threshold."""
        parts = (texts.slice(start, SLICE_ROWS) for start in range(0, len(texts), SLICE_ROWS))
        return parallel(self._similar, parts) if len(self) else iter(())

    def _similar(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = shingles([texts], [self._size])
        found = Shingles((found.hashes >> np.uint64(32)).astype(np.uint32), found.offsets)
        places = np.flatnonzero(self._table[found.hashes >> np.uint32(32 - TABLE_BITS)])
        rows = np.searchsorted(found.offsets, places, side="right").astype(np.uint64) - np.uint64(1)
        met = np.unique((rows << np.uint64(32)) | found.hashes[places])
        hashes = met.astype(np.uint32)
        first = np.searchsorted(self._hashes, hashes, side="left")
        counts = np.searchsorted(self._hashes, hashes, side="right") - first
        if counts.sum() > POSTINGS and len(texts) > 1:
            half = len(texts) // 2
            one, (rows, owners, similar) = (self._similar(texts.slice(*part)) for part in ((0, half), (half,)))
            return (
                np.concatenate([one[0], half + rows]),
                np.concatenate([one[1], owners]),
                np.concatenate([one[2], similar]),
            )
        jumps = np.repeat(first - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        owners = self._owners[np.arange(len(jumps)) + jumps]
        pairs, often = np.unique(
            np.repeat((met >> np.uint64(32)).astype(np.int64), counts) * len(self) + owners, return_counts=True
        )
        owners = pairs % len(self)
        pairs, owners = (items[often >= self._needed[owners]] for items in (pairs, owners))
        rows = pairs // len(self)
        both, of_text, of_held = shared(found, rows, self._held, owners)
        similar = both / (of_text + of_held - both)
        long = of_held >= CONTAINED[self._size] - self._size + 1
        similar = np.where(long, both / of_held, similar)
        near = similar >= self._threshold - 1e-12
        rows, owners, similar = rows[near], owners[near], similar[near]
        if self._particular is not None:
            both, _, of_held = shared(found, rows, self._particular, owners)
            near = (of_held > 0) & (both >= self.PARTICULAR * of_held)
            rows, owners, similar = rows[near], owners[near], similar[near]
        return rows, owners, similar

    def _without_common(self, collections: Sequence[pa.Array]) -> Shingles:
        """The shingles of each text that at most COMMON of a collection have, or at most one text."""
        owners = np.repeat(np.arange(len(self)), np.diff(self._held.offsets))
        particular = np.zeros(len(owners), dtype=bool)
        for texts in collections:
            own = pc.is_in(self.texts, value_set=pc.unique(pc.utf8_normalize(texts, form="NFC")))
            within = np.asarray(own)[owners]
            _, inverse, often = np.unique(self._held.hashes[within], return_inverse=True, return_counts=True)
            bound = max(1, int(self.COMMON * (pc.sum(own).as_py() or 0)))
            particular[np.flatnonzero(within)[often[inverse] <= bound]] = True
        counts = np.bincount(owners[particular], minlength=len(self))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Shingles(self._held.hashes[particular], offsets)


def _sketched(columns: Sequence[pa.Array], sizes: Sequence[int]) -> tuple[Shingles, np.ndarray]:
    """The shingles of some rows, and their signatures: uint32 [N, PERMUTATIONS]."""
    from rensa import RMinHash  # type: ignore[attr-defined]

    found = shingles(columns, sizes)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        found.hashes, found.offsets.astype(np.uint64), PERMUTATIONS, SEED
    )
    count = len(found.offsets) - 1
    values = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, count * PERMUTATIONS)
    return found, values.reshape(count, PERMUTATIONS)


def _find_edges(
    sketches: Sketches, threshold: float, order: np.ndarray, rank: np.ndarray, duck: "DuckDBPyConnection"
) -> None:
    """Fill the table `edges` with the ranks a < b of all candidates, some of them more than once."""
    least = threshold - ESTIMATE_ERRORS * np.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    duck.execute("CREATE TEMP TABLE edges (a UINTEGER, b UINTEGER)")
    full, values = np.flatnonzero(sketches.full), sketches.signatures()
    for number in range(banding(threshold)[0]):
        keys = (sketches.band(number)[full].astype(np.uint64) << np.uint64(32)) | rank[full].astype(np.uint64)
        keys.sort()  # by bucket, and within one from the best row to the worst
        likely = parallel(lambda ab: _likely(values, order, least, *ab), _candidates(keys))
        for a, b in likely:
            if len(a):
                found = pa.table({"a": a, "b": b})
                duck.register("found", found).execute("INSERT INTO edges SELECT * FROM found")
                duck.unregister("found")


def _candidates(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ranks (a, b) of rows in one bucket, a < b, from sorted keys of bucket and rank."""
    bucket = keys >> np.uint64(32)
    begins = np.append(True, bucket[1:] != bucket[:-1])[: len(keys)]
    crowded = ~begins | np.append(~begins[1:], False)[: len(keys)]
    ranks, bucket = keys[crowded].astype(np.uint32), bucket[crowded]
    begins = begins[crowded]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(ranks)), 0))
    place = np.arange(len(ranks)) - first
    for back in range(1, NEIGHBOURS + 1):
        later = np.flatnonzero(place >= back)
        yield from _cut(ranks, later - back, later)
    for best in range(NEIGHBOURS):
        later = np.flatnonzero(place > best + NEIGHBOURS)
        yield from _cut(ranks, first[later] + best, later)


def _cut(ranks: np.ndarray, a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(a), PAIRS):
        part = slice(start, start + PAIRS)
        yield ranks[a[part]], ranks[b[part]]


def _likely(
    values: np.ndarray, order: np.ndarray, least: float, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of which the signatures agree in a share of at least `least` of their values."""
    differing = (values[order[a]] ^ values[order[b]]).view(np.uint8)
    close = np.count_nonzero(differing == 0, axis=1) >= least * PERMUTATIONS
    return a[close], b[close]


def _settle(
    sketches: Sketches, threshold: float, order: np.ndarray, score: np.ndarray, a: np.ndarray, b: np.ndarray
) -> None:
    """Note in `score` which rows go by these edges, ranks sorted by a and b; all edges to their `a` came before.

    The outcome is that of going through the edges one by one: b goes if a has not gone and is near.
    """
    open_ = np.isnan(score[order[a]]) & np.isnan(score[order[b]])
    a, b = a[open_], b[open_]
    eighths = np.array_split(np.arange(len(a)), 8)
    near = np.concatenate(list(parallel(lambda part: sketches.jaccard(order[a[part]], order[b[part]]), eighths)))
    close = near >= threshold - 1e-12
    a, b, near = a[close], b[close], near[close]
    first, second, gone = a, b, np.zeros(0, dtype=np.int64)
    while len(first):
        stays = ~np.isin(first, second)  # no better row can remove these
        gone = np.concatenate([gone, np.unique(second[stays])])
        left = ~stays & ~np.isin(first, gone) & ~np.isin(second, gone)
        first, second = first[left], second[left]
    by_kept = ~np.isin(a, gone)
    rows, places = np.unique(b[by_kept], return_index=True)
    score[order[rows]] = near[by_kept][places]


def _code_points(texts: pa.Array) -> np.ndarray:
    """uint32: the Unicode code points of all texts, one after another."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(0, dtype=np.uint32)
    bounds = np.frombuffer(offsets, dtype=np.int32)[[texts.offset, texts.offset + len(texts)]]
    return np.frombuffer(str(data[bounds[0] : bounds[1]], "utf-8").encode("utf-32-le"), dtype=np.uint32)


def distinct(found: Shingles) -> Shingles:
    """The distinct hashes of each row as uint32, ascending."""
    rows = np.repeat(np.arange(len(found.offsets) - 1, dtype=np.uint64), np.diff(found.offsets))
    keys = np.unique((rows << np.uint64(32)) | (found.hashes >> np.uint64(32)))
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(found.offsets) - 1)
    return Shingles(keys.astype(np.uint32), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """uint64: every bit of a hash depends on all of its bits (the finaliser of MurmurHash3, Appleby 2011)."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    hashes = (hashes ^ (hashes >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return hashes ^ (hashes >> np.uint64(33))


def _mixed_rows(values: np.ndarray) -> np.ndarray:
    """uint32 [N, bands] of values [N, bands, width]: one hash for the values of a band."""
    out = np.zeros(values.shape[:2], dtype=np.uint64)
    for column in range(values.shape[2]):
        out = _mixed(out + values[:, :, column])
    return (out >> np.uint64(32)).astype(np.uint32)
