"""All that an eval may ask of a model: states of texts and the loss of texts, in batches of like length."""

from collections.abc import Iterator

import numpy as np
import torch

from alignment_train.data import texts as language_model_batch
from alignment_train.losses import pool
from alignment_train.model import Model

TOKENS = 8192  # a batch, padding included


class LM:
    """Answers `pipelines.evals.LanguageModel`. Texts beyond `max_length` tokens are cut."""

    def __init__(self, model: Model, trained_layer: int, max_length: int, device: torch.device):
        self.model, self.max_length = model, max_length
        self.num_layers = len(model.blocks)
        self.trained_layer = trained_layer
        model.lm.to(device).eval()

    @torch.inference_mode()
    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        """{layer: float32 [N, H]}, one forward pass for all layers; of one layer, without the blocks above it."""
        width = self.model.lm.config.hidden_size
        out = {layer: np.empty((len(texts), width), np.float32) for layer in layers}
        for chosen, batch in self._batches(texts):
            ids, mask = batch["input_ids"], batch["attention_mask"]
            if len(layers) == 1:
                states = {layers[0]: self.model.hidden(ids, mask, layers[0])}
            else:
                states = dict(enumerate(self.model.hidden_states(ids, mask)))
            for layer in layers:
                pooled = pool(states[layer].float(), mask, "last" if pooling == "last" else "mean")
                out[layer][chosen] = pooled.cpu().numpy()
        return out

    @torch.inference_mode()
    def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Nats and predicted tokens of each text: float64 [N], int64 [N]. EOS is predicted, BOS is not."""
        nats, counts = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
        for chosen, batch in self._batches(texts, labels=True):
            logits, labels, rows = self.model.predictions(batch)
            each = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none").double()
            nats[chosen] = rows.bincount(each, minlength=len(chosen)).cpu()
            counts[chosen] = rows.bincount(minlength=len(chosen)).cpu()
        return nats, counts

    def _batches(self, texts: list[str], labels: bool = False) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        """(row numbers, tensors) over all segments, those of like length together."""
        order = np.argsort([len(text) for text in texts], kind="stable")
        start = 0
        while start < len(order):
            # A token is at least a character long but for byte pieces: the bound on memory is a rough one.
            longest, stop = 0, start
            while stop < len(order):
                longest = max(longest, min(len(texts[order[stop]]) + 2, self.max_length))
                if stop > start and longest * (stop + 1 - start) > TOKENS:
                    break
                stop += 1
            chosen = order[start:stop]
            some = [texts[i] for i in chosen]
            batch = (
                language_model_batch(some, self.model, self.max_length)
                if labels
                else self.model.encode(some, self.max_length)[0]
            )
            yield chosen, batch
            start = stop
