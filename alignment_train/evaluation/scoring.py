"""How likely texts are after their contexts: each beginning that several of them share is run once.

1. Requests with the same input tokens become one row: choices of one token each cost one row together.
2. Rows in lexicographic order are cut into groups that share a prefix, so that the fewest tokens are run.
3. The prefixes of a batch are run, padded left; their keys and values are copied to the rows, which go on from there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from alignment_train.models.model import Model

SHARED = 8  # tokens in common from which a prefix is run by itself
FAN = 32  # rows that follow one prefix at most
ALIKE = 4  # tokens by which rests count as equally long: among these groups go by the length of their prefix


class Request(NamedTuple):
    """All tokens, and the place of the first that is asked about, at least 1."""

    tokens: tuple[int, ...]
    start: int

    @property
    def row(self) -> tuple[int, ...]:
        """What is put in: the last token is only predicted."""
        return self.tokens[:-1]


class Group(NamedTuple):
    """Rows that have `shared` tokens in common, and the next one too; 0 where they are run by themselves."""

    shared: int
    rows: list[tuple[int, ...]]

    @property
    def rest(self) -> int:
        return max(map(len, self.rows)) - self.shared


def loglikelihood(
    model: Model,
    requests: Sequence[Request],
    tokens: int,
    most: int | None = None,
    counted: Callable[[Iterable[list[int]]], Iterable[list[int]]] = iter,
) -> tuple[np.ndarray, np.ndarray]:
    """ln p of what each request asks about, float64 [N], and whether each of its tokens is the likeliest, bool [N].

    A batch has at most `tokens` tokens, padding and kept ones included, and at most `most` rows. counted: passes on
    the numbers of each batch's requests, and so sees how far it is.
    """
    asked: dict[tuple[int, ...], list[int]] = {}
    for number, request in enumerate(requests):
        asked.setdefault(request.row, []).append(number)
    nats, greedy = np.zeros(len(requests)), np.ones(len(requests), bool)
    fan = min(FAN, most or FAN) if _keeps(model) else 1
    batches = list(_batches(groups(sorted(asked), fan), tokens, most))
    numbers = ([number for group in batch for row in group.rows for number in asked[row]] for batch in batches)
    for _, batch in zip(counted(numbers), batches, strict=False):
        _ask(model, batch, asked, requests, nats, greedy)
    return nats, greedy


def groups(rows: Sequence[tuple[int, ...]], fan: int) -> list[Group]:
    """Rows in lexicographic order, cut so that prefixes and rests together have the fewest tokens."""
    arrays = [np.array(row) for row in rows]
    common = [0] + [_common(a, b) for a, b in pairwise(arrays)]
    best, cut = [0], [0]  # of the first n rows: tokens saved at most, and where their last group begins
    for end in range(1, len(rows) + 1):
        most, where, shared = best[end - 1], end - 1, len(rows[end - 1])
        for begin in range(end - 2, max(0, end - fan) - 1, -1):
            shared = min(shared, common[begin + 1] - 1)  # the token after the prefix is the same in all rows too
            if shared < SHARED:
                break
            if (saved := best[begin] + shared * (end - begin - 1)) > most:
                most, where = saved, begin
        best.append(most)
        cut.append(where)
    out, end = [], len(rows)
    while end:
        begin = cut[end]
        shared = min(common[begin + 1 : end]) - 1 if end - begin > 1 else 0
        out.append(Group(shared, list(rows[begin:end])))
        end = begin
    return out[::-1]


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two rows begin with alike."""
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _keeps(model: Model) -> bool:
    """Whether what the model keeps of a prefix is keys and values alone, so that it can be copied to several rows."""
    ids = torch.tensor([[model.tokenizer.eos_token_id]], device=model.device)
    kept: Any = getattr(model.body(input_ids=ids, use_cache=True), "past_key_values", None)
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(kept, DynamicCache) and all(type(layer) in known for layer in kept.layers or ())


