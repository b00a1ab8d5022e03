"""How well a model predicts held-out text: nats per token of each language, over distinct sentences.

Source: the exponent of perplexity (Jelinek et al. 1977, doi 10.1121/1.2016299). Figures are comparable between models
of one tokenizer only.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import statistics
from pipelines.errors import UserError
from pipelines.evals import LanguageModel, Measure, Metric
from pipelines.evals._bitext import BitextEval


class Loss(BitextEval):
    """Every token of a text counts alike, its EOS too; the interval is over texts."""

    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    measures: ClassVar[Mapping[str, Measure]] = {
        "loss/nats_per_token": Measure(
            title="Language modelling: loss",
            note="Nats per token on held-out text. Lower is better.",
            name="loss",
            unit="nats per token",
            lower_is_better=True,
            relative=True,
        )
    }

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        out: dict[str, Metric] = {}
        for lang in sorted(set(texts["lang"].to_pylist())):
            distinct = list(dict.fromkeys(texts.filter(pc.equal(texts["lang"], lang))["text"].to_pylist()))
            nats, tokens = lm.loss(distinct)
            if not np.isfinite(nats).all():
                raise UserError(
                    f"{self.name}, {lang}: the loss is NaN or infinite. Needed: finite. The training diverged."
                )
            asked = tokens > 0
            of = [(text,) for text, some in zip(distinct, asked, strict=True) if some]
            out[f"{self.name}/{lang}/nats_per_token"] = statistics.ratio(nats[asked], tokens[asked], texts=of)
        return out
