"""What objectives with a next-token loss share: rows of one text each, or packed."""

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from alignment_train.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


SQUARE = 1 << 21
"""Rows times their tokens squared that a CPU runs at once, as attention's memory goes: 8 rows of 512. Of 32 such rows
in XGLM's shape at 35M parameters a token took twice as long, and all of them 16 GB instead of 5."""


class NextToken(Objective):
    """Base of objectives whose batches come from `data.texts` or `data.conversations`."""

    pack: bool = False
    """Several texts share a row of `max_length` tokens, and none sees another; a batch has texts of all lengths then.
    Without it each text has a row, and texts of like length share a batch. On a CPU that is faster: a token of opus8
    took 1.5 times as long packed into rows of 512 (XGLM's shape at 33M parameters, 16 texts a batch: 2 % of the tokens
    are padding where sorted; attention is computed over whole rows). On a GPU it is not measured yet."""

    def packs(self, model: "Model") -> bool:
        return self.pack and model.packing is not None

    def setup(self, model: "Model", table: pa.Table) -> Any:
        if self.pack and model.packing is None:
            logging.getLogger(__name__).warning(
                "%s.pack: %s can keep no texts of a row apart. Texts of like length share a batch, a row each.",
                self.name,
                type(model.lm).__name__,
            )

    def microbatches(self, batch: dict[str, "Tensor"]) -> list[dict[str, "Tensor"]]:
        """Fewer rows at a time where a CPU is given many long ones."""
        rows, tokens = batch["input_ids"].shape
        at_once = max(1, SQUARE // tokens**2)
        if batch["input_ids"].device.type != "cpu" or rows <= at_once:
            return [batch]
        parts = {name: value.split(at_once) for name, value in batch.items() if value.dim()}
        found = [dict(zip(parts, part, strict=True)) for part in zip(*parts.values(), strict=True)]
        return [part for part in found if self.count(part)] or [batch]  # the mean over no label is none

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        return model.language_model_loss(batch), {"texts_per_row": _texts_per_row(batch)} if self.pack else {}


def _texts_per_row(batch: dict[str, "Tensor"]) -> float:
    if "position_ids" not in batch:
        return 1.0
    begins = (batch["position_ids"] == 0) & (batch["attention_mask"] == 1)
    return float(begins.sum()) / len(begins)
