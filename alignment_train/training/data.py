"""Shards of the training mix to token batches: which rows a step sees, and how texts become tensors."""

from collections.abc import Callable, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import UserError
from pipelines.storage.store import Store

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from alignment_train.models.model import Model

WINDOW = 32  # batches that are sorted by length together: little padding, and an order that stays random beyond it


class Rows:
    """The rows that each step of an objective sees: every row once an epoch, texts of like length together.

    A step's rows hang on its number and the seed alone, so a resumed run needs no position of its own.
    """

    def __init__(
        self, table: pa.Table, rows: int, seed: int, token_lengths: Callable[[list[dict[str, Any]]], list[int]]
    ):
        """rows: a step; token_lengths: the length of each row in tokens. ValueError where the table has fewer rows."""
        if table.num_rows < rows:
            raise UserError(
                f"found {table.num_rows} rows. Allowed: at least one batch of {rows}. Lower the objective's `rows`, or "
                f"give it more data."
            )
        self.table, self.rows, self.seed, self.token_lengths = table, rows, seed, token_lengths
        self.per_epoch = table.num_rows // rows
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._window, self._batches = (-1, -1), list[list[dict[str, Any]]]()

    def at(self, step: int) -> list[dict[str, Any]]:
        """The rows of step `step`, counted from 0."""
        epoch, index = divmod(step, self.per_epoch)
        window, place = divmod(index, WINDOW)
        if (epoch, window) != self._window:
            self._window, self._batches = (epoch, window), self._sorted(epoch, window)
        return self._batches[place]

    def _sorted(self, epoch: int, window: int) -> list[list[dict[str, Any]]]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.table.num_rows)
        start = window * WINDOW * self.rows
        stop = min(start + WINDOW * self.rows, self.per_epoch * self.rows)
        found = self.table.take(pa.array(self._order[start:stop])).to_pylist()
        by_length = np.argsort(self.token_lengths(found), kind="stable").reshape(-1, self.rows)
        order = np.random.default_rng([self.seed, epoch, window]).permutation(len(by_length))
        return [[found[i] for i in by_length[batch]] for batch in order]


def read_parts(store: Store, reads: Set[str]) -> dict[str, pa.Table]:
    """The tables of the training mix that objectives read, by `Objective.reads`."""
    stored = {"bitext" if name == "segments" else name for name in reads}
    parts = {name: store.table("training_mix", part=name) for name in sorted(stored)}
    return {**parts, "segments": segments(parts["bitext"])} if "segments" in reads else parts


def segments(bitext: pa.Table) -> pa.Table:
    """Both sides of BITEXT rows one below the other, `text` and `language`: a pivot is half of it."""
    columns = {"text": ("src", "tgt"), "language": ("src_lang", "tgt_lang")}
    return pa.table(
        {
            name: pa.chunked_array([*bitext[src].chunks, *bitext[tgt].chunks], pa.string())
            for name, (src, tgt) in columns.items()
        }
    )


def rows_with(language: str, bitext: pa.Table, setting: str, once: bool = False) -> pa.Array:
    """True for the rows of BITEXT with a side in `language`, with `once` only one; ValueError where there is none.

    setting: where the recipe names the language.
    """
    match = pc.xor if once else pc.or_
    found = match(pc.equal(bitext["src_lang"], language), pc.equal(bitext["tgt_lang"], language))
    if not pc.any(found, min_count=0).as_py():
        there = sorted({code for side in ("src_lang", "tgt_lang") for code in bitext[side].unique().to_pylist()})
        raise UserError(
            f"{setting}: found no {f'pair of {language} and another language' if once else f'row in {language}'} among "
            f"{bitext.num_rows} rows of bitext. Allowed: {', '.join(there) or 'none, the bitext is empty'}. Name one "
            f"of them, or add pairs with {language}."
        )
    return found.combine_chunks()


def language_numbers(codes: list[str], device: "torch.device") -> "Tensor":
    """[N]: our codes, eight ASCII letters each, as the integers that their bytes are; they sort as the codes do."""
    import torch

    return torch.tensor([int.from_bytes(code.encode("ascii")) for code in codes], device=device)


def token_counts(texts: list[str], model: "Model") -> list[int]:
    """Tokens of each text, special ones included."""
    return [len(ids) for ids in model.tokenizer(texts)["input_ids"]]


def pair_counts(rows: list[dict[str, Any]], model: "Model") -> list[int]:
    """Tokens of the longer side of each row of BITEXT."""
    sides = (token_counts([row[side] for row in rows], model) for side in ("src", "tgt"))
    return [max(pair) for pair in zip(*sides, strict=True)]


def texts(segments: list[str], model: "Model", max_length: int, packed: bool = False) -> dict[str, "Tensor"]:
    """A language modelling batch: labels are all tokens of a segment and its EOS, not what the tokenizer puts first.

    packed: as of `pack`; else a row each.
    """
    eos = model.tokenizer.eos_token_id
    ids = [row if row[-1:] == [eos] else [*row, eos] for row in model.tokenizer(segments)["input_ids"]]
    first = {model.tokenizer.bos_token_id, eos}
    labels = [[-100 if i == 0 and token in first else token for i, token in enumerate(row)] for row in ids]
    return _cut(ids, labels, model, max_length, packed)


def conversations(
    messages: list[list[dict[str, str]]], model: "Model", max_length: int, packed: bool = False
) -> dict[str, "Tensor"]:
    """A batch whose labels are the tokens of the last message and of its end; packed: as of `pack`, else a row each."""
    encoded = model.chat.encode(messages)
    return _cut([talk.ids for talk in encoded], [talk.labels for talk in encoded], model, max_length, packed)


def _cut(
    ids: list[list[int]], labels: list[list[int]], model: "Model", max_length: int, packed: bool
) -> dict[str, "Tensor"]:
    """To a batch. A text over `max_length` tokens loses its end, or its beginning where the prompt fills it."""
    import torch

    cut = 0
    for i, (row, wanted) in enumerate(zip(ids, labels, strict=True)):
        if len(row) > max_length:
            cut += 1
            kept = (
                slice(max_length) if any(label != -100 for label in wanted[1:max_length]) else slice(-max_length, None)
            )
            ids[i], labels[i] = row[kept], wanted[kept]
    batch = pack(ids, labels, model, max_length) if packed else model.pad(ids, labels)
    return {**batch, "cut": torch.tensor(cut)}


def pack(ids: list[list[int]], labels: list[list[int]], model: "Model", length: int) -> dict[str, "Tensor"]:
    """Texts in as few rows of at most `length` tokens as first-fit decreasing finds; none is longer than that.

    As `Model.pad`, and `position_ids` [N, T], which begin at 0 in each text and in what pads a row. The first token of
    a text is no label: before it stands another text.
    """
    import torch

    rows, room = list[list[int]](), list[int]()  # numbers of texts; tokens left
    for i in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        place = next((row for row, left in enumerate(room) if left >= len(ids[i])), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(length)
        rows[place].append(i)
        room[place] -= len(ids[i])
    batch = model.pad(
        [[token for i in row for token in ids[i]] for row in rows],
        [[label for i in row for label in (-100, *labels[i][1:])] for row in rows],
    )
    longest = batch["input_ids"].shape[1]
    positions = [[place for i in row for place in range(len(ids[i]))] for row in rows]
    positions = [[*row, *range(longest - len(row))] for row in positions]
    return {**batch, "position_ids": torch.tensor(positions, device=model.device)}
