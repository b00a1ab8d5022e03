"""Training objectives, one file each. An objective names the rows it reads and turns a batch into a loss."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.registry import Plugin

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


Reads = Literal["bitext", "instructions", "segments", "tasks"]
Layer = int | Annotated[float, Field(gt=0, lt=1)] | Literal["middle", "auto"]
"""Index in `hidden_states`, 0 the embeddings and -1 the last; a fraction of the depth; `middle`, which is 0.5; or
`auto`, the layer that layer_probe chooses."""


MOVED = {
    "centered": "it is a setting of contrastive now. Write 'contrastive: {center: language}', and its other settings, "
    "such as memory and pivot, beside center."
}
"""Names that were objectives, and what to write in place of them."""


class Objective(Plugin):
    """Base of objectives. A micro-batch of an objective is `rows` rows; its loss counts `weight` times in a step's."""

    weight: float = Field(1.0, ge=0)
    rows: int = Field(32, gt=0)

    reads: ClassVar[Reads]
    """The rows it sees: pairs, conversations, single segments of the pairs (columns `text`, `language`), or the
    conversations of tasks."""
    is_alignment: ClassVar[bool] = False
    """Whether this is what the control goes without."""
    supports_data_parallel: ClassVar[bool] = False
    """Whether processes may have a part of a batch each: the loss is a mean of what each row has by itself, by `count`,
    or it gathers what it compares (`losses.gathered`)."""
    uses_chat: ClassVar[bool] = False
    """Whether it trains on conversations (`models.chat`)."""
    needs_prefix: ClassVar[bool] = False
    """Whether a recipe must have `train.adapter.prefix`."""

    def check(self, layers: int | None = None) -> None:
        """Raise ValueError where the settings cannot hold for a model of `layers` blocks: here, its `layer`."""
        from alignment_train.layers import layer_index

        layer: Layer | None = getattr(self, "layer", None)
        if layers is not None and layer is not None:
            layer_index(layer, layers)

    @abstractmethod
    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        """The length of each row in tokens; rows of like length share a batch."""

    @abstractmethod
    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """Rows of the mix to tensors, and `cut`, the number of texts cut at `max_length` tokens."""

    def row_mask(self, table: pa.Table) -> pa.Array | pa.ChunkedArray | None:
        """True for the rows of the part it reads that it can use, bool [rows of `table`]; None where it can use all.

        The others are never drawn: they take no place in a batch.
        """
        return None

    def setup(self, model: "Model", table: pa.Table) -> Any:
        """What `loss` needs beside the batch, made of the base model before the first step; it is handed to every loss.

        table: the rows that it will see, after `wanted`. Of a module, parameters that require gradients are trained,
        and all that its `state_dict` has is checkpointed, so it may change in `loss`; it is left behind at the end. All
        else, such as a frozen copy of the base in a `Model`, is made again when a killed run resumes.
        """
        return None

    def microbatches(self, batch: dict[str, "Tensor"]) -> list[dict[str, "Tensor"]]:
        """The batch in parts that are run one after the other, which takes memory for one alone.

        Their losses, weighted by `count`, have the gradient of the whole: more than one only where that holds.
        """
        return [batch]

    @abstractmethod
    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        """The mean loss of a batch in nats, and figures worth logging beside it; `held` is what `open` made."""

    def count(self, batch: dict[str, "Tensor"]) -> int:
        """What the loss of a batch is a mean over: its labels, or its rows where it has none.

        A step's micro-batches are weighted by it, so that they have the gradient of one batch of them all.
        """
        if "labels" not in batch:
            return self.rows
        return int((batch["labels"][:, 1:] != -100).sum())  # the first token is never predicted
