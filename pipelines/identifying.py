"""Which texts of an item identify it, so that an eval or dev that has one of them has the item.

An item is a task's example, a conversation, or what an eval asks. Its texts are what people write in data: a wording
that all prompts share, a greeting, a passage with twenty questions, the question, `Yes`. A text that many items share
identifies none of them, and a short one turns up by itself. So an item is identified by

- its prompt without the sentences that many items have (all of it, where many have each), however short that is;
- each of its texts, without such sentences, and each sentence that few items have, if it is long enough.

Few are FEW items and at most SHARE of them. Of items that a tenth becomes dev of, a text in 3 is in dev and in training
in a quarter of the cases, one in 10 in two thirds: with a larger bound, data in which 10 items share a passage would
lose half their rows. Data of which every sentence is in many items are compared by whole prompts.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.matching import match_key
from pipelines.near import DENSE_SIZE, SIZE, size
from pipelines.segments import digests, keys, sentences
from pipelines.store import Store
from pipelines.tasks import Message

FEW = 3
"""Items that may share a sentence which still identifies each of them."""
SHARE = 0.1
"""Share of the items that may have such a sentence; one item always may."""
PROMPT_LETTERS = {SIZE: 12, DENSE_SIZE: 5}
"""Letters of the shortest sentence of a prompt that identifies an item by itself, by the size of the language's
shingles: two or three words. `How are you?` and `Tell me more.` have fewer."""
ANSWER_LETTERS = {SIZE: 20, DENSE_SIZE: 8}
"""The same of an answer: most names, numbers and labels have fewer."""


class Conversation(NamedTuple):
    """The texts that an item is made of, and what is asked and answered with them."""

    texts: Sequence[str]
    """Whole texts; sentences of theirs may be listed too."""
    prompt: str
    answer: str


class Frequency:
    """In how many items of a collection each sentence occurs."""

    def __init__(self, items: np.ndarray, sentence_keys: np.ndarray):
        """items, sentence_keys: uint64 [N], the key of a sentence and of the item that has it; repeats do not count."""
        order = np.lexsort((items, sentence_keys))
        items, sentence_keys = items[order], sentence_keys[order]
        new = np.append(True, (items[1:] != items[:-1]) | (sentence_keys[1:] != sentence_keys[:-1]))[: len(items)]
        self._keys, self._counts = np.unique(sentence_keys[new], return_counts=True)
        self.few = max(1, min(FEW, int(len(np.unique(items)) * SHARE)))
        """The largest number of items that may share a sentence which identifies them."""

    def is_common(self, sentence_keys: np.ndarray) -> np.ndarray:
        """bool [N]: whether more than `few` items have each sentence; one that none has is not common."""
        if not len(self._keys):
            return np.zeros(len(sentence_keys), dtype=bool)
        places = np.minimum(np.searchsorted(self._keys, sentence_keys), len(self._keys) - 1)
        return (self._keys[places] == sentence_keys) & (self._counts[places] > self.few)


def outline(texts: Iterable[str]) -> dict[str, list[str]]:
    """{whole text: its sentences}; a text that is a sentence of another one is no whole text."""
    found = {text: sentences(text) for text in dict.fromkeys(texts) if text.strip()}
    within = {sentence for text, parts in found.items() for sentence in parts if sentence != text}
    return {text: parts for text, parts in found.items() if text not in within}


def sentence_keys(texts: Sequence[Iterable[str]]) -> tuple[np.ndarray, np.ndarray]:
    """(keys of the sentences of all items, number of the item that has each): uint64 [N] and int64 [N]."""
    found = [[part for parts in outline(own).values() for part in parts] for own in texts]
    owners = np.repeat(np.arange(len(found)), [len(parts) for parts in found])
    return keys([part for parts in found for part in parts]), owners


def identifying(conversations: Sequence[Conversation], frequency: Frequency, langs: Iterable[str]) -> list[list[str]]:
    """For each conversation the texts that identify it; the first is what its prompt comes down to.

    frequency: of the sentences of the collection that it is part of; langs: in which the texts are.
    """
    outlines = [outline(item.texts) for item in conversations]
    text = _Sentences(outlines, frequency, langs)
    out = []
    for item, whole in zip(conversations, outlines, strict=True):
        answers = {t for t in whole if t not in item.prompt or (t == item.answer and t != item.prompt)}
        asked = [t for t in whole if t not in answers] or list(whole)
        sentences_asked = list(dict.fromkeys(part for t in asked for part in whole[t]))
        own = [part for part in sentences_asked if part not in text.common] or sentences_asked
        found = dict.fromkeys(["\n".join(own)] if own else [])
        for t, parts in whole.items():
            least = ANSWER_LETTERS if t in answers else PROMPT_LETTERS
            for part in (text.without_common(t, parts), *(part for part in parts if part not in text.common)):
                if text.is_long(part, least):
                    found[part] = None
        out.append(list(found))
    return out


def conversation(turns: Sequence[Message]) -> Conversation:
    """A conversation of which nothing else is known than its messages; those of the system are left out."""
    said = [turn["content"] for turn in turns if turn["role"] != "system"]
    prompt = "\n".join(said[:-1])
    return Conversation([prompt, *said], prompt, said[-1])


HELD_OUT = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("eval", "lang", "text", "own")),
        pa.field("rare", pa.bool_(), nullable=False),
    ]
)
"""A held-out text, and what of it identifies the item: the text, without sentences that many of the items have.

