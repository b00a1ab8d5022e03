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
FEW_HELD_OUT = 10
"""The same among the items of an eval. It is larger, as a sentence must be in few items of training as well: here it
only keeps wordings and labels from being looked for, while a passage with ten questions is."""
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

    def __init__(self, items: np.ndarray, sentence_keys: np.ndarray, most: int = FEW):
        """items, sentence_keys: uint64 [N], the key of a sentence and of the item that has it; repeats do not count."""
        order = np.lexsort((items, sentence_keys))
        items, sentence_keys = items[order], sentence_keys[order]
        new = np.append(True, (items[1:] != items[:-1]) | (sentence_keys[1:] != sentence_keys[:-1]))[: len(items)]
        self._keys, self._counts = np.unique(sentence_keys[new], return_counts=True)
        self.few = max(1, min(most, int(len(np.unique(items)) * SHARE)))
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


def identifying(
    conversations: Sequence[Conversation], frequency: Frequency, langs: Iterable[str]
) -> list[list[str]]:
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


def compared_texts(talks: Iterable[Sequence[Message]], lang: str) -> tuple[list[str], list[str]]:
    """(prompts and messages, sentences within them) by which conversations in `lang` can be recognised.

    Every prompt is one of them; messages and sentences are, where they are long enough. Messages of the system are not.
    """
    texts, parts = dict[str, int](), dict[str, int]()
    for turns in talks:
        turns = [turn for turn in turns if turn["role"] != "system"]
        prompt = "\n".join(turn["content"] for turn in turns[:-1])
        texts[prompt] = 0
        for turn in turns:
            least = (ANSWER_LETTERS if turn["role"] == "assistant" else PROMPT_LETTERS)[size(lang)]
            texts.setdefault(turn["content"], least)
            for part in sentences(turn["content"]):
                parts.setdefault(part, least)
    out = []
    for found in (texts, {part: least for part, least in parts.items() if part not in texts}):
        letters = pc.utf8_length(match_key(pa.array(list(found), pa.string()))).to_pylist()
        out.append([text for (text, least), n in zip(found.items(), letters, strict=True) if n >= least])
    return out[0], out[1]


HELD_OUT = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("eval", "lang", "text", "own")])
"""A held-out text, and what of it identifies the item: the text, without sentences that many of the items have."""


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
    found: dict[tuple[str, str, str, str], None] = {}
    for (name, _, lang), items in collections.items():
        for texts in _held_out_texts(list(items.values()), lang):
            found.update(dict.fromkeys((name, lang, *both) for both in texts))
    columns = zip(*found, strict=True) if found else [[]] * len(HELD_OUT)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=HELD_OUT)


def _held_out_texts(items: Sequence[Sequence[str]], lang: str) -> list[list[tuple[str, str]]]:
    """For each item of a collection the (text, what of it identifies the item)."""
    found, owners = sentence_keys(items)
    frequency = Frequency(owners.astype(np.uint64), found, FEW_HELD_OUT)
    outlines = [outline(texts) for texts in items]
    text = _Sentences(outlines, frequency, [lang])
    out = []
    for texts, whole in zip(items, outlines, strict=True):
        both = [(t, text.without_common(t, parts)) for t, parts in whole.items()]
        both += [(t, t) for t in texts if t not in whole and t.strip() and t not in text.common]
        both = [(t, own) for t, own in both if own]
        out.append(
            [(t, own) for t, own in both if text.is_long(own, PROMPT_LETTERS)] or both or [(t, t) for t in texts]
        )
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
