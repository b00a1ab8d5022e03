"""Training objectives, one file each. An objective names the rows it reads and turns a batch into a loss."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from pipelines.registry import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


Reads = Literal["bitext", "instructions", "segments"]


class Objective(Plugin):
    """Base of objectives. Each step sees `rows` rows; the step's loss is the sum of weight x loss over objectives."""

    weight: float = Field(1.0, ge=0)
    rows: int = Field(32, gt=0)

    reads: ClassVar[Reads]
    """The rows it sees: pairs, conversations, or single segments of the pairs (column `text`)."""
    aligns: ClassVar[bool] = False
    """Whether this is what the control goes without."""

    def check(self, layers: int | None = None) -> None:
        """Raise ValueError where the settings cannot hold for a model of `layers` blocks."""

    @abstractmethod
    def measure(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        """The length of each row in tokens; rows of like length share a batch."""

    @abstractmethod
    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """Rows of the mix to tensors, and `cut`, the number of texts cut at `max_length` tokens."""

    def open(self, model: "Model") -> Any:
        """What `loss` needs beside the batch, made of the base model before the first step; it is handed to every loss.

        A module's parameters that require gradients are trained, checkpointed and left behind at the end; all else,
        such as a frozen copy of the model, is made again when a killed run resumes.
        """
        return None

    @abstractmethod
    def loss(self, model: "Model", batch: dict[str, "Tensor"], held: Any = None) -> tuple["Tensor", dict[str, float]]:
        """The mean loss of a batch in nats, and figures worth logging beside it; `held` is what `open` made."""
