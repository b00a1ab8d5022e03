"""Trains on both sides of a row as one line, `source = target`, so that each side is read beside the other.

Source: one of the two formats of the translation data of AFP (Li et al. 2024, arXiv 2311.08089). The loss counts the
tokens of both sides.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from alignment_train.objectives import Objective, Reads

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class ParallelLine(Objective):
    """Next-token loss on `source = target`."""

    reads: ClassVar[Reads] = "bitext"
    is_alignment: ClassVar[bool] = True

    separator: str = " = "
    """The text between the two sides."""

    def lines(self, rows: list[dict[str, Any]]) -> list[str]:
        return [f"{row['src']}{self.separator}{row['tgt']}" for row in rows]

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        from alignment_train.training.data import token_counts

        return token_counts(self.lines(rows), model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """input_ids, attention_mask and labels, int64 [rows, tokens], and `cut`, the number of lines that were cut."""
        from alignment_train.training.data import texts

        return texts(self.lines(rows), model, max_length)

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        return model.language_model_loss(batch), {}