def _batches(found: list[Group], tokens: int, most: int | None) -> Iterator[list[Group]]:
    """Groups of like length together, of prefix and rest, each of which is padded; those without a prefix apart."""

    def size(group: Group) -> tuple[bool, int, int, int]:
        return group.shared > 0, -(-group.rest // ALIKE), group.shared, group.rest

    for _, alike in groupby(sorted(found, key=size), key=lambda group: group.shared > 0):
        batch: list[Group] = []
        for group in alike:
            grown = [*batch, group]
            length = max(one.shared for one in grown) + max(one.rest for one in grown)
            count = sum(len(one.rows) for one in grown)
            if batch and (count * length > tokens or count > (most or count)):
                yield batch
                grown = [group]
            batch = grown
        yield batch


def _ask(
    model: Model,
    batch: list[Group],
    asked: dict[tuple[int, ...], list[int]],
    requests: Sequence[Request],
    nats: np.ndarray,
    greedy: np.ndarray,
) -> None:
    """Put into `nats` and `greedy` what the requests of a batch's rows ask."""
    width = max(group.shared for group in batch)
    numbers = [[number for row in group.rows for number in asked[row]] for group in batch]
    kept: Any = None
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    if width:
        ids, where, labels = torch.full_like(mask, model.tokenizer.pad_token_id), [], []
        for i, group in enumerate(batch):
            pad, row = width - group.shared, group.rows[0]
            ids[i, pad:] = torch.tensor(row[: group.shared])
            mask[i, pad:] = 1
            first = min(requests[number].start for number in numbers[i]) - 1
            where += [(i, pad + place) for place in range(first, group.shared)]
            labels += row[first + 1 : group.shared + 1]
        found, likeliest, kept = _score(model, ids, mask, where, labels, None, True)
        table, likely = np.zeros(mask.shape), np.ones(mask.shape, bool)
        if where:
            table[tuple(zip(*where, strict=True))] = found
            likely[tuple(zip(*where, strict=True))] = likeliest
        for i, group in enumerate(batch):
            for number in numbers[i]:
                begin = width - group.shared + requests[number].start - 1
                nats[number] = table[i, begin:].sum()
                greedy[number] = likely[i, begin:].all()
    members = [(i, row) for i, group in enumerate(batch) for row in group.rows]
    ids = torch.full((len(members), max(group.rest for group in batch)), model.tokenizer.pad_token_id)
    present = torch.zeros_like(ids)
    where, labels, of = [], [], []
    for j, (i, row) in enumerate(members):
        shared = batch[i].shared
        ids[j, : len(row) - shared] = torch.tensor(row[shared:])
        present[j, : len(row) - shared] = 1
        for number in asked[row]:
            places = range(max(requests[number].start - 1, shared), len(row))
            where += [(j, place - shared) for place in places]
            labels += [requests[number].tokens[place + 1] for place in places]
            of += [number] * len(places)
    whole = None
    if width:
        chosen = torch.tensor([i for i, _ in members])
        kept.batch_select_indices(chosen.to(model.device))
        whole = torch.cat([mask[chosen], present], 1)
    found, likeliest, _ = _score(model, ids, whole, where, labels, kept, False)
    np.add.at(nats, of, found)
    np.logical_and.at(greedy, of, likeliest)


def _score(
    model: Model,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    where: list[tuple[int, int]],
    labels: Sequence[int],
    kept: Any,
    keep: bool,
) -> tuple[np.ndarray, np.ndarray, Any]:
    device = model.device
    rows, places = torch.tensor(where, device=device, dtype=torch.long).reshape(-1, 2).unbind(1)
    wanted = torch.tensor(labels, device=device, dtype=torch.long)
    on = None if mask is None else mask.to(device)
    nats, likeliest, kept = model.token_logprobs(ids.to(device), on, (rows, places), wanted, kept, keep)
    return nats.numpy(), likeliest.numpy(), kept
