"""Which texts of an item identify it, so that an eval or dev that has one of them has the item.

An item is a task's example, a conversation, or what an eval asks. Its texts are what people write in data: a wording
that all prompts share, a greeting, a passage with twenty questions, the question, `Yes`. A text that many items share
identifies none of them, and a short one turns up by itself. So an item is identified by

- its prompt without the sentences that many items have (all of it, where many have each), however short that is;
- each of its texts, without such sentences, and each sentence that few items have, if it is long enough.

Few are FEW items and at most SHARE of them. Of items of which a tenth becomes dev, a sentence that 3 items have is both
in dev and in training with probability 0.27, one that 10 have with 0.65: with a larger bound, data in which 10 items
share a passage would lose half of their rows. Data of which every sentence is in many items are compared by whole
prompts.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.store import Store
from pipelines.tasks import Message
from pipelines.text.matching import match_key
from pipelines.text.near import DENSE_SIZE, SIZE, size
from pipelines.text.segments import digests, keys, sentences

FEW = 3
"""Items that may share a sentence which still identifies each of them."""
SHARE = 0.1
"""Share of the items that may have such a sentence; one item always may."""
PROMPT_LETTERS = {SIZE: 12, DENSE_SIZE: 5}
"""Letters of the shortest sentence of a prompt that identifies an item by itself, by the size of the language's
shingles: two or three words. `How are you?` and `Tell me more.` have fewer."""
ANSWER_LETTERS = {SIZE: 20, DENSE_SIZE: 8}
"""The same of an answer: most names, numbers and labels have fewer."""

HELD_OUT = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("eval", "lang", "text", "identifying")),
        pa.field("rare", pa.bool_(), nullable=False),
    ]
)
"""A held-out text, and what of it identifies the item: the text, without sentences that many of the items have.

Where the items have nothing but such sentences it is the whole text, `rare` is false, and only a copy is like it.
"""


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
        is_new = np.append(True, (items[1:] != items[:-1]) | (sentence_keys[1:] != sentence_keys[:-1]))[: len(items)]
        self._keys, self._counts = np.unique(sentence_keys[is_new], return_counts=True)
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
    parts_of = {text: sentences(text) for text in dict.fromkeys(texts) if text.strip()}
    inner = {part for text, parts in parts_of.items() for part in parts if part != text}
    return {text: parts for text, parts in parts_of.items() if text not in inner}


def sentence_keys(items: Sequence[Iterable[str]]) -> tuple[np.ndarray, np.ndarray]:
    """(keys of the sentences of all items, number of the item that has each): uint64 [N] and int64 [N]."""
    sentence_lists = [[part for parts in outline(texts).values() for part in parts] for texts in items]
    numbers = np.repeat(np.arange(len(items)), [len(parts) for parts in sentence_lists])
    return keys([part for parts in sentence_lists for part in parts]), numbers


def identifying(conversations: Sequence[Conversation], frequency: Frequency, langs: Iterable[str]) -> list[list[str]]:
    """For each conversation the texts that identify it; the first is what its prompt comes down to.

    Args:
        frequency: Of the sentences of the collection that the conversations are part of.
        langs: The languages that the texts are in.
    """
    outlines = [outline(item.texts) for item in conversations]
    known = _Sentences(outlines, frequency, langs)
    out = []
    for item, parts_of in zip(conversations, outlines, strict=True):
        answers = {text for text in parts_of if _is_answer(text, item)}
        prompts = [text for text in parts_of if text not in answers] or list(parts_of)
        prompt_parts = list(dict.fromkeys(part for text in prompts for part in parts_of[text]))
        rare_parts = [part for part in prompt_parts if part not in known.common] or prompt_parts
        texts = dict.fromkeys(["\n".join(rare_parts)] if rare_parts else [])
        for text, parts in parts_of.items():
            least = ANSWER_LETTERS if text in answers else PROMPT_LETTERS
            candidates = [known.without_common(text, parts), *(part for part in parts if part not in known.common)]
            texts.update(dict.fromkeys(part for part in candidates if known.is_long(part, least)))
        out.append(list(texts))
    return out


def conversation(turns: Sequence[Message]) -> Conversation:
    """A conversation of which nothing else is known than its messages; those of the system are left out."""
    contents = [turn["content"] for turn in turns if turn["role"] != "system"]
    prompt = "\n".join(contents[:-1])
    return Conversation([prompt, *contents], prompt, contents[-1])


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
    rows: dict[tuple[str, str, str, str, bool], None] = {}
    for (name, _, lang), items in collections.items():
        for texts in _held_out_texts(list(items.values()), lang):
            rows.update(dict.fromkeys((name, lang, *row) for row in texts))
    return pa.Table.from_pylist([dict(zip(HELD_OUT.names, row, strict=True)) for row in rows], schema=HELD_OUT)


def _held_out_texts(items: Sequence[Sequence[str]], lang: str) -> list[list[tuple[str, str, bool]]]:
    """For each item of a collection the (text, what of it identifies the item, whether that is rare)."""
    part_keys, numbers = sentence_keys(items)
    outlines = [outline(texts) for texts in items]
    known = _Sentences(outlines, Frequency(numbers.astype(np.uint64), part_keys), [lang])
    out = []
    for texts, parts_of in zip(items, outlines, strict=True):
        rare = [(text, known.without_common(text, parts), True) for text, parts in parts_of.items()]
        inner = [text for text in texts if text not in parts_of and text.strip() and text not in known.common]
        rare = [row for row in (*rare, *((text, text, True) for text in inner)) if row[1]]
        long = [row for row in rare if known.is_long(row[1], PROMPT_LETTERS)]
        out.append(long or rare or [(text, text, False) for text in parts_of])
    return out


def _is_answer(text: str, item: Conversation) -> bool:
    return text not in item.prompt or (text == item.answer and text != item.prompt)


class _Sentences:
    """What is known of the sentences of some items: which are common, and how long they are."""

    def __init__(self, outlines: Sequence[dict[str, list[str]]], frequency: Frequency, langs: Iterable[str]):
        distinct = list(dict.fromkeys(part for parts_of in outlines for parts in parts_of.values() for part in parts))
        matched = match_key(pa.array(distinct, pa.string()))
        is_common = frequency.is_common(digests(matched.to_pylist())).tolist()
        self.common = {part for part, common in zip(distinct, is_common, strict=True) if common}
        self._letters = dict(zip(distinct, pc.utf8_length(matched).to_pylist(), strict=True))
        self._size = min((size(lang) for lang in langs), default=SIZE)

    def without_common(self, text: str, parts: list[str]) -> str:
        """The text without its common sentences; empty where it has no others."""
        rare = [part for part in parts if part not in self.common]
        text = text if len(rare) == len(parts) else "\n".join(rare)
        self._letters.setdefault(text, sum(self._letters[part] for part in rare))
        return text

    def is_long(self, text: str, least: dict[int, int]) -> bool:
        return self._letters[text] >= least[self._size]
