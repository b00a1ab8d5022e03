"""Losses as pure functions of tensors. Shapes: B pairs, N texts, T tokens, H hidden size, V vocabulary."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    src: Tensor,
    tgt: Tensor,
    temperature: float,
    direction: Literal["both", "src_to_tgt"] = "both",
    same: Tensor | None = None,
) -> Tensor:
    """InfoNCE over cosine with in-batch negatives: row i of `tgt` is the translation of row i of `src`.

    src, tgt: [B, H], any norm. same: bool [B, B], true where row and column are no negatives of each other although
    they are two pairs (a repeated sentence, another translation of the same one); its diagonal is ignored.
    Returns a scalar in nats; identical rows everywhere give ln B.
    Source: van den Oord et al. 2018 (arXiv 1807.03748), eq. 4; `src_to_tgt` ranks targets only, as AFP
    (arXiv 2311.08089) and mid-align (arXiv 2502.14830) do, `both` is the mean of the two directions.
    """
    logits = F.normalize(src.float(), dim=-1) @ F.normalize(tgt.float(), dim=-1).T / temperature  # [B, B]
    gold = torch.arange(len(logits), device=logits.device)
    if same is not None:
        eye = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~eye, float("-inf"))
    loss = F.cross_entropy(logits, gold)
    return loss if direction == "src_to_tgt" else (loss + F.cross_entropy(logits.T, gold)) / 2


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats: logits [N, V] at the positions that predict `labels` [N]."""
    return F.cross_entropy(logits.float(), labels)


def pool(hidden: Tensor, mask: Tensor, pooling: Literal["mean", "last"]) -> Tensor:
    """[N, T, H] and a 0/1 mask [N, T] to [N, H]: the mean over, or the last of, the positions where the mask is 1.

    Every row must have a 1. Right or left padding.
    """
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)  # [N]
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
