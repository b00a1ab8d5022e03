"""Drops rows whose sides do not say the same, by which words go together in the corpus itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.filters import Filter
from pipelines.filters._words import BITS, Words, words

ROWS = 25_000  # learned from; 60,000 take 2.4 times as long to find 95 instead of 91 % of misaligned rows (de, zh)
ENOUGH = 1_000  # rows below which nothing is learned; at 1,000 misaligned rows already score lower (AUC 0.98)
CELLS = 5_000_000  # word pairs learned from: bounds time and memory where rows are long
BLOCK = 1 << 20  # word pairs looked at together
LONGEST = 512  # known words of a side that are read
RARE = 3  # a word seen less often goes by its stem
FREQUENT = 0.07  # of the rows: words in more of them say little of what goes with what, as a, the, 的
EVIDENCE = 1.5  # nats of log-likelihood ratio (Dunning 1993, J93-1003) below which two words are not linked
ROUNDS = 3  # of expectation maximisation
DISCOUNT = 1.8  # off every expected count: a row that was learned from must not vouch for itself (1 would be its own)
UNRELATED, FIRM = 0.1, 5.0  # first guess of how often a word has no counterpart, and the meetings it weighs as many as
SAME = 1.0  # nats that an unknown word on both sides is worth: a number, a name
FEW = 4  # words added to each side's number: short segments score nearer to 0
NUMBERS = 1 << BITS
LINK = np.dtype([("src", "<i4"), ("tgt", "<i4"), ("forward", "<f4"), ("backward", "<f4")])


class TranslationScore(Filter):
    """How much likelier each side is as a translation of the other than as any text: nats a word, mean of both ways.

    0 is no evidence either way, as of words never seen; translations mostly score 1 to 4, others -1 to -3. Short
    segments lie nearer to 0. It is learned from 25,000 rows of the pair, spread over its corpora, with whatever noise
    they hold but half-copies; any languages, no download. Fewer than 1,000 rows teach nothing: every row scores 0.

    Of a word: ln(u + (1 - u) * sum over the other side's words w of p(word | w) / p(word)), where u is how often the
    word has no counterpart. Words in more than 7 % of the rows do not count; an unknown word that is on both sides,
    as a name or a number, counts 1.
    Source: IBM Model 1, Brown et al. 1993 (J93-2003), section 4.1, beside the word's own frequency.
    """

    min: float | None = -0.5
    """Drops 0.1 to 1.1 % of true and 73 to 98 % of misaligned rows of news, tales and manuals in nine pairs, whether
    learned from or not, when 60,000 rows were learned from; with ROWS, 91 to 94 % of German's and Chinese's."""
    fits: ClassVar[bool] = True
    judges_quality: ClassVar[bool] = True
    libraries = ("numpy",)

    def fit(self, batches: Iterator[pa.RecordBatch], folder: Path) -> list[str]:
        learned = learn(*sample(batches))
        for name, array in learned._asdict().items():
            np.save(folder / f"{name}.npy", _packed(array) if name in VOCABULARIES else array)
        if len(learned.links):
            return []
        return [f"{self.name}: fewer than {ENOUGH:,} rows to learn from, so every row of this pair scores 0."]

    def open(self) -> Any:
        raise UserError(
            "translation_score: nothing is learned yet. Allowed: what `fit` stored. Call reopen(folder) instead."
        )

    def reopen(self, folder: Path) -> "Dictionary":
        stored = {name: np.load(folder / f"{name}.npy") for name in Learned._fields}
        return Dictionary(Learned(**stored | {name: _unpacked(stored[name]) for name in VOCABULARIES}))

    def score(self, batch: pa.RecordBatch, loaded: "Dictionary | None" = None) -> pa.Array:
        return pa.array((loaded or self.open()).score(batch["src"], batch["tgt"]), pa.float64())


class Learned(NamedTuple):
    """src, tgt: [2**BITS] of each word number its place in the vocabulary, UNKNOWN or COMMON. links: [L] of LINK.

    alone_src, alone_tgt: [V] how often each word of the vocabulary has no counterpart, in (0, 1).
    """

    src: np.ndarray
    tgt: np.ndarray
    links: np.ndarray
    alone_src: np.ndarray
    alone_tgt: np.ndarray


UNKNOWN, COMMON = -1, -2
VOCABULARIES = ("src", "tgt")


def _packed(places: np.ndarray) -> np.ndarray:
    """int32 [2, W]: the numbers that are not UNKNOWN, and their places. They are few."""
    known = np.flatnonzero(places != UNKNOWN)
    return np.stack([known, places[known]]).astype(np.int32)


def _unpacked(packed: np.ndarray) -> np.ndarray:
    places = np.full(NUMBERS if packed.size else 0, UNKNOWN, np.int32)
    places[packed[0]] = packed[1]
    return places


NOTHING = Learned(*(np.empty(0, kind) for kind in (np.int32, np.int32, LINK, np.float32, np.float32)))


class Side(NamedTuple):
    """Known words of N texts: text i has known[starts[i]:starts[i + 1]], each once.

    `unknown` are text << BITS | number, sorted.
    """

    starts: np.ndarray
    known: np.ndarray
    unknown: np.ndarray


class Index:
    """Where a number stands in an array of distinct numbers, found in one look.

    Of two numbers that share a slot the weaker is left out, 3 % of them at most.
    """

    def __init__(self, numbers: np.ndarray, strength: np.ndarray):
        self.bits = max(10, len(numbers).bit_length() + 3)
        self.numbers = np.append(numbers, -1)
        self.slots = np.full(1 << self.bits, len(numbers), np.int32)
        order = np.argsort(strength, kind="stable")
        self.slots[self._slot(numbers[order])] = order

    def _slot(self, numbers: np.ndarray) -> np.ndarray:
        hashed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (hashed >> np.uint64(64 - self.bits)).astype(np.int64)

    def find(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places in `numbers`, what the index has there) of those it has."""
        found = self.slots[self._slot(numbers)]
        hit = np.flatnonzero(self.numbers[found] == numbers)
        return hit, found[hit]


class Dictionary:
    """What was learned, ready for look-up; it is only read, so threads may share it."""

    def __init__(self, learned: Learned):
        self.learned = learned
        self.links = learned.links
        self.width = max(1, len(learned.alone_tgt))
        numbers = self.links["src"].astype(np.int64) * self.width + self.links["tgt"]
        self.index = Index(numbers, self.links["forward"] + self.links["backward"])

    def score(self, src: pa.Array, tgt: pa.Array) -> np.ndarray:
        """[N] nats a word, as TranslationScore has it."""
        if not len(self.links):
            return np.zeros(len(src))
        a, b = side(words(src), self.learned.src), side(words(tgt), self.learned.tgt)
        of_src, of_tgt = np.zeros(len(a.known)), np.zeros(len(b.known))
        for x, y in cells(a, b):
            hit, link = self.index.find(a.known[x].astype(np.int64) * self.width + b.known[y])
            _add(of_tgt, y[hit], self.links["forward"][link])
            _add(of_src, x[hit], self.links["backward"][link])
        same = np.bincount(shared(a.unknown, b.unknown) >> BITS, minlength=len(src))
        evidence = (
            _mean(gain, one, alone, same)
            for gain, one, alone in ((of_src, a, self.learned.alone_src), (of_tgt, b, self.learned.alone_tgt))
        )
        return sum(evidence, np.zeros(len(src))) / 2


def _add(sums: np.ndarray, places: np.ndarray, values: np.ndarray) -> None:
    """sums[places] += values, where `places` may repeat and span a small part of `sums`."""
    if len(places):
        low, high = places.min(), places.max() + 1
        sums[low:high] += np.bincount(places - low, values, minlength=high - low)


def _mean(gains: np.ndarray, one: Side, alone: np.ndarray, same: np.ndarray) -> np.ndarray:
    missing = alone[one.known].astype(np.float64)
    lengths = np.diff(one.starts)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    # word by word within a row: equal texts score equal to the last bit, wherever in a batch they stand
    evidence = np.bincount(rows, np.log(missing + (1 - missing) * gains), minlength=len(lengths))
    return (evidence + SAME * same) / (lengths + same + FEW)


def sample(batches: Iterator[pa.RecordBatch]) -> tuple[pa.Array, pa.Array]:
    """At most ROWS rows in random order, as many of each corpus as there are; however the batches are cut."""
    rng = np.random.default_rng(0)
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        rows = batch.select(["src", "tgt", "corpus"]).append_column("lot", pa.array(rng.random(batch.num_rows)))
        held.append(rows)
        count += rows.num_rows
        if count > 2 * ROWS:
            held = _fair(held).to_batches()
            count = ROWS
    if not held:
        return pa.array([], pa.string()), pa.array([], pa.string())
    table = _fair(held)
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    return table["src"].combine_chunks(), table["tgt"].combine_chunks()


def _fair(held: list[pa.RecordBatch]) -> pa.Table:
    """ROWS of the rows, sorted by corpus and lot: the lowest lots. A corpus below an equal share keeps all."""
    table = pa.Table.from_batches(held).sort_by([("corpus", "ascending"), ("lot", "ascending")])
    counts = np.asarray(pc.value_counts(table["corpus"].combine_chunks()).field("counts"))
    quota, left, corpora = 0, ROWS, len(counts)
    for size in np.sort(counts):
        quota = max(quota, left // corpora)
        left, corpora = left - min(size, quota), corpora - 1
    rank = np.arange(len(table)) - np.repeat(np.cumsum(counts) - counts, counts)
    return table.filter(pa.array(rank < quota))


def side(found: Words, vocabulary: np.ndarray) -> Side:
    places = vocabulary[found.words]
    rare = np.flatnonzero((places == UNKNOWN) & (found.stems >= 0))
    places[rare] = vocabulary[found.stems[rare]]
    texts = len(found.starts) - 1
    text = np.repeat(np.arange(texts), np.diff(found.starts))
    unknown, is_known = places == UNKNOWN, places >= 0
    known = distinct(text[is_known] << BITS | places[is_known])
    text_of = known >> BITS
    first = np.searchsorted(text_of, np.arange(texts + 1))
    known = known[np.arange(len(known)) - first[text_of] < LONGEST]
    return Side(
        np.searchsorted(known >> BITS, np.arange(texts + 1)),
        (known & NUMBERS - 1).astype(np.int32),
        distinct(text[unknown] << BITS | found.words[unknown]),
    )


def distinct(numbers: np.ndarray) -> np.ndarray:
    numbers = np.sort(numbers)
    return numbers[np.diff(numbers, prepend=-1) != 0]


def shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Numbers of both; each has distinct ones."""
    both = np.sort(np.concatenate([a, b]))
    return both[1:][both[1:] == both[:-1]]


def cells(a: Side, b: Side) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every word of a text with every word of its other side, as places in a.known and b.known; BLOCK at a time."""
    words_a, words_b = np.diff(a.starts), np.diff(b.starts)
    ends = np.cumsum(words_a * words_b)
    cuts = np.flatnonzero(np.diff(ends // BLOCK, prepend=0, append=-1))
    for first, last in zip(np.append(0, cuts[:-1]), cuts, strict=True):
        partners = np.repeat(words_b[first:last], words_a[first:last])
        x = np.repeat(np.arange(int(a.starts[first]), int(a.starts[last])), partners)
        skipped = np.repeat(b.starts[first:last], words_a[first:last]) - (np.cumsum(partners) - partners)
        yield x, np.arange(len(x)) + np.repeat(skipped, partners)


def learn(src: pa.Array, tgt: pa.Array) -> Learned:
    """The vocabularies and the links between them, from N rows in random order; nothing where these are not ENOUGH."""
    if len(src) < ENOUGH:
        return NOTHING
    raw = words(src), words(tgt)
    copied = _copied(*raw)
    if copied.any():
        original = pa.array(~copied)
        raw = words(src.filter(original)), words(tgt.filter(original))
    rows = len(raw[0].starts) - 1
    if rows < ENOUGH:
        return NOTHING
    vocabularies = [vocabulary(found) for found in raw]
    a, b = (side(found, known) for found, known in zip(raw, vocabularies, strict=True))
    within = int(np.searchsorted(np.cumsum(np.diff(a.starts) * np.diff(b.starts)), CELLS, side="right"))
    a, b = (Side(one.starts[: within + 1], one.known[: one.starts[within]], one.unknown) for one in (a, b))
    of_src, of_tgt = vocabularies
    return Learned(of_src, of_tgt, *associate(a, b, within, int(of_src.max()) + 1, int(of_tgt.max()) + 1))


def _copied(src: Words, tgt: Words) -> np.ndarray:
    """[N] whether half of the words of the side with fewer, or more, are on the other side too."""
    texts = len(src.starts) - 1
    each = [distinct(np.repeat(np.arange(texts), np.diff(one.starts)) << BITS | one.words) for one in (src, tgt)]
    per_row = [np.bincount(numbers >> BITS, minlength=texts) for numbers in (shared(*each), *each)]
    return 2 * per_row[0] >= np.minimum(per_row[1], per_row[2])


def vocabulary(found: Words) -> np.ndarray:
    """[2**BITS] int32: UNKNOWN where seen less than RARE times, COMMON where more than FREQUENT a row, else a place."""
    texts = len(found.starts) - 1
    text = np.repeat(np.arange(texts), np.diff(found.starts))
    counts = np.bincount(distinct(text << BITS | found.words) & NUMBERS - 1, minlength=NUMBERS)
    stems = found.stems[(counts[found.words] < RARE) & (found.stems >= 0)]
    stem_counts = np.bincount(stems, minlength=NUMBERS)
    common = counts > FREQUENT * texts
    known = np.flatnonzero(((counts >= RARE) | (stem_counts >= RARE)) & ~common)
    places = np.where(common, COMMON, UNKNOWN).astype(np.int32)
    places[known] = np.arange(len(known), dtype=np.int32)
    return places


def associate(a: Side, b: Side, rows: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last three of Learned, from the rows whose words `a` and `b` are; `height` and `width` words are known.

    A link is p(tgt | src) / p(tgt) and the other way round: how many times as often a word is met where the other is.
    """
    blocks = [a.known[x].astype(np.int64) * width + b.known[y] for x, y in cells(a, b)]
    met = np.concatenate(blocks) if blocks else np.empty(0, np.int64)
    del blocks
    met.sort()
    new = np.flatnonzero(np.append(True, met[1:] != met[:-1])[: len(met)])
    number, together = met[new], np.diff(np.append(new, len(met))).astype(np.float64)
    del met
    seen_a = np.bincount(a.known, minlength=height).astype(np.float64)
    seen_b = np.bincount(b.known, minlength=width).astype(np.float64)
    chance = seen_a[number // width] * seen_b[number % width] / max(rows, 1)
    evidence = together * np.log(together / chance) - (together - chance)
    linked = (together > 1) & (together > 1.5 * chance) & (evidence > EVIDENCE)
    number, together = number[linked], together[linked]
    src, tgt = number // width, number % width
    index = Index(number, evidence[linked])
    parts = []
    for x, y in cells(a, b):
        hit, link = index.find(a.known[x].astype(np.int64) * width + b.known[y])
        parts.append(np.stack([x[hit], y[hit], link]).astype(np.int32))
    x, y, link = np.concatenate(parts, axis=1) if parts else np.empty((3, 0), np.int32)
    forward = expected(together, src, link, y) / seen_a[src] / seen_b[tgt] * rows
    backward = expected(together, tgt, link, x) / seen_b[tgt] / seen_a[src] * rows
    told = np.flatnonzero((forward > 1) | (backward > 1))
    out = np.empty(len(told), LINK)
    for name, values in (("src", src), ("tgt", tgt), ("forward", forward), ("backward", backward)):
        out[name] = values[told]
    return out, unmatched(backward[link], x, a.known, seen_a), unmatched(forward[link], y, b.known, seen_b)


def unmatched(gains: np.ndarray, word: np.ndarray, known: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[V] float32: how often each word has no counterpart: the weight of a mixture, by expectation maximisation.

    gains, word: [M] of each meeting. known: [T] the words that were there. seen: [V] how often.
    """
    gain = np.bincount(word, gains, minlength=len(known))
    alone = np.full(len(seen), UNRELATED)
    for _ in range(ROUNDS):
        missing = alone[known]
        missing /= missing + (1 - missing) * gain
        alone = (np.bincount(known, missing, minlength=len(seen)) + UNRELATED * FIRM) / (seen + FIRM)
    return alone.astype(np.float32)


def expected(counts: np.ndarray, given: np.ndarray, link: np.ndarray, word: np.ndarray) -> np.ndarray:
    """[L] how often each link was used, by expectation maximisation of IBM Model 1, less DISCOUNT.

    counts: [L] first guess. given: [L] the word translated from. link, word: [M] each meeting's link and its word
    translated into, which its links share out between them.
    """
    for _ in range(ROUNDS):
        chance = counts / np.maximum(np.bincount(given, counts), 1e-12)[given]
        share = chance[link]
        share /= np.maximum(np.bincount(word, share), 1e-300)[word]
        counts = np.bincount(link, share, minlength=len(counts))
    return np.maximum(counts - DISCOUNT, 0)
