"""Training objectives, one file each. An objective names the rows it reads and turns a batch into a loss."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipelines.registry import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


class Objective(Plugin):
    """Base of objectives. Each step sees `rows` rows; the step's loss is the sum of weight x loss over objectives."""

    weight: float = Field(1.0, ge=0)
    rows: int = Field(32, gt=0)

    reads: ClassVar[Literal["bitext", "instructions"]]
    """The part of the training mix that `rows` are drawn from."""
    aligns: ClassVar[bool] = False
    """Whether this is what the control goes without."""

    def check(self, layers: int | None = None) -> None:
        """Raise ValueError where the settings cannot hold for a model of `layers` blocks."""

    @abstractmethod
    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int, seed: int) -> dict[str, "Tensor"]:
        """Rows of the mix to tensors, and `cut`, the number of texts cut at `max_length` tokens.

        `seed` differs from step to step and is the only source of chance.
        """

    @abstractmethod
    def loss(self, model: "Model", batch: dict[str, "Tensor"]) -> tuple["Tensor", dict[str, float]]:
        """The mean loss of a batch in nats, and figures worth logging beside it."""
