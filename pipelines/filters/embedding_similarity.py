"""Drops rows whose sides do not mean the same, by the sentence embeddings of a multilingual model."""

from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.filters._transformer import Network, Neural


class EmbeddingSimilarity(Neural):
    """Cosine of the two sides' embeddings, in [-1, 1]; NaN where a side is empty.

    Source: bitext mining by LaBSE, Feng et al. 2020, arXiv 2007.01852.
    """

    min: float | None = None
    """No bound: cosines of different models lie elsewhere. Score some rows first and look where
    the good ones lie. Without a bound the score only ranks."""
    pooling: Literal["mean", "first", "last", "pooler"] = "mean"
    """How a text's one embedding comes from those of its tokens: as the model was trained. LaBSE has its own layer for
    it, `pooler`; the multilingual MiniLM, MPNet and E5 use `mean`, BGE-M3 `first`, models made of decoders `last`."""

    judges_quality: ClassVar[bool] = True

    def open(self) -> Network:
        needless = None if self.pooling == "pooler" else "pooler"
        return Network(self.name, "AutoModel", self.model, self.revision, self.device, needless)

    def score(self, batch: pa.RecordBatch, loaded: Network | None = None) -> pa.Array:
        network = loaded or self.open()
        src, tgt = (
            _unit(network.run((batch[side].to_pylist(),), self.batch_size, self.max_tokens, self._pooled))
            for side in ("src", "tgt")
        )
        return self.whole(batch, np.clip((src * tgt).sum(axis=1), -1, 1))

    def _pooled(self, output: Any, mask: Any) -> Any:
        """[B, H] from the model's output and the mask [B, T]."""
        if self.pooling == "pooler":
            if getattr(output, "pooler_output", None) is None:
                raise UserError(
                    f"{self.name}.pooling: found 'pooler', but {self.model} has no such layer. Allowed with it: mean, "
                    f"first, last. Choose as it was trained."
                )
            return output.pooler_output
        states = output.last_hidden_state.float()  # [B, T, H]
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            return states[range(len(states)), mask.sum(dim=1) - 1]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """float64 [N, H], each of length 1."""
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)
