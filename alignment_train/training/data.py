"""From shards of the training mix to batches of tokens: which rows a step sees, and how texts become tensors."""

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

WINDOW = 32
"""Batches that are sorted by length together: large enough for little padding, small enough to stay shuffled."""


class Rows:
    """The rows of an objective's batches: every row once per epoch, texts of similar length together.

    A batch depends only on its index and the seed, so a resumed run needs no state.
    """

    def __init__(
        self, table: pa.Table, rows: int, seed: int, token_lengths: Callable[[list[dict[str, Any]]], list[int]]
    ):
        """
        Args:
            rows: Batch size.
            token_lengths: The length of each row in tokens.

        Raises:
            UserError: The table has less than one batch.
        """
        if table.num_rows < rows:
            raise UserError(
                f"found {table.num_rows} rows. Expected: at least one batch of {rows}. Fix: lower the objective's "
                f"`rows`, or add data."
            )
        self.table, self.rows, self.seed, self.token_lengths = table, rows, seed, token_lengths
        self.per_epoch = table.num_rows // rows
        self._epoch, self._order = -1, np.empty(0, np.int64)
        self._window, self._batches = (-1, -1), list[list[dict[str, Any]]]()

    def at(self, index: int) -> list[dict[str, Any]]:
        """The batch `index`, counted from 0 over all epochs."""
        epoch, position = divmod(index, self.per_epoch)
        window, offset = divmod(position, WINDOW)
        if (epoch, window) != self._window:
            self._window, self._batches = (epoch, window), self._sorted_window(epoch, window)
        return self._batches[offset]

    def _sorted_window(self, epoch: int, window: int) -> list[list[dict[str, Any]]]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.table.num_rows)
        start = window * WINDOW * self.rows
        stop = min(start + WINDOW * self.rows, self.per_epoch * self.rows)
        rows = self.table.take(pa.array(self._order[start:stop])).to_pylist()
        by_length = np.argsort(self.token_lengths(rows), kind="stable").reshape(-1, self.rows)
        order = np.random.default_rng([self.seed, epoch, window]).permutation(len(by_length))
        return [[rows[i] for i in by_length[batch]] for batch in order]


def read_parts(store: Store, reads: Set[str]) -> dict[str, pa.Table]:
    """The tables of the training mix that objectives read, by `Objective.reads`."""
    stored = {"bitext" if name == "segments" else name for name in reads}
    parts = {name: store.table("training_mix", part=name) for name in sorted(stored)}
    return {**parts, "segments": segments(parts["bitext"])} if "segments" in reads else parts


def segments(bitext: pa.Table) -> pa.Table:
    """Both sides of BITEXT rows as separate rows, `text` and `language`; a pivot language is half of them."""
    columns = {"text": ("src", "tgt"), "language": ("src_lang", "tgt_lang")}
    return pa.table(
        {
            name: pa.chunked_array([*bitext[src].chunks, *bitext[tgt].chunks], pa.string())
            for name, (src, tgt) in columns.items()
        }
    )


def rows_with(language: str, bitext: pa.Table, setting: str, once: bool = False) -> pa.Array:
    """Mask of the BITEXT rows with a side in `language`.

    Args:
        setting: The setting that names the language, for messages.
        once: Whether the other side must be in another language.

    Raises:
        UserError: There are none.
    """
    match = pc.xor if once else pc.or_
    mask = match(pc.equal(bitext["src_lang"], language), pc.equal(bitext["tgt_lang"], language))
    if not pc.any(mask, min_count=0).as_py():
        present = sorted({code for side in ("src_lang", "tgt_lang") for code in bitext[side].unique().to_pylist()})
        raise UserError(
            f"{setting}: found no {f'pair of {language} and another language' if once else f'row in {language}'} among "
            f"{bitext.num_rows} rows of bitext. Expected: {', '.join(present) or 'some bitext'}. Fix: name one of "
            f"these languages, or add pairs with {language}."
        )
    return mask.combine_chunks()


