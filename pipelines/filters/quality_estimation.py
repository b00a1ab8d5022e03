"""Drops rows that a model trained to judge translations, without a reference, finds bad."""

from typing import Any, ClassVar

import pyarrow as pa
from pydantic import field_validator

from pipelines.errors import UserError
from pipelines.filters import languages
from pipelines.filters._transformer import Network, Neural
from pipelines.languages import parse


class QualityEstimation(Neural):
    """The one logit of a sequence classification model that reads both sides together; higher is better.

    Models that give several classes are refused: which of them is good they do not say. Models of
    post-editing effort (HTER) count errors and do not fit. A row with an empty side scores NaN.
    Source: TransQuest, Ranasinghe et al. 2020, arXiv 2011.01536, whose MonoTransQuest models are such.
    """

    min: float | None = None
    """No bound: every model has its own scale. Without a bound the score only ranks."""
    first: str | None = None
    """The language that the model reads first where a pair has it, e.g. en for a model trained on translations from
    English; else the pair's first in the alphabet."""

    judges_quality: ClassVar[bool] = True

    @field_validator("first")
    @classmethod
    def _is_language(cls, code: str | None) -> str | None:
        return None if code is None else parse(code)

    def open(self) -> Network:
        network = Network(self.name, "AutoModelForSequenceClassification", self.model, self.revision, self.device)
        if network.model.config.num_labels != 1:
            raise UserError(
                f"{self.name}.model: {self.model} gives {network.model.config.num_labels} numbers a row. Allowed: one, "
                f"the quality. Choose a model trained for regression."
            )
        return network

    def score(self, batch: pa.RecordBatch, loaded: Network | None = None) -> pa.Array:
        network = loaded or self.open()
        sides = ("tgt", "src") if languages(batch)[1] == self.first else ("src", "tgt")
        texts = tuple(batch[side].to_pylist() for side in sides)
        return self.whole(batch, network.run(texts, self.batch_size, self.max_tokens, _logits)[:, 0])


def _logits(output: Any, mask: Any) -> Any:
    return output.logits
