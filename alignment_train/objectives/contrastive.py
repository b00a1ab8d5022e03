"""Contrast: a sentence and its translation get near hidden states, the other sentences of the batch far ones."""

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from alignment_train.data import pair_counts
from alignment_train.objectives import Layer, Objective, Reads

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

    layer: Layer = "middle"
    pooling: Literal["mean", "last"] = "mean"
    temperature: float = Field(0.1, gt=0)
    direction: Literal["both", "src_to_tgt"] = "both"
    rows: int = Field(128, gt=1)
    chunk: int | None = Field(None, gt=0)
    """Texts run at once; a batch of any size then takes the memory of so many, for one forward pass more, and has the
    gradients that it has without (GradCache, Gao et al. 2021, arXiv 2101.06983, here by recomputation)."""

    reads: ClassVar[Reads] = "bitext"
    splits: ClassVar[bool] = True
    aligns: ClassVar[bool] = True

    def measure(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return pair_counts(rows, model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        import torch

        src, tgt = [row["src"] for row in rows], [row["tgt"] for row in rows]
        batch, cut = model.encode(src + tgt, max_length)
        texts = torch.tensor([text_number(text) for text in src + tgt], device=model.device).view(2, -1).T  # [B, 2]
        return {**batch, "texts": texts, "same": same_texts(texts), "cut": torch.tensor(cut)}

    def loss(self, model: "Model", batch: dict[str, "Tensor"], held: Any = None) -> tuple["Tensor", dict[str, float]]:
        from alignment_train.losses import gathered, info_nce

        src, tgt = map(gathered, self.states(model, batch).chunk(2))
        same = same_texts(gathered(batch["texts"]))
        return info_nce(src, tgt, self.temperature, self.direction, same), {}

    def states(self, model: "Model", batch: dict[str, "Tensor"]) -> "Tensor":
        """[2B, H]: the pooled states of all sources, then of all targets.

        They are run in order of length, `chunk` or on a CPU CHUNK at a time, padded to the longest of these.
        """
        from torch import cat
        from torch.utils.checkpoint import checkpoint

        from alignment_train.layers import layer_index
        from alignment_train.losses import pool

        layer = layer_index(self.layer, len(model.blocks))

        def run(ids: "Tensor", mask: "Tensor") -> "Tensor":
            return pool(model.hidden(ids, mask, layer), mask, self.pooling)

        ids, mask = batch["input_ids"], batch["attention_mask"]
        again = self.chunk is not None and len(ids) > self.chunk
        # Longest first where little of each is kept: what the next need fits where the last lay. The other way round
        # the heap went to pieces, and 4,096 pairs took 10 GB.
        lengths, order = mask.sum(1).sort(stable=True, descending=again)
        size = self.chunk or (CHUNK if ids.device.type == "cpu" else len(ids))
        states = []
        for chosen, own in zip(order.split(size), lengths.split(size), strict=True):
            longest = int(own.max())
            part = ids[chosen, :longest], mask[chosen, :longest]
            states.append(checkpoint(run, *part, use_reentrant=False) if again else run(*part))  # random state kept too
        return cat(states)[order.argsort()]


def text_number(text: str) -> int:
    """63 bits that are the text's own, in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def same_texts(texts: "Tensor") -> "Tensor":
    """bool [B, B]: pairs that share a side, of the numbers [B, 2] of both sides' texts."""
    return (texts[:, None] == texts[None]).any(-1)
