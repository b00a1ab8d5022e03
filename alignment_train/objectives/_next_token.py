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
    """Several texts share a row of `max_length` tokens, and none sees another; a batch has texts of all lengths then.
    Without it each text has a row, and texts of like length share a batch. On a CPU that is faster: a token of opus8
    took 1.5 times as long packed into rows of 512 (XGLM's shape at 33M parameters, 16 texts a batch: 2 % of the tokens
    are padding where sorted; attention is computed over whole rows). On a GPU it is not measured yet."""

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
