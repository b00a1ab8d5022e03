"""Contrastive pre-training of a prefix: translations get near states after it, and it still predicts every token."""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from alignment_train.objectives.contrastive import Contrastive
from alignment_train.training.data import texts

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class Prompt(Contrastive):
    """loss = LM + contrast_weight x InfoNCE, of both sides of a pair after the prefix: one forward pass for both terms.

    LM is the mean over the tokens of all texts and their EOS. `train.adapter.prefix` is what is trained; other
    objectives of a recipe train it too, as `instruction` and `task` do, and that is XSGD's second stage.
    Source: XSGD (arXiv 2304.01295; code salesforce/FewXC), InfoNCE of an English sentence and its translation with
    temperature 0.05, and language modelling, 10 epochs at a learning rate of 1e-3. Stage 1 is not in its code. There
    the model is XLM-R, language modelling masked, the prefix random at first and under a dropout of 0.1. Which state
    stands for a sentence it does not say of stage 1; classifiers of stage 2 take that of the first token, which in a
    decoder has read nothing else.
    """

    temperature: float = Field(0.05, gt=0)
    rows: int = Field(32, gt=1)
    contrast_weight: float = Field(1.0, ge=0)
    chunk: ClassVar[None] = None  # type: ignore[misc]  # language modelling needs the states of all texts

    needs_prefix: ClassVar[bool] = True
    supports_data_parallel: ClassVar[bool] = False

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """As of the contrast, with labels; `pooled` is 1 at what is pooled, without the EOS that a text predicts."""
        from torch.nn.functional import pad

        from alignment_train.losses import pooling_mask

        pairs = super().collate(rows, model, max_length)
        batch = texts([row[side] for side in ("src", "tgt") for row in rows], model, max_length)
        room = batch["input_ids"].shape[1] - pairs["input_ids"].shape[1]
        pooled = pad(pooling_mask(pairs, self.special_tokens), (0, room))
        del pairs["text_mask"]  # which has no room for EOS
        return {**pairs, **batch, "pooled": pooled}

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        from alignment_train.layers import layer_index
        from alignment_train.losses import info_nce, pool, token_loss

        layer = layer_index(self.layer, len(model.blocks))
        with model.recording({layer}) as states:
            logits, labels, _ = model.predictions(batch)
        language = token_loss(logits, labels)
        src, tgt = pool(states[layer], batch["pooled"], self.pooling).chunk(2)
        src, tgt, figures = self.centered(src, tgt, batch, state)
        contrast = info_nce(src, tgt, self.temperature, self.direction, batch["same"])
        parts = {"language_model": language, "contrast": contrast}
        figures |= {name: value.item() for name, value in parts.items()}
        return language + self.contrast_weight * contrast, figures
