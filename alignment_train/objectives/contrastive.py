"""Contrast: a sentence and its translation get near hidden states, the other sentences of the batch far ones."""

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field, model_validator

from alignment_train.objectives import Layer, Objective, Reads
from alignment_train.training.data import language_numbers, pair_counts
from pipelines.errors import UserError
from pipelines.languages import parse

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


CHUNK = 64
"""Texts run at once on a CPU: 128 pairs of opus8 take a tenth less time than all at once, 32 pairs as long."""


class Contrastive(Objective):
    """InfoNCE over the pooled states of one layer, less the mean state of each language; only the blocks below are run.

    A sentence that occurs twice in a batch, and another translation of the same one, is no negative of itself.
    Sources: AFP (arXiv 2311.08089; layer 1, last, temperature 0.05, src_to_tgt) and mid-align (arXiv 2502.14830;
    layer middle, mean, 0.1, src_to_tgt), both with center none and special tokens. Centering: ShifCon (arXiv
    2410.19453), h <- h - v_l + v_en, symmetric; its code takes v_l of the batch, which there holds one language beside
    English, contrasts several layers, and shifts states within the forward pass of its instruction tuning too. Here
    only the contrast sees shifted states, so the model runs as any other.
    """

    layer: Layer = "middle"
    pooling: Literal["mean", "last"] = "mean"
    special_tokens: bool = False
    """Whether special tokens are pooled too, as AFP and mid-align do. The state of BOS can be an attention sink, which
    is nearly the same in every text."""
    center: Literal["none", "language", "batch"] = "language"
    """What is subtracted from each state before the cosine: the running mean of its language, which suits batches of
    any size; its language's mean in the batch; or nothing. In large models the cosine of unrelated sentences is 0.98 to
    1, and a contrast of raw states stays at ln B for long. A running mean counts the batch in, and gradient goes
    through that part alone."""
    memory: int = Field(128, ge=1)
    """Rows of a language that its running mean remembers; it strays by some spread / sqrt(2 x memory)."""
    pivot: Annotated[str, BeforeValidator(parse)] | None = None
    """The language whose running mean is added to all states, as ShifCon does with English; with none they lie about
    the origin, where cosine tells most."""
    temperature: float = Field(0.1, gt=0)
    direction: Literal["both", "src_to_tgt"] = "both"
    rows: int = Field(128, gt=1)
    chunk: int | None = Field(None, gt=0)
    """Texts run at once; a batch of any size then takes the memory of so many, for one forward pass more, and has the
    gradients that it has without (GradCache, Gao et al. 2021, arXiv 2101.06983, here by recomputation)."""

    reads: ClassVar[Reads] = "bitext"
    supports_data_parallel: ClassVar[bool] = True
    is_alignment: ClassVar[bool] = True

    @model_validator(mode="after")
    def _pivot_has_a_mean(self) -> "Contrastive":
        if self.pivot and self.center != "language":
            raise UserError(
                f"pivot: found {self.pivot} with center {self.center}. Allowed: with center language, whose running "
                f"means it is one of. Set center: language, or leave pivot out."
            )
        return self

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return pair_counts(rows, model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        import torch

        src, tgt = [row["src"] for row in rows], [row["tgt"] for row in rows]
        batch, cut = model.encode(src + tgt, max_length)
        texts = torch.tensor([text_number(text) for text in src + tgt], device=model.device).view(2, -1).T  # [B, 2]
        codes = [row[side] for side in ("src_lang", "tgt_lang") for row in rows]
        more = {"language": language_numbers(codes, model.device), "texts": texts, "same": same_texts(texts)}
        return {**batch, **more, "cut": torch.tensor(cut)}

    def setup(self, model: "Model", table: pa.Table) -> Any:
        """With center `language` a module of buffers, which every loss moves on: language means, and rows behind each.

        The same in all processes, for each loss sees the states of all.
        """
        import torch

        from alignment_train.layers import layer_index

        if self.center != "language":
            return None
        codes = sorted({code for side in ("src_lang", "tgt_lang") for code in table[side].unique().to_pylist()})
        if self.pivot and self.pivot not in codes:
            raise UserError(
                f"train.objectives.{self.name}.pivot: found {self.pivot}, which no pair has. Allowed: "
                f"{', '.join(codes)}. Name one of them, or leave pivot out."
            )
        state, size = torch.nn.Module(), model.width(layer_index(self.layer, len(model.blocks)))
        state.register_buffer("numbers", language_numbers(codes, model.device))
        state.register_buffer("means", torch.zeros(len(codes), size, device=model.device))
        state.register_buffer("counts", torch.zeros(len(codes), device=model.device))
        return state

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        from alignment_train.losses import gathered, info_nce

        src, tgt = map(gathered, self.states(model, batch).chunk(2))
        src, tgt, figures = self.centered(src, tgt, batch, state)
        same = same_texts(gathered(batch["texts"]))
        return info_nce(src, tgt, self.temperature, self.direction, same), figures

    def centered(
        self, src: "Tensor", tgt: "Tensor", batch: dict[str, "Tensor"], state: Any
    ) -> tuple["Tensor", "Tensor", dict[str, float]]:
        """`src` and `tgt` [B, H] as `center` says, and the share of their variance that was subtracted; moves `held`.

        B: rows of all processes, as `gathered` gives them.
        """
        import torch

        from alignment_train.losses import batch_language_means, gathered, language_means

        if self.center == "none":
            return src, tgt, {}
        states = torch.cat([src, tgt]).float()
        language = torch.cat([gathered(side) for side in batch["language"].chunk(2)])
        means = None
        if self.center == "batch":
            centered = states - batch_language_means(states, language)
        else:
            place = torch.searchsorted(state.numbers, language)
            means, counts = language_means(states, place, state.means, state.counts, self.memory)
            state.means.copy_(means.detach())
            state.counts.copy_(counts)
            centered = states - means[place]
        variance = (states - states.mean(0)).detach().square().sum().clamp(min=1e-12)
        share = 1 - (centered.detach().square().sum() / variance).item()
        if self.pivot and means is not None:
            centered = centered + means[state.numbers == language_numbers([self.pivot], states.device)]
        src, tgt = centered.chunk(2)
        return src, tgt, {"language_share": share}

    def states(self, model: "Model", batch: dict[str, "Tensor"]) -> "Tensor":
        """[2B, H]: the pooled states of all sources, then of all targets.

        They are run in order of length, `chunk` or on a CPU CHUNK at a time, padded to the longest of these.
        """
        from torch import cat
        from torch.utils.checkpoint import checkpoint

        from alignment_train.layers import layer_index
        from alignment_train.losses import pool, pooling_mask

        layer = layer_index(self.layer, len(model.blocks))

        def run(ids: "Tensor", mask: "Tensor", pooled: "Tensor") -> "Tensor":
            return pool(model.hidden(ids, mask, layer), pooled, self.pooling)

        ids, mask, pooled = batch["input_ids"], batch["attention_mask"], pooling_mask(batch, self.special_tokens)
        again = self.chunk is not None and len(ids) > self.chunk
        # Longest first where little of each is kept: what the next need fits where the last lay. The other way round
        # the heap went to pieces, and 4,096 pairs took 10 GB.
        lengths, order = mask.sum(1).sort(stable=True, descending=again)
        size = self.chunk or (CHUNK if ids.device.type == "cpu" else len(ids))
        states = []
        for chosen, own in zip(order.split(size), lengths.split(size), strict=True):
            longest = int(own.max())
            part = ids[chosen, :longest], mask[chosen, :longest], pooled[chosen, :longest]
            states.append(checkpoint(run, *part, use_reentrant=False) if again else run(*part))  # random state kept too
        return cat(states)[order.argsort()]


def text_number(text: str) -> int:
    """63 bits that are the text's own, in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def same_texts(texts: "Tensor") -> "Tensor":
    """bool [B, B]: pairs that share a side, of the numbers [B, 2] of both sides' texts."""
    return (texts[:, None] == texts[None]).any(-1)