def language_numbers(codes: list[str], device: "torch.device") -> "Tensor":
    """Language codes of eight ASCII letters as integers [N] with the same bytes, which sort as the codes do."""
    import torch

    return torch.tensor([int.from_bytes(code.encode("ascii")) for code in codes], device=device)


def token_counts(texts: list[str], model: "Model") -> list[int]:
    """Number of tokens of each text, including special tokens."""
    return [len(ids) for ids in model.tokenizer(texts)["input_ids"]]


def pair_counts(rows: list[dict[str, Any]], model: "Model") -> list[int]:
    """Number of tokens of the longer side of each BITEXT row."""
    sides = (token_counts([row[side] for row in rows], model) for side in ("src", "tgt"))
    return [max(pair) for pair in zip(*sides, strict=True)]


def texts(segments: list[str], model: "Model", max_length: int, packed: bool = False) -> dict[str, "Tensor"]:
    """A language modelling batch; labels are all tokens of a segment and EOS, except what the tokenizer prepends.

    Args:
        packed: Whether texts share rows (see `pack`).
    """
    eos = model.tokenizer.eos_token_id
    ids = [row if row[-1:] == [eos] else [*row, eos] for row in model.tokenizer(segments)["input_ids"]]
    prepended = {model.tokenizer.bos_token_id, eos}
    labels = [[-100 if i == 0 and token in prepended else token for i, token in enumerate(row)] for row in ids]
    return _truncated_batch(ids, labels, model, max_length, packed)


def conversations(
    messages: list[list[dict[str, str]]], model: "Model", max_length: int, packed: bool = False
) -> dict[str, "Tensor"]:
    """A batch whose labels are the tokens of the last message and of its end.

    Args:
        packed: Whether texts share rows (see `pack`).
    """
    encoded = model.chat.encode(messages)
    return _truncated_batch(
        [item.ids for item in encoded], [item.labels for item in encoded], model, max_length, packed
    )


def _truncated_batch(
    ids: list[list[int]], labels: list[list[int]], model: "Model", max_length: int, packed: bool
) -> dict[str, "Tensor"]:
    """A text over `max_length` tokens loses its end, or its beginning if it would have no label left."""
    import torch

    cut = 0
    for i, (row, row_labels) in enumerate(zip(ids, labels, strict=True)):
        if len(row) > max_length:
            cut += 1
            keeps_label = any(label != -100 for label in row_labels[1:max_length])
            kept = slice(max_length) if keeps_label else slice(-max_length, None)
            ids[i], labels[i] = row[kept], row_labels[kept]
    batch = pack(ids, labels, model, max_length) if packed else model.pad(ids, labels)
    return {**batch, "cut": torch.tensor(cut)}


def pack(ids: list[list[int]], labels: list[list[int]], model: "Model", length: int) -> dict[str, "Tensor"]:
    """Pack texts into few rows of at most `length` tokens, by first-fit decreasing; no text may be longer.

    The first token of a text is not a label, because the token before it belongs to another text.

    Returns:
        As `Model.pad`, and `position_ids` [N, T], which start at 0 in each text and in the padding of a row.
    """
    import torch

    rows, room = list[list[int]](), list[int]()  # indices of texts; free tokens
    for i in sorted(range(len(ids)), key=lambda i: -len(ids[i])):
        target = next((row for row, free in enumerate(room) if free >= len(ids[i])), len(rows))
        if target == len(rows):
            rows.append([])
            room.append(length)
        rows[target].append(i)
        room[target] -= len(ids[i])
    batch = model.pad(
        [[token for i in row for token in ids[i]] for row in rows],
        [[label for i in row for label in (-100, *labels[i][1:])] for row in rows],
    )
    longest = batch["input_ids"].shape[1]
    positions = [[position for i in row for position in range(len(ids[i]))] for row in rows]
    positions = [[*row, *range(longest - len(row))] for row in positions]
    return {**batch, "position_ids": torch.tensor(positions, device=model.device)}
