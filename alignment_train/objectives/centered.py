"""Contrast of what is left of a sentence's state when the mean state of its language is taken away."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import BeforeValidator, Field

from alignment_train.data import language_numbers
from alignment_train.objectives.contrastive import Contrastive
from pipelines.errors import UserError
from pipelines.languages import parse

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.model import Model


class Centered(Contrastive):
    """InfoNCE over pooled states h - v_l, where v_l is the running mean of language l; `contrastive` otherwise.

    With `pivot`, h - v_l + v_pivot, as ShifCon has it with English. v_l counts the batch in, and gradient goes through
    that part alone: where a batch holds much of a language, moving all of it at once earns little, and where it holds
    one row, that row keeps its gradient.
    Source: ShifCon (arXiv 2410.19453), h <- h - v_l + v_en, symmetric; its code takes v_l of the batch, which there
    holds one language beside English, contrasts several layers, and shifts states within the forward pass of its
    instruction tuning too: here only the contrast sees shifted states, so the model runs as any other.
    """

    memory: int = Field(128, ge=1)
    """Rows of a language that its mean remembers; it strays by some spread / sqrt(2 x memory), as such averages do."""
    pivot: Annotated[str, BeforeValidator(parse)] | None = None
    """The language whose mean is added to all states; with none they lie about the origin, where cosine tells most."""

    splits: ClassVar[bool] = False

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        codes = [row[side] for side in ("src_lang", "tgt_lang") for row in rows]
        batch = super().collate(rows, model, max_length)
        return {**batch, "language": language_numbers(codes, model.device)}

    def open(self, model: "Model", table: pa.Table) -> Any:
        """A module of buffers, which every loss moves on: the mean of each language and the rows it rests on."""
        import torch

        from alignment_train.layers import layer_index

        codes = sorted({code for side in ("src_lang", "tgt_lang") for code in table[side].unique().to_pylist()})
        if self.pivot and self.pivot not in codes:
            raise UserError(
                f"train.objectives.centered.pivot: found {self.pivot}, which no pair has. Allowed: {', '.join(codes)}. "
                f"Name one of them, or leave pivot out."
            )
        held, size = torch.nn.Module(), model.width(layer_index(self.layer, len(model.blocks)))
        held.register_buffer("numbers", language_numbers(codes, model.device))
        held.register_buffer("means", torch.zeros(len(codes), size, device=model.device))
        held.register_buffer("counts", torch.zeros(len(codes), device=model.device))
        return held

    def loss(self, model: "Model", batch: dict[str, "Tensor"], held: Any = None) -> tuple["Tensor", dict[str, float]]:
        import torch

        from alignment_train.losses import info_nce, language_means

        states = self.states(model, batch).float()
        language = torch.searchsorted(held.numbers, batch["language"])
        means, counts = language_means(states, language, held.means, held.counts, self.memory)
        held.means.copy_(means.detach())
        held.counts.copy_(counts)
        centred = states - means[language]
        left = centred.detach().square().sum() / (states - states.mean(0)).detach().square().sum().clamp(min=1e-12)
        if self.pivot:
            centred = centred + means[held.numbers == language_numbers([self.pivot], model.device)]
        src, tgt = centred.chunk(2)
        loss = info_nce(src, tgt, self.temperature, self.direction, batch["same"])
        return loss, {"language_share": 1 - left.item()}
