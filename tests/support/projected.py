"""An objective that trains a part of its own; in a file of its own, as that names it, whoever runs it."""

from typing import Any

import pyarrow as pa
import torch

from alignment_train.losses import gathered, info_nce
from alignment_train.models.model import Model
from alignment_train.objectives.contrastive import Contrastive


class Projected(Contrastive):
    """Contrast after a layer of its own, that is trained beside the model."""

    def setup(self, model: Model, table: pa.Table) -> torch.nn.Module:
        return torch.nn.Linear(16, 16)

    def loss(self, model: Model, batch: dict[str, torch.Tensor], state: Any = None) -> tuple[torch.Tensor, dict]:
        src, tgt = map(gathered, state(self.states(model, batch)).chunk(2))
        return info_nce(src, tgt, self.temperature), {}
