"""The loss of AFP's step as its code computes it: github.com/chongli17/CrossLingualAlignment at 13dcc1b."""

import torch.nn.functional as F
from torch import Tensor

from alignment_train import losses
from alignment_train.models.model import Model

RAW = {"center": "none", "special_tokens": True}
"""Of `contrastive`: AFP's and mid-align's, which the benchmarks' figures are of."""


def afp_loss(model: Model, pairs: dict[str, Tensor], talks: dict[str, Tensor]) -> Tensor:
    """All blocks and all hidden states of the pairs, the last token at layer 1; logits at all positions of the talks.

    pairs: input_ids and attention_mask [2B, T], sources first; talks: as `Model.pad` has them, any rows.
    """
    given = {name: pairs[name] for name in ("input_ids", "attention_mask")}
    states = model.body(**given, output_hidden_states=True, use_cache=False).hidden_states
    src, tgt = losses.pool(states[1], pairs["attention_mask"], "last").chunk(2)
    given = {name: talks[name] for name in ("input_ids", "attention_mask") if name in talks}
    logits = model.lm.get_output_embeddings()(model.body(**given, use_cache=False).last_hidden_state)
    kept = logits[:, :-1].flatten(0, 1)
    contrast = losses.info_nce(src, tgt, 0.05, "src_to_tgt")
    return contrast + 1.5 * F.cross_entropy(kept.float(), talks["labels"][:, 1:].flatten())
