"""Instruction following, across languages where the mix has it: the loss is on the response and its EOS alone."""

from typing import TYPE_CHECKING, Any, ClassVar

from alignment_train.models.chat import plain
from alignment_train.objectives import Reads
from alignment_train.objectives._next_token import NextToken
from alignment_train.training.data import conversations, token_counts

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class Instruction(NextToken):
    """Next-token loss on responses. Conversations are rendered by the tokenizer's chat template, else as AFP does.

    Source: AFP, cross-lingual instruction following (arXiv 2311.08089), weight 1.5 there.
    """

    reads: ClassVar[Reads] = "instructions"
    supports_data_parallel: ClassVar[bool] = True
    uses_chat: ClassVar[bool] = True

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        if self.packs(model):
            return [0] * len(rows)  # in random order: lengths of all sizes fill rows best
        return token_counts(["".join(plain(row["messages"])) for row in rows], model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        return conversations([row["messages"] for row in rows], model, max_length, self.packs(model))
