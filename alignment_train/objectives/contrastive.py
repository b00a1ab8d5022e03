"""Contrast: a sentence and its translation get near hidden states, the other sentences of the batch far ones."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from alignment_train.data import token_counts
from alignment_train.objectives import Objective, Reads

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


CHUNK = 64
"""Texts run at once on a CPU: 128 pairs of opus8 take a tenth less time than all at once, 32 pairs as long."""


class Contrastive(Objective):
    """InfoNCE over the pooled states of one layer; only the blocks below it are run.

    A sentence that occurs twice in a batch, and another translation of the same one, is no negative of itself.
    Sources: AFP (arXiv 2311.08089; layer 1, last, temperature 0.05, src_to_tgt) and mid-align (arXiv 2502.14830;
    layer middle, mean, 0.1, src_to_tgt).
    """

    layer: int | Literal["middle"] = "middle"
    pooling: Literal["mean", "last"] = "mean"
    temperature: float = Field(0.1, gt=0)
    direction: Literal["both", "src_to_tgt"] = "both"
    rows: int = Field(128, gt=1)
    chunk: int | None = Field(None, gt=0)
    """Texts run at once; a batch of any size then takes the memory of so many, for one forward pass more, and has the
    gradients that it has without (GradCache, Gao et al. 2021, arXiv 2101.06983, here by recomputation)."""

    reads: ClassVar[Reads] = "bitext"
    aligns: ClassVar[bool] = True

    def check(self, layers: int | None = None) -> None:
        from alignment_train.config import layer_index

        if layers is not None:
            layer_index(self.layer, layers)

    def measure(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        sides = (token_counts([row[side] for row in rows], model) for side in ("src", "tgt"))
        return [max(pair) for pair in zip(*sides, strict=True)]

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        import torch

        src, tgt = [row["src"] for row in rows], [row["tgt"] for row in rows]
        batch, cut = model.encode(src + tgt, max_length)
        number: dict[str, int] = {}
        ids = torch.tensor([number.setdefault(text, len(number)) for text in src + tgt], device=model.device)
        one, two = ids[: len(src)], ids[len(src) :]
        same = (one[:, None] == one[None]) | (two[:, None] == two[None])  # [B, B]
        return {**batch, "same": same, "cut": torch.tensor(cut)}

    def loss(self, model: "Model", batch: dict[str, "Tensor"], held: Any = None) -> tuple["Tensor", dict[str, float]]:
        from alignment_train.losses import info_nce

        src, tgt = self.states(model, batch).chunk(2)
        return info_nce(src, tgt, self.temperature, self.direction, batch["same"]), {}

    def states(self, model: "Model", batch: dict[str, "Tensor"]) -> "Tensor":
        """[2B, H]: the pooled states of all sources, then of all targets.

        They are run shortest first, `chunk` or on a CPU CHUNK at a time, padded to the longest of these.
        """
        from torch import cat
        from torch.utils.checkpoint import checkpoint

        from alignment_train.config import layer_index
        from alignment_train.losses import pool

        layer = layer_index(self.layer, len(model.blocks))

        def run(ids: "Tensor", mask: "Tensor") -> "Tensor":
            return pool(model.hidden(ids, mask, layer), mask, self.pooling)

        ids, mask = batch["input_ids"], batch["attention_mask"]
        lengths, order = mask.sum(1).sort(stable=True)
        size = self.chunk or (CHUNK if ids.device.type == "cpu" else len(ids))
        parts = zip(order.split(size), lengths[size - 1 :: size].tolist() + lengths[-1:].tolist(), strict=False)
        states = []
        for chosen, longest in parts:
            part = ids[chosen, :longest], mask[chosen, :longest]
            again = self.chunk is not None and len(ids) > self.chunk
            states.append(checkpoint(run, *part, use_reentrant=False) if again else run(*part))  # random state kept too
        return cat(states)[order.argsort()]
