"""Language modelling after a soft prompt that the text itself chooses from a pool, as a member of many clusters."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from alignment_train.objectives import Objective, Reads
from alignment_train.training.data import texts, token_counts
from pipelines.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class SoftCluster(Objective):
    """Next-token loss on single segments, EOS included, after sum_j a_j P_j, with a = softmax(q . k_j / sqrt(H)).

    k_j [H] and P_j [length, H] are a pool of `size` keyed prompts, trained with the model; q [H] is the mean input
    embedding of the text, normalised to mean 0 and variance 1 as encoders do with embeddings: a decoder's are so small
    (0.02 a number) that every text would get the same prompt otherwise. max_length holds the prompt too.

    The pool is left behind at the end: the backbone is trained under prompts and then used without. What it learns of
    the text stays, what the prompts tell it does not, and XLM-P's own gain, from prompts at inference, is not had.
    Keeping that would need the pool to be saved with the model and put before every text that is embedded or scored.
    With `query: text`, XLM-P's, the prompt has seen what the decoder is to predict (its encoder sees both sides
    anyhow), so the loss is no likelihood of the text: up to size - 1 numbers tell of it. `query: start` asks with the
    first half of the tokens and predicts the second, and is one.
    Source: XLM-P (arXiv 2306.07610), a key-value pool of prompts put before the input embeddings, with masked and
    translation language modelling there. Prompts begin as embeddings of tokens (Lester et al. 2021, arXiv 2104.08691).
    """

    size: int = Field(16, ge=1)
    length: int = Field(4, ge=1)
    """Vectors a prompt."""
    query: Literal["text", "start"] = "text"

    reads: ClassVar[Reads] = "segments"
    is_alignment: ClassVar[bool] = True

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return token_counts([row["text"] for row in rows], model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        """Texts alone: attention_mask and labels get room for the prompt in `loss`."""
        room = max_length - self.length
        if room < 2:
            raise UserError(
                f"train.objectives.soft_cluster.length: found {self.length} with max_length {max_length}. Allowed: at "
                f"most max_length - 2, for a text needs room. Lower length or raise train.max_length."
            )
        return texts([row["text"] for row in rows], model, room)

    def setup(self, model: "Model", table: pa.Table) -> Any:
        """`keys` [size, H], from a standard normal distribution, and `prompts` [size, length, H], those of tokens."""
        import torch
        from torch.nn import Parameter

        embed = model.lm.get_input_embeddings()
        tokens = torch.randint(len(embed.weight), (self.size, self.length)).to(model.device)
        pool = torch.nn.Module()
        pool.keys = Parameter(torch.randn(self.size, embed.weight.shape[1]).to(model.device))
        pool.prompts = Parameter(embed(tokens).detach().float().clone())  # looked up, for some models scale it then
        return pool

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        import torch
        import torch.nn.functional as F

        from alignment_train.losses import pool, prompt_mixture, token_loss

        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        embedded = model.lm.get_input_embeddings()(ids)  # [N, T, H]
        asking = mask
        if self.query == "start":
            half = (mask.sum(1, keepdim=True) // 2).clamp(min=1)  # [N, 1]
            asking = mask * (mask.cumsum(1) <= half)
            labels = labels.masked_fill(asking.bool(), -100)
        query = pool(embedded.float(), asking, "mean")
        share, prompt = prompt_mixture(F.layer_norm(query, query.shape[-1:]), state.keys, state.prompts)
        room = mask.new_ones(len(mask), self.length)
        wanted = labels != -100
        logits = model.logits_of(
            F.pad(wanted, (self.length - 1, 1)),  # the last vector of the prompt predicts the first token
            inputs_embeds=torch.cat([prompt.to(embedded.dtype), embedded], 1),
            attention_mask=torch.cat([room, mask], 1),
            use_cache=False,
        )
        loss = token_loss(logits, labels[wanted]) if len(logits) else logits.states.sum()
        with torch.no_grad():
            used = {
                "prompts_per_text": _entropy(share).mean().exp(),
                "prompts_per_batch": _entropy(share.mean(0)).exp(),
            }
        return loss, {what: value.item() for what, value in used.items()}


def _entropy(share: "Tensor") -> "Tensor":
    """In nats, over the last dimension. Its exponential is how many prompts an even mixture would be of."""
    import torch

    return torch.special.entr(share.float()).sum(-1)
