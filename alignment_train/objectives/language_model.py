"""Plain language modelling on one side of each pair, so that the model keeps what it knows of its languages."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from alignment_train.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


class LanguageModel(Objective):
    """Next-token loss on single segments, EOS included; the side is drawn evenly, so a pivot is half of the text.

    Measured: beside contrast it holds the loss of English (rehearsal; Robins 1995, doi 10.1080/09540099550039318).
    """

    reads: ClassVar[Literal["bitext", "instructions"]] = "bitext"

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int, seed: int) -> dict[str, "Tensor"]:
        import numpy as np

        from alignment_train.data import texts

        sides = np.random.default_rng(seed).integers(2, size=len(rows))
        return texts([row["tgt" if side else "src"] for row, side in zip(rows, sides, strict=True)], model, max_length)

    def loss(self, model: "Model", batch: dict[str, "Tensor"]) -> tuple["Tensor", dict[str, float]]:
        return model.language_model_loss(batch), {}
