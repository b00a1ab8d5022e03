"""What objectives with a next-token loss share: rows of one text each, or packed."""

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from alignment_train.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


class NextToken(Objective):
    """Base of objectives whose batches come from `data.texts` or `data.conversations`."""

    pack: bool = False
    """Several texts share a row of `max_length` tokens, none of which sees another: a batch then has texts of all
    lengths, and no padding to speak of. Without it, texts of like length share a batch. MEASURED"""

    def packs(self, model: "Model") -> bool:
        return self.pack and model.packing is not None

    def open(self, model: "Model", table: pa.Table) -> Any:
        if self.pack and model.packing is None:
            logging.getLogger(__name__).warning(
                "%s.pack: %s can keep no texts of a row apart. Texts of like length share a batch, a row each.",
                self.name,
                type(model.lm).__name__,
            )

    def loss(self, model: "Model", batch: dict[str, "Tensor"], held: Any = None) -> tuple["Tensor", dict[str, float]]:
        figures = {"texts_per_row": self.rows / len(batch["input_ids"])} if self.pack else {}
        return model.language_model_loss(batch), figures
