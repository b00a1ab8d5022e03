"""Drops rows that a reference-free quality estimation model scores low."""

from typing import Any, ClassVar

import pyarrow as pa
from pydantic import field_validator

from pipelines.errors import UserError
from pipelines.filters import languages
from pipelines.filters._transformer import Network, Neural
from pipelines.languages import parse


class QualityEstimation(Neural):
    """Output of a sequence regression model that reads both sides together; higher is better, NaN if a side is empty.

    Models with several output classes are refused. Models of post-editing effort (HTER) count errors, so higher is
    worse, and do not fit.
    Source: MonoTransQuest, Ranasinghe et al. 2020, arXiv 2011.01536.
    """

    min: float | None = None
    """No bound by default, as every model has its own scale; the score then only ranks rows."""
    first: str | None = None
    """The language that the model reads first in pairs that contain it, e.g. `en` for a model trained on translations
    from English. By default the alphabetically first one."""

    judges_quality: ClassVar[bool] = True

    @field_validator("first")
    @classmethod
    def _is_language(cls, code: str | None) -> str | None:
        return None if code is None else parse(code)

    def open(self) -> Network:
        network = Network(self.name, "AutoModelForSequenceClassification", self.model, self.revision, self.device)
        if network.model.config.num_labels != 1:
            raise UserError(
                f"{self.name}.model: {self.model} has {network.model.config.num_labels} outputs per row. Expected: "
                f"one, the quality. Fix: choose a model trained for regression."
            )
        return network

    def score(self, batch: pa.RecordBatch, loaded: Network | None = None) -> pa.Array:
        network = loaded or self.open()
        sides = ("tgt", "src") if languages(batch)[1] == self.first else ("src", "tgt")
        texts = tuple(batch[side].to_pylist() for side in sides)
        return self.mask_empty(batch, network.run(texts, self.batch_size, self.max_tokens, _logits)[:, 0])


def _logits(output: Any, mask: Any) -> Any:
    return output.logits
