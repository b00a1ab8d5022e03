"""Code-switched language modelling: text that changes language from one sentence to the next, taken from pairs."""

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from alignment_train.objectives import Objective, Reads
from alignment_train.training.data import pair_counts, texts

if TYPE_CHECKING:
    from torch import Tensor

    from alignment_train.models.model import Model


class MixedLanguage(Objective):
    """Next-token loss on documents whose every sentence is drawn from either side of its pair, with equal chance.

    The mean over the tokens t of a batch, EOS included, of -log p(x_t | x_<t), x the documents. Pairs of the same two
    languages become a document in the order of the batch; what is left over makes shorter ones.
    Source: Crosslingual Knowledge Barriers (arXiv 2406.16135, mixed-language fine-tuning), which translates WikiText by
    document, sentence or chunk of 8 words into one of five languages (learning rate 2e-5, batches of 16, 1 epoch).
    Here the unit is the sentence, as bitext has it, and its neighbours are of like length, not of one text. To switch
    within a sentence would need a lexicon or word alignments, which we have not.
    """

    rows: int = Field(64, gt=1)
    """Pairs a step, of all languages together: with few of them for each, documents stay short."""
    sentences: int = Field(4, gt=1)
    """Most in a document; `max_length` must have room for them."""

    reads: ClassVar[Reads] = "bitext"
    is_alignment: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    def token_lengths(self, rows: list[dict[str, Any]], model: "Model") -> list[int]:
        return pair_counts(rows, model)

    def collate(self, rows: list[dict[str, Any]], model: "Model", max_length: int) -> dict[str, "Tensor"]:
        return texts(self.documents(rows), model, max_length)

    def loss(self, model: "Model", batch: dict[str, "Tensor"], state: Any = None) -> tuple["Tensor", dict[str, float]]:
        return model.language_model_loss(batch), {"sentences": self.rows / len(batch["input_ids"])}

    def documents(self, rows: list[dict[str, Any]]) -> list[str]:
        """Sentences joined by spaces.

        The draw hangs on the texts of the whole batch alone: a resumed run makes the same one, and a pair that meets
        other neighbours in the next epoch is drawn anew.
        """
        whole = repr([(row["src"], row["tgt"]) for row in rows]).encode()
        draw = np.random.default_rng(int.from_bytes(hashlib.sha256(whole).digest())).integers(2, size=len(rows))
        drawn: dict[tuple[str, str], list[str]] = {}
        for row, side in zip(rows, draw.tolist(), strict=True):
            drawn.setdefault((row["src_lang"], row["tgt_lang"]), []).append(row[("src", "tgt")[side]])
        return [
            " ".join(group[first : first + self.sentences])
            for group in drawn.values()
            for first in range(0, len(group), self.sentences)
        ]
