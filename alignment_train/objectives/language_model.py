"""Plain language modelling on the single sides of pairs, so that the model keeps what it knows of its languages."""

from typing import TYPE_CHECKING, Any, ClassVar

from alignment_train.data import texts, token_counts
from alignment_train.objectives import Objective, Reads

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


class LanguageModel(Objective):
    """Next-token loss on single segments, EOS included; a pivot language is half of the text.

    Rehearsal of old data beside new (Robins 1995, doi 10.1080/09540099550039318).
    """

    reads: ClassVar[Reads] = "segments"
    splits: ClassVar[bool] = True

    def measure(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return token_counts([row["text"] for row in rows], model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        return texts([row["text"] for row in rows], model, max_length)

    def loss(self, model: "Model", batch: dict[str, "Tensor"], held: Any = None) -> tuple["Tensor", dict[str, float]]:
        return model.language_model_loss(batch), {}
