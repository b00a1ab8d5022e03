"""Shards of the training mix to token batches: which rows a step sees, and how texts become tensors."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model

WINDOW = 32  # batches that are sorted by length together: padding falls, order stays random beyond it


class Order:
    """Which rows each step sees: every row once an epoch, texts of like length together, set by the seed alone.

    A step's rows are computed from its number, so a resumed run needs no position of its own.
    """

    def __init__(self, lengths: np.ndarray, rows: int, seed: int):
        """lengths: of each row in characters, [N]; rows: a step; ValueError where there are too few."""
        if len(lengths) < rows:
            raise ValueError(
                f"found {len(lengths)} rows. Allowed: at least one batch of {rows}. Lower `rows` or add data."
            )
        self.lengths, self.rows, self.seed = lengths, rows, seed
        self.per_epoch = len(lengths) // rows
        self._epoch, self._batches = -1, np.empty((0, rows), np.int64)

    def at(self, step: int) -> np.ndarray:
        """Row numbers of step `step`, [rows]."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[index]

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))[: self.per_epoch * self.rows]
        windows = [
            window[np.argsort(self.lengths[window], kind="stable")]
            for window in np.array_split(order, range(WINDOW * self.rows, len(order), WINDOW * self.rows))
        ]
        batches = np.concatenate(windows).reshape(-1, self.rows)
        return batches[rng.permutation(len(batches))]


class Rows:
    """The rows of one part of the mix in the order of an objective."""

    def __init__(self, table: pa.Table, rows: int, seed: int):
        self.table = table
        self.order = Order(lengths(table), rows, seed)

    def at(self, step: int) -> list[dict[str, Any]]:
        return self.table.take(pa.array(self.order.at(step))).to_pylist()


def lengths(table: pa.Table) -> np.ndarray:
    """Characters of each row, [N]: of both sides, or of all messages."""
    if "messages" in table.column_names:
        messages = table["messages"].combine_chunks()
        content = pc.utf8_length(pc.struct_field(pc.list_flatten(messages), "content")).to_numpy(zero_copy_only=False)
        ends = np.cumsum(pc.list_value_length(messages).to_numpy(zero_copy_only=False))
        total = np.concatenate([[0], np.cumsum(content)])
        return total[ends] - total[np.concatenate([[0], ends[:-1]])]
    both = pc.add(pc.utf8_length(table["src"]), pc.utf8_length(table["tgt"]))
    return both.to_numpy()


def texts(segments: list[str], model: "Model", max_length: int) -> dict[str, "Tensor"]:
    """A language modelling batch: labels are all tokens of a segment and its EOS, not what the tokenizer puts first."""
    eos = model.tokenizer.eos_token_id
    ids = [row if row[-1:] == [eos] else [*row, eos] for row in model.tokenizer(segments)["input_ids"]]
    first = {model.tokenizer.bos_token_id, eos}
    labels = [[-100 if i == 0 and token in first else token for i, token in enumerate(row)] for row in ids]
    return _cut(ids, labels, model, max_length)


def conversations(messages: list[list[dict[str, str]]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
    """A batch whose labels are the tokens of the last message and its EOS."""
    write = _by_template if model.tokenizer.chat_template else _plainly
    ids, labels = zip(*(write(talk, model.tokenizer) for talk in messages), strict=True)
    return _cut(list(ids), list(labels), model, max_length)


def render(talk: list[dict[str, str]]) -> tuple[str, str]:
    """(prompt, response) in AFP's plain form: messages joined by spaces (arXiv 2311.08089, section 3.2)."""
    return " ".join(message["content"] for message in talk[:-1]) + " ", talk[-1]["content"]


def _plainly(talk: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    prompt, response = render(talk)
    coded = tokenizer(prompt + response, return_offsets_mapping=True)
    ids, offsets = coded["input_ids"], coded["offset_mapping"]
    if ids[-1:] == [tokenizer.eos_token_id]:
        ids, offsets = ids[:-1], offsets[:-1]
    labels = [token if end > len(prompt) else -100 for token, (_, end) in zip(ids, offsets, strict=True)]
    return [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id]


def _by_template(talk: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    def write(part: list[dict[str, str]], prompt: bool) -> str:
        return tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=prompt)

    prompt, whole = write(talk[:-1], True), write(talk, False)
    if not whole.startswith(prompt):
        raise ValueError(
            "the tokenizer's chat template writes a prompt differently once it is answered; it cannot be masked."
        )
    coded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if end > len(prompt) else -100
        for token, (_, end) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
    ]
    return coded["input_ids"], labels


def _cut(ids: list[list[int]], labels: list[list[int]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
    """Pad to a batch. A text over `max_length` tokens loses its end, or its beginning where the prompt fills it."""
    import torch

    cut = 0
    for i, (row, wanted) in enumerate(zip(ids, labels, strict=True)):
        if len(row) > max_length:
            cut += 1
            kept = (
                slice(max_length) if any(label != -100 for label in wanted[1:max_length]) else slice(-max_length, None)
            )
            ids[i], labels[i] = row[kept], wanted[kept]
    return {**model.pad(ids, labels), "cut": torch.tensor(cut)}