Where the items have nothing but such sentences it is the whole text, `rare` is false, and only a copy is like it.
"""


def held_out(store: Store) -> pa.Table:
    """HELD_OUT rows of the texts by which the items of the store's evals are recognised, each once.

    Every item has one in each of its languages: where nothing of it is long and rare, whatever it has.
    """
    return _held_out(store.address, store.require("eval_text").content())


@lru_cache(maxsize=4)
def _held_out(address: str, content: str) -> pa.Table:
    collections: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for row in Store(address).table("eval_text").to_pylist():
        items = collections.setdefault((row["eval"], row["pair"], row["lang"]), {})
        items.setdefault(row["item"], []).append(row["text"])
    found: dict[tuple[str, str, str, str, bool], None] = {}
    for (name, _, lang), items in collections.items():
        for texts in _held_out_texts(list(items.values()), lang):
            found.update(dict.fromkeys((name, lang, *both) for both in texts))
    return pa.Table.from_pylist([dict(zip(HELD_OUT.names, row, strict=True)) for row in found], schema=HELD_OUT)


def _held_out_texts(items: Sequence[Sequence[str]], lang: str) -> list[list[tuple[str, str, bool]]]:
    """For each item of a collection the (text, what of it identifies the item, whether that is rare)."""
    found, owners = sentence_keys(items)
    frequency = Frequency(owners.astype(np.uint64), found)
    outlines = [outline(texts) for texts in items]
    text = _Sentences(outlines, frequency, [lang])
    out = []
    for texts, whole in zip(items, outlines, strict=True):
        rare = [(t, text.without_common(t, parts), True) for t, parts in whole.items()]
        rare += [(t, t, True) for t in texts if t not in whole and t.strip() and t not in text.common]
        rare = [row for row in rare if row[1]]
        long = [row for row in rare if text.is_long(row[1], PROMPT_LETTERS)]
        out.append(long or rare or [(t, t, False) for t in whole])
    return out


class _Sentences:
    """What is known of the sentences of some items: which are common, and how long they are."""

    def __init__(self, outlines: Sequence[dict[str, list[str]]], frequency: Frequency, langs: Iterable[str]):
        each = list(dict.fromkeys(part for whole in outlines for parts in whole.values() for part in parts))
        matched = match_key(pa.array(each, pa.string()))
        common = frequency.is_common(digests(matched.to_pylist()))
        self._letters = dict(zip(each, pc.utf8_length(matched).to_pylist(), strict=True))
        self._size = min((size(lang) for lang in langs), default=SIZE)
        self.common = {part for part, many in zip(each, common.tolist(), strict=True) if many}

    def without_common(self, text: str, parts: list[str]) -> str:
        kept = [part for part in parts if part not in self.common]
        text = text if len(kept) == len(parts) else "\n".join(kept)
        self._letters.setdefault(text, sum(self._letters[part] for part in kept))
        return text

    def is_long(self, text: str, least: dict[int, int]) -> bool:
        return self._letters[text] >= least[self._size]
