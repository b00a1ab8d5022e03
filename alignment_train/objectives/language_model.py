"""Plain language modelling on the single sides of pairs, so that the model keeps what it knows of its languages."""

from typing import TYPE_CHECKING, Any, ClassVar

from alignment_train.objectives import Reads
from alignment_train.objectives._next_token import NextToken
from alignment_train.training.data import texts, token_counts

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class LanguageModel(NextToken):
    """Next-token loss on single segments, EOS included; a pivot language is half of the text.

    Rehearsal of old data beside new (Robins 1995, doi 10.1080/09540099550039318).
    """

    reads: ClassVar[Reads] = "segments"
    supports_data_parallel: ClassVar[bool] = True

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        if self.packs(model):
            return [0] * len(rows)  # in random order: lengths of all sizes fill rows best
        return token_counts([row["text"] for row in rows], model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        return texts([row["text"] for row in rows], model, max_length, self.packs(model))
