"""Drops rows whose sides differ in meaning, by sentence embeddings of a multilingual model."""

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.filters._transformer import Network, Neural


class EmbeddingSimilarity(Neural):
    """Cosine similarity of the two sides' embeddings, in [-1, 1]; NaN if a side is empty.

    Source: bitext mining with LaBSE, Feng et al. 2020, arXiv 2007.01852.
    """

    min: float | None = None
    """No bound by default, as the cosines of different models have different ranges; the score then only ranks rows.
    Score a sample first to choose a bound."""
    pooling: Literal["mean", "first", "last", "pooler"] = "mean"
    """How token embeddings are pooled; must match the model's training. LaBSE uses its own layer, `pooler`;
    multilingual MiniLM, MPNet and E5 use `mean`, BGE-M3 `first`, decoder models `last`."""

    judges_quality: ClassVar[bool] = True

    def open(self) -> Network:
        optional_weights = None if self.pooling == "pooler" else "pooler"
        return Network(self.name, "AutoModel", self.model, self.revision, self.device, optional_weights)

    def score(self, batch: pa.RecordBatch, loaded: Network | None = None) -> pa.Array:
        network = loaded or self.open()
        src, tgt = (
            _normalize(network.run((batch[side].to_pylist(),), self.batch_size, self.max_tokens, self._pool))
            for side in ("src", "tgt")
        )
        return self.mask_empty(batch, np.clip((src * tgt).sum(axis=1), -1, 1))

    def _pool(self, output: Any, mask: Any) -> Any:
        """Return [B, H] from the model's output and the attention mask [B, T]."""
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise UserError(
                    f"{self.name}.pooling: found 'pooler', but {self.model} has no such layer. Expected: mean, first "
                    f"or last. Fix: choose the pooling that the model was trained with."
                )
            return output.pooler_output
        states = output.last_hidden_state.float()  # [B, T, H]
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            return states[range(len(states)), mask.sum(dim=1) - 1]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _normalize(vectors: np.ndarray) -> np.ndarray:
    """Return unit vectors, float64 [N, H]."""
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
