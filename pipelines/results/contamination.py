"""Training mix and eval texts -> which of the texts the mix contains, exactly or nearly.

The mix was decontaminated, so none should be found. This checks it: a recipe may have switched the search for near
copies off, or a mix may have rows from elsewhere.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.progress import ProgressCallback, no_progress
from pipelines.storage.store import Store
from pipelines.text.characters import nfc
from pipelines.text.identifying import Conversation, Frequency, conversation, held_out, identifying, sentence_keys
from pipelines.text.matching import match_key
from pipelines.text.near import HeldOutIndex, shingles

NEAR = 0.8
"""Similarity from which a text counts as nearly contained, where the recipe does not set one."""
EXAMPLES = 5


class Overlap(NamedTuple):
    """Which eval texts the training mix contains."""

    near: float
    texts: dict[str, dict[tuple[str, str], str]]
    """{eval: {(language, text): `exact`, `near` or ``}} of its distinct texts."""
    rows: dict[str, int]
    """Rows of the mix that train, by language; a row of two languages counts for both."""

    def contained(self, name: str) -> set[str]:
        """The texts of an eval that the mix contains."""
        return {text for (_, text), kind in self.texts[name].items() if kind}

    def counts(self) -> dict[str, Any]:
        """As JSON: {near, evals: {name: {texts, exact, near}}, examples}."""
        kinds = {name: Counter(found.values()) for name, found in self.texts.items()}
        examples = [
            {"eval": name, "language": lang, "text": text, "kind": kind}
            for name, found in sorted(self.texts.items())
            for (lang, text), kind in sorted(found.items())
            if kind
        ]
        return {
            "near": self.near,
            "evals": {
                name: {"texts": found.total(), "exact": found["exact"], "near": found["near"]}
                for name, found in sorted(kinds.items())
            },
            "examples": examples[:EXAMPLES],
        }


def overlap(store: Store, near: float | None, on_progress: ProgressCallback = no_progress) -> Overlap:
    """Compare every text that identifies an item of the evals with every row of the mix that trains.

    Exactly contained is a text with the match key of a segment of its language, or of a text that identifies a
    conversation (`identifying`). Nearly contained is a text that `decontaminate` would find, so a short text within a
    longer one is not, and that is contiguous (`ContiguousMatch`). The language of a message is unknown: it is compared
    with both languages of its row.
    """
    near = near or NEAR
    texts_held_out, langs = held_out(store), Counter[str]()
    texts: dict[str, dict[tuple[str, str], str]] = {}
    for row in texts_held_out.select(["eval", "lang", "text"]).to_pylist():
        texts.setdefault(row["eval"], {})[row["lang"], row["text"]] = ""
    searches = {
        lang: _Search(texts_held_out.filter(pc.equal(texts_held_out["lang"], lang)), lang, near)
        for lang in pc.unique(texts_held_out["lang"]).to_pylist()
    }
    mix = store.require("training_mix")
    parts = [part for part in mix.rows if not part.endswith("dev")]
    frequencies = _frequencies(store, [part for part in parts if part != "bitext"])
    done, total = 0, sum(mix.rows[part] for part in parts)
    for part in parts:
        for batch in store.batches("training_mix", part=part):
            on_progress(done, total, "looking for eval texts in the mix")
            for lang, segments in _bitext(batch) if part == "bitext" else _conversations(batch, frequencies):
                if lang in searches:
                    searches[lang].add(segments)
            sides = pa.table({side: batch[side] for side in ("src_lang", "tgt_lang")})
            for row in sides.group_by(["src_lang", "tgt_lang"]).aggregate([([], "count_all")]).to_pylist():
                for lang in {row["src_lang"], row["tgt_lang"]}:
                    langs[lang] += row["count_all"]
            done += batch.num_rows
    for kinds in texts.values():
        for lang, text in kinds:
            kinds[lang, text] = searches[lang].kinds.get(text, "")
    return Overlap(near, texts, dict(sorted(langs.items())))


class ContiguousMatch(HeldOutIndex):
    """A near match only where the shared shingles are contiguous: in a passage as long as a near copy may be.

    `decontaminate` does without, as it compares one segment at a time. A conversation joins several segments with words
    of the prompt: in a language of few words, three of its sentences may share most shingles with a fourth.
    """

    def __init__(self, texts: pa.Array, lang: str, threshold: float, collections: Sequence[pa.Array] = ()):
        super().__init__(texts, lang, threshold, collections)
        length = np.diff(shingles([self.texts], [self._size]).offsets)
        self._width = np.ceil(length / threshold - 1e-9).astype(np.int64)

    def _similar(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, owners, similar = super()._similar(texts)
        found = shingles([texts.take(pa.array(rows))], [self._size])
        hashes = (found.hashes >> np.uint64(32)).astype(np.uint32)
        near = np.ones(len(rows), dtype=bool)
        for i, owner in enumerate(owners.tolist()):
            row = hashes[found.offsets[i] : found.offsets[i + 1]]
            width = int(self._width[owner])
            if len(row) > width:
                wanted = self._held.hashes[self._held.offsets[owner] : self._held.offsets[owner + 1]]
                near[i] = together(row, wanted, width) >= self._threshold * len(wanted) - 1e-9
        return rows[near], owners[near], similar[near]


def together(row: np.ndarray, wanted: np.ndarray, width: int) -> int:
    """The highest number of distinct `wanted` hashes within `width` consecutive ones of `row`."""
    places = np.flatnonzero(np.isin(row, wanted))
    order = np.argsort(row[places], kind="stable")
    again = np.flatnonzero(np.diff(row[places[order]]) == 0)
    before = np.full(len(places), -1)  # where the same one stood last
    before[order[again + 1]] = places[order[again]]
    # A place counts for the passages that begin after `before`, and not later than itself.
    begins = np.bincount(np.maximum(before, places - width) + 1, minlength=len(row) + 1)
    ends = np.bincount(places + 1, minlength=len(row) + 1)
    return int((begins - ends).cumsum().max(initial=0))


class _Search:
    """For the texts of one language."""

    def __init__(self, texts: pa.Table, lang: str, near: float):
        """texts: HELD_OUT rows of the language."""
        self.kinds: dict[str, str] = {}
        own = texts["identifying"].combine_chunks()
        self._keys: dict[str, list[str]] = {}
        for text, key in zip(texts["text"].to_pylist(), match_key(own).to_pylist(), strict=True):
            if key:
                self._keys.setdefault(key, []).append(text)
        texts = texts.filter(texts["rare"])
        own = texts["identifying"].combine_chunks()
        collections = [own.filter(pc.equal(texts["eval"], name)) for name in sorted(set(texts["eval"].to_pylist()))]
        self._near = ContiguousMatch(pc.unique(own), lang, near, collections)
        self._written: dict[str, list[str]] = {}
        for text, normal in zip(texts["text"].to_pylist(), nfc(own).to_pylist(), strict=True):
            self._written.setdefault(normal, []).append(text)

    def add(self, segments: pa.Array) -> None:
        """Record in `kinds` which texts these segments contain."""
        keys = match_key(segments)
        same = keys.filter(pc.is_in(keys, value_set=pa.array(list(self._keys), pa.string())))
        for key in pc.unique(same).to_pylist():
            self.kinds.update(dict.fromkeys(self._keys[key], "exact"))
        for normal in self._near.texts.filter(pa.array(self._near.held(segments) > 0)).to_pylist():
            for text in self._written[normal]:
                self.kinds.setdefault(text, "near")


def _bitext(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """(language, texts) of a batch."""
    for side in ("src", "tgt"):
        for lang in pc.unique(batch[f"{side}_lang"]).to_pylist():
            yield lang, batch[side].filter(pc.equal(batch[f"{side}_lang"], lang))


Group = tuple[str, ...]
"""(Instruction type or task, languages): the conversations that may share a wording."""


def _groups(batch: pa.RecordBatch) -> Iterator[tuple[Group, list[Conversation]]]:
    found: dict[Group, list[Conversation]] = {}
    for row in batch.to_pylist():
        group = (row["template"].partition("/")[0], *sorted({row["src_lang"], row["tgt_lang"]}))
        found.setdefault(group, []).append(conversation(row["messages"]))
    yield from found.items()


def _frequencies(store: Store, parts: Sequence[str]) -> dict[Group, Frequency]:
    found: dict[Group, tuple[list[np.ndarray], list[np.ndarray], int]] = {}
    for part in parts:
        for batch in store.batches("training_mix", part=part):
            for group, talks in _groups(batch):
                batch_keys, numbers = sentence_keys([talk.texts for talk in talks])
                keys, items, count = found.get(group, ([], [], 0))
                found[group] = [*keys, batch_keys], [*items, numbers + count], count + len(talks)
    return {
        group: Frequency(np.concatenate(items).astype(np.uint64), np.concatenate(keys))
        for group, (keys, items, _) in found.items()
    }


def _conversations(batch: pa.RecordBatch, frequencies: Mapping[Group, Frequency]) -> Iterator[tuple[str, pa.Array]]:
    """(language, texts that identify a conversation) of a batch, once for each of its languages."""
    for group, talks in _groups(batch):
        texts = pa.array(
            [text for own in identifying(talks, frequencies[group], group[1:]) for text in own], pa.string()
        )
        for lang in group[1:]:
            yield lang, texts
