"""Meta-learning over clusters of languages: after a step on some languages, the model should know others better."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, model_validator

from alignment_train.objectives import Objective, Reads
from alignment_train.training.data import language_numbers, texts
from pipelines.errors import UserError
from pipelines.languages import parse

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model

Language = Annotated[str, BeforeValidator(parse)]
PROBE_TEXTS = 100  # of a language, by which it is put into a cluster
PROBE_TOKENS = 64


@dataclass(frozen=True)
class Clusters:
    """Of the languages, ascending; made again on resuming."""

    numbers: "Tensor"
    """[L]"""
    of: "Tensor"
    """[L]: the cluster of each."""


class Meta(Objective):
    """Next-token loss of single segments at the weights that plain SGD on others would lead to; clusters are tasks.

    theta_0 = theta, theta_i+1 = theta_i - a grad L_S(theta_i), and the step gets the mean over clusters of
    grad L_Q(theta_m): first-order MAML (Finn et al. 2017, arXiv 1703.03400, section 5.2). Every other row of a cluster
    in the batch is its support S. Q is the remaining rows, of the cluster itself (`own`) or of another (`others`, which
    one changes by batch): to first order the step then also makes gradients of the two agree. A cluster with one
    row in a batch is left out of it; `others` needs two clusters, or the batch counts for nothing.
    Costs (inner_steps + 1) / 2 of `language_model` with as many rows, and the trained weights once more a cluster.

    Source: Meta-X_NLG (ACL Findings 2022, arXiv 2203.10250), as in its code: `own`, two inner steps of 1e-5, 4 rows a
    language, AdamW of 1e-4, second-order. There an mT5 that has learnt a task in English learns it in the centroids of
    two or three clusters of languages, a task each, with embeddings and decoder frozen, to serve languages it was never
    given. A causal model has no encoder that it could learn in alone, and bitext no task:
    here all weights learn to go on with text, in all languages of a cluster. For centroids alone, name them as
    `clusters`. It clusters representations of languages made elsewhere; here they are the base model's states. To learn
    from `others` is XLA-MAML's (arXiv 2111.05805).
    """

    clusters: int | list[list[Language]] = 3
    """So many, made from the base model's middle states of the languages, or lists of languages; no other is read."""
    special_tokens: bool = False
    """Whether those states are means over special tokens too."""
    query: Literal["others", "own"] = "others"
    inner_steps: int = Field(1, gt=0)
    inner_learning_rate: float = Field(0.01, gt=0)
    """Of plain SGD. Measured on the base of the sample, 6 batches: a step on rows of a cluster takes the loss on others
    of it from 2.411 nats to 2.409 at 0.003, 2.412 at 0.01, 2.474 at 0.03 and 3.161 at 0.1."""

    reads: ClassVar[Reads] = "segments"
    is_alignment: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    @model_validator(mode="after")
    def _enough(self) -> "Meta":
        named = self.clusters if isinstance(self.clusters, list) else []
        count = len(named) if named else self.clusters
        if not isinstance(count, int) or count < 2 or not all(named):
            raise UserError(
                f"clusters: found {self.clusters}. Allowed: 2 or more, or as many lists of languages. Name more."
            )
        codes = [code for cluster in named for code in cluster]
        if repeated := sorted({code for code in codes if codes.count(code) > 1}):
            raise UserError(f"clusters: found {', '.join(repeated)} twice. Allowed: each once. Remove one.")
        if self.rows < 2 * count:
            raise UserError(
                f"rows: found {self.rows}. Allowed: at least {2 * count}, two for each of {count} clusters. Raise rows."
            )
        return self

    def row_mask(self, table: pa.Table) -> pa.ChunkedArray | None:
        if isinstance(self.clusters, int):
            return None
        there = table["language"].unique().to_pylist()
        named = [code for cluster in self.clusters for code in cluster]
        if missing := sorted(set(named) - set(there)):
            raise UserError(
                f"train.objectives.meta.clusters: found {', '.join(missing)}, in which there is no text. Allowed: "
                f"{', '.join(sorted(there))}. Remove it, or add pairs with it."
            )
        return pc.is_in(table["language"], value_set=pa.array(named))

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        """The same for all: texts sorted by length would be sorted by language too, and a batch have few clusters."""
        return [1] * len(rows)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        batch = texts([row["text"] for row in rows], model, max_length)
        return {**batch, "language": language_numbers([row["language"] for row in rows], model.device)}

    def setup(self, model: "Model", table: pa.Table) -> Clusters:
        import torch

        codes = sorted(table["language"].unique().to_pylist())
        if isinstance(self.clusters, list):
            of = [next(i for i, cluster in enumerate(self.clusters) if code in cluster) for code in codes]
        elif len(codes) < self.clusters:
            raise UserError(
                f"train.objectives.meta.clusters: found {self.clusters} for {len(codes)} languages "
                f"({', '.join(codes)}). Allowed: at most one for each. Lower it, or add languages."
            )
        else:
            of = ward(self._states(model, table, codes), self.clusters)
        return Clusters(language_numbers(codes, model.device), torch.tensor(of, device=model.device))

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        import torch

        ask = _asking(model)
        of = state.of[torch.searchsorted(state.numbers, batch["language"])]  # [N]
        rows = [found for cluster in state.of.unique() if len(found := (of == cluster).nonzero()[:, 0]) > 1]
        if len(rows) < (2 if self.query == "others" else 1):
            return 0 * model.language_model_loss(batch), {"clusters": 0.0}
        shift = 1 + int(batch["input_ids"].sum()) % (len(rows) - 1) if self.query == "others" else 0
        before, after = [], []
        for i, own in enumerate(rows):
            weights = {name: p for name, p in model.lm.named_parameters() if p.requires_grad}
            support, query = _part(batch, own[::2]), _part(batch, rows[(i + shift) % len(rows)][1::2])
            for _ in range(self.inner_steps):
                loss = ask(weights, support)
                found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
                weights = {
                    name: weight - self.inner_learning_rate * gradient  # a gradient without a graph: first order
                    for (name, weight), gradient in zip(weights.items(), found, strict=True)
                }
                before.append(loss.item())
            after.append(ask(weights, query))
        return torch.stack(after).mean(), {"support": sum(before) / len(before), "clusters": float(len(rows))}

    def _states(self, model: "Model", table: pa.Table, codes: list[str]) -> np.ndarray:
        """[L, H]: the mean of each language over texts spread over the table, pooled by mean at the middle layer."""
        from alignment_train.evaluation.lm import LM
        from alignment_train.layers import layer_index

        layer, out = layer_index("middle", len(model.blocks)), []
        pooling = "mean+special" if self.special_tokens else "mean"
        training = model.lm.training
        base = LM(model, layer, PROBE_TOKENS, model.device)
        for code in codes:
            own = table["text"].filter(pc.equal(table["language"], code))
            count = min(PROBE_TEXTS, len(own))
            chosen = own.take(pa.array([i * len(own) // count for i in range(count)]))
            out.append(base.embed(chosen.to_pylist(), [layer], pooling)[layer].mean(0))
        model.lm.train(training)
        return np.stack(out)


def ward(means: np.ndarray, count: int) -> list[int]:
    """The cluster of each row of `means` [L, H], from 0 to count - 1: of all merges the one that adds least variance.

    Source: Ward 1963 (doi 10.1080/01621459.1963.10500845), by the update of Lance and Williams 1967.
    """
    squares = (means.astype(float) ** 2).sum(1)
    gaps = squares[:, None] + squares[None] - 2 * means.astype(float) @ means.T.astype(float)  # [L, L]
    np.fill_diagonal(gaps, np.inf)
    of, sizes = np.arange(len(means)), np.ones(len(means))
    for _ in range(len(means) - count):
        i, j = sorted(np.unravel_index(gaps.argmin(), gaps.shape))
        whole = sizes[i] + sizes[j] + sizes
        merged = ((sizes[i] + sizes) * gaps[i] + (sizes[j] + sizes) * gaps[j] - sizes * gaps[i, j]) / whole
        gaps[i] = gaps[:, i] = merged
        gaps[j] = gaps[:, j] = gaps[i, i] = np.inf
        sizes[i] += sizes[j]
        of[of == j] = i
    return np.unique(of, return_inverse=True)[1].tolist()


def _part(batch: dict[str, "Tensor"], rows: "Tensor") -> dict[str, "Tensor"]:
    """Those rows, no wider than their longest text."""
    longest = int(batch["attention_mask"][rows].sum(1).max())
    return {name: batch[name][rows, :longest] for name in ("input_ids", "attention_mask", "labels")}


def _asking(model: "Model") -> Any:
    """A function of weights by name and a batch, to the loss that `model` has with them in place of its own."""
    from torch import nn
    from torch.func import functional_call

    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm = model.lm

        def forward(self, batch: dict[str, "Tensor"]) -> "Tensor":
            return model.language_model_loss(batch)

    asked = Asked()
    return lambda weights, batch: functional_call(asked, {f"lm.{name}": w for name, w in weights.items()}, (batch,))
