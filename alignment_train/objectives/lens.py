"""Lens: languages meet along the direction they share, keep apart where they differ, and the pivot stays as it was."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from alignment_train.objectives import Layer, Objective, Reads
from alignment_train.training.data import language_numbers, pair_counts, rows_with
from pipelines.errors import UserError
from pipelines.languages import parse

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model

PROBE_TOKENS = 64  # of a text whose state is probed (Lens, Probing/probe.py)
PROBE_BATCH = 64  # texts


@dataclass(frozen=True)
class Probed:
    """What the base model said. Frozen and made again on resuming, so it is no module that a checkpoint holds."""

    base: "Model"
    numbers: "Tensor"
    """[L - 1]: the languages other than the pivot, ascending."""
    shared: "Tensor"
    """[H], norm 1: the language-agnostic subspace."""
    specific: "Tensor"
    """[H, L - 1], orthonormal: the language-specific subspace."""
    directions: "Tensor"
    """[L - 1, L - 1]: delta_l, from the pivot's mean to that of language l, in the basis `specific`."""


class Lens(Objective):
    """Pull, push and retain, on the last token's state h of one layer; h0 is that of the base model, en the pivot.

    retain x MSE(mean h_en, mean h0_en) + sum over l of MSE(P_s h_l - P_s h0_l, push x delta_l) + pull x MSE(P_c h_en,
    P_c h_l), where the means run over tokens, an MSE over H and the rows of language l in the batch, and the sum over
    the languages in it. P_c and P_s project on what the mean states of the languages share and on what tells them
    apart, probed on the base model before the first step; delta_l leads from the pivot's mean to that of language l.
    Each language is compared with the pivot on its own pairs, so that it may be other texts in each (Lens has one text
    in all languages, which comes to the same).
    Source: Lens (arXiv 2410.04407; layer -1, all weights 1, 300 texts a language, learning rate 1e-5 with all but the
    last two blocks frozen, 200 rows). Its code calls `push` pull and `pull` push.
    """

    layer: Layer = -1
    pivot: Annotated[str, BeforeValidator(parse)] = "eng_Latn"
    pull: float = Field(1.0, ge=0)
    push: float = Field(1.0, ge=0)
    """How far languages move from the pivot, in their present distances; 0 holds them where they are."""
    retain: float = Field(1.0, ge=0)
    probe_rows: int = Field(300, gt=0)
    """Pairs of each language that the subspaces are estimated on, spread over the table."""

    reads: ClassVar[Reads] = "bitext"
    is_alignment: ClassVar[bool] = True
    special_tokens: bool = False
    """Whether special tokens count in the means over tokens, and as the last one, as in Lens."""
    pooling: ClassVar[str] = "last"
    """By which layer_probe measures for it."""

    def row_mask(self, table: pa.Table) -> pa.Array:
        """Whether a row of bitext has the pivot on one of its sides: others it cannot use."""
        return rows_with(self.pivot, table, f"train.objectives.{self.name}.pivot")

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return pair_counts(rows, model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        import torch

        pivots, others, languages = zip(*map(self._turned, rows), strict=True)
        batch, cut = model.encode([*pivots, *others], max_length)
        return {**batch, "language": language_numbers(list(languages), model.device), "cut": torch.tensor(cut)}

    def setup(self, model: "Model", table: pa.Table) -> Any:
        """The base model, frozen, and its subspaces on `table`. Two forward passes over probe_rows pairs a language."""
        import torch

        from alignment_train.layers import layer_index
        from alignment_train.losses import language_subspaces

        pairs = self._probes(table)
        size = model.width(layer_index(self.layer, len(model.blocks)))
        if len(pairs) + 1 > size:
            raise UserError(
                f"train.objectives.lens: found {len(pairs) + 1} languages for states of {size} numbers. Allowed: as "
                f"many languages as numbers, or nothing is left that they share. Align fewer languages."
            )
        base = model.frozen(head=False)
        states = [[self._last(base, texts) for texts in sides] for sides in pairs.values()]
        pivot = torch.stack([own.mean(0) for own, _ in states]).mean(0)
        apart = torch.stack([(other - own).mean(0) for own, other in states])  # [L - 1, H]
        shared, specific = language_subspaces(torch.cat([pivot[None], pivot + apart]))
        return Probed(base, language_numbers(list(pairs), model.device), shared, specific, apart @ specific)

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        import torch
        from torch.nn.functional import mse_loss

        from alignment_train.layers import layer_index
        from alignment_train.losses import pool, pooling_mask

        ids, mask, pooled = batch["input_ids"], batch["attention_mask"], pooling_mask(batch, self.special_tokens)
        layer, pairs = layer_index(self.layer, len(model.blocks)), len(ids) // 2
        hidden = model.hidden(ids, mask, layer)
        with torch.no_grad():
            before = state.base.hidden(ids, mask, layer)
        with torch.autocast(ids.device.type, enabled=False):  # the parts are small differences of large numbers
            hidden, before = hidden.float(), before.float()
            now, then = (pool(states[:pairs], pooled[:pairs], "mean") for states in (hidden, before))
            retain = mse_loss(now, then)
            pivot, other = pool(hidden, pooled, "last").chunk(2)  # [B, H]
            target = self.push * state.directions[torch.searchsorted(state.numbers, batch["language"])]  # [B, L - 1]
            moved = (other - pool(before[pairs:], pooled[pairs:], "last")) @ state.specific
            # a projection is as long as its coordinates, and each language counts once, however many rows it has
            each = (batch["language"][:, None] == batch["language"]).sum(1) * hidden.shape[-1]  # [B]
            push = ((moved - target).square().sum(-1) / each).sum()
            pull = (((pivot - other) @ state.shared).square() / each).sum()
            loss = self.retain * retain + push + self.pull * pull
        return loss, {"pull": pull.item(), "push": push.item(), "retain": retain.item()}

    def _turned(self, row: dict[str, Any]) -> tuple[str, str, str]:
        """The segment in the pivot language, its translation, and the language of that."""
        if row["src_lang"] == self.pivot:
            return row["src"], row["tgt"], row["tgt_lang"]
        if row["tgt_lang"] == self.pivot:
            return row["tgt"], row["src"], row["src_lang"]
        raise UserError(
            f"train.objectives.lens.pivot: found a pair {row['src_lang']}-{row['tgt_lang']}. Allowed: pairs with "
            f"{self.pivot} on one side. Drop the others, or name their pivot."
        )

    def _probes(self, table: pa.Table) -> dict[str, tuple[list[str], list[str]]]:
        """By language, ascending: texts of the pivot and their translations, evenly spread over the table's rows."""
        usable = table.filter(self.row_mask(table))
        language = pc.if_else(pc.equal(usable["src_lang"], self.pivot), usable["tgt_lang"], usable["src_lang"])
        out = {}
        for code in sorted(language.unique().to_pylist()):
            own = usable.filter(pc.equal(language, code))
            count = min(self.probe_rows, own.num_rows)
            rows = own.take([i * own.num_rows // count for i in range(count)]).to_pylist()
            pivots, others, _ = zip(*map(self._turned, rows), strict=True)
            out[code] = list(pivots), list(others)
        return out

    def _last(self, base: "Model", texts: list[str]) -> "Tensor":
        """[N, H]: the last token's state of each text."""
        import torch

        from alignment_train.layers import layer_index
        from alignment_train.losses import pool, pooling_mask

        layer, found = layer_index(self.layer, len(base.blocks)), []
        for start in range(0, len(texts), PROBE_BATCH):
            batch, _ = base.encode(texts[start : start + PROBE_BATCH], PROBE_TOKENS)
            with torch.no_grad(), torch.autocast(base.device.type, enabled=False):
                hidden = base.hidden(batch["input_ids"], batch["attention_mask"], layer)
            found.append(pool(hidden, pooling_mask(batch, self.special_tokens), "last").float())
        return torch.cat(found)
