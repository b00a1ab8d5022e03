"""Retention: on the strong language, or on every one, the model stays near the base model while states are aligned."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BeforeValidator

from alignment_train.objectives import Layer, Objective, Reads
from alignment_train.training.data import rows_with, token_counts
from pipelines.languages import parse

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model

EVERY = "every"  # "all" is a language: Allar, of Kerala


def _language(code: str) -> str:
    return code if code == EVERY else parse(code)


class Retain(Objective):
    """Distance to a frozen copy of the base model on the sides of pairs in `language`; other rows contribute nothing.

    `kl`: the mean over all tokens t of the texts, BOS included, of sum_v p_base(v | x_<=t) ln(p_base / p_model), in
    nats: the distillation loss of Learning without Forgetting (Li & Hoiem 2016, arXiv 1606.09282; less the entropy of
    the base model, which has no gradient) on a vocabulary for classes, at temperature 1 (2 there).
    `hidden`: MSE(mean_t h_model, mean_t h_base) over texts and the H numbers of a state of `layer`: the retention term
    of Lens (arXiv 2410.04407), last layer and weight 1 there. It is no figure in nats.
    """

    by: Literal["kl", "hidden"] = "kl"
    language: Annotated[str, BeforeValidator(_language)] = "eng_Latn"
    """One language, or `every`: both sides of every pair. Held on English alone, opus8's Chinese lost 1.7 nats in 90
    steps of a strong contrast; held on every language, 0.26."""
    layer: Layer = -1
    """Of `hidden` alone."""
    special_tokens: bool = False
    """Whether the means of `hidden` are over special tokens too, as in Lens."""

    reads: ClassVar[Reads] = "bitext"
    supports_data_parallel: ClassVar[bool] = True

    def row_mask(self, table: pa.Table) -> pa.Array | None:
        """True for the rows with a side in `language`."""
        if self.language == EVERY:
            return None
        return rows_with(self.language, table, f"train.objectives.{self.name}.language")

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        texts = [self._texts(row) for row in rows]
        counts = iter(token_counts([text for own in texts for text in own], model) if any(texts) else [])
        return [max((next(counts) for _ in own), default=0) for own in texts]

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        import torch

        texts = [text for row in rows for text in self._texts(row)]
        batch, cut = model.encode(texts or [""], max_length)  # a forward pass needs a row, `positions` leaves it out
        positions = batch["attention_mask"].bool() & bool(texts)
        return {**batch, "positions": positions, "cut": torch.tensor(cut)}

    def setup(self, model: "Model", table: pa.Table) -> "Model":
        return model.frozen()

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        import torch

        from alignment_train.layers import layer_index
        from alignment_train.losses import kl_divergence, pool, pooling_mask

        ids, mask, positions = batch["input_ids"], batch["attention_mask"], batch["positions"]
        if self.by == "kl":
            with torch.no_grad():
                base = state.logits(ids, mask, positions)  # [P, V]
            return kl_divergence(base, model.logits(ids, mask, positions)), {}
        layer, pooled = layer_index(self.layer, len(model.blocks)), pooling_mask(batch, self.special_tokens)
        with torch.no_grad():
            base = pool(state.hidden(ids, mask, layer).float(), pooled, "mean")  # [N, H]
        moved = (pool(model.hidden(ids, mask, layer).float(), pooled, "mean") - base)[positions.any(1)]
        return moved.square().sum() / max(1, moved.numel()), {}

    def count(self, batch: dict[str, "Tensor"]) -> int:
        return int(batch["positions"].sum() if self.by == "kl" else batch["positions"].any(1).sum())

    def _texts(self, row: dict[str, Any]) -> list[str]:
        return [row[side] for side in ("src", "tgt") if self.language in (EVERY, row[f"{side}_lang"])]
