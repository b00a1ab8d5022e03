"""Measures how often the right ending of a sentence is the more likely one. Source: written for the example."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipelines import statistics
from pipelines.evals import Eval, LanguageModel, Measure, Metric
from pipelines.languages import Pair
from pipelines.schema import EVAL_TEXT

ITEMS = {
    "eng_Latn": [
        ("The sky is", " blue", " square"),
        ("Ice is", " cold", " loud"),
        ("Birds can", " fly", " melt"),
        ("At night it is", " dark", " wooden"),
    ],
    "deu_Latn": [
        ("Der Himmel ist", " blau", " eckig"),
        ("Eis ist", " kalt", " laut"),
        ("Vögel können", " fliegen", " schmelzen"),
        ("In der Nacht ist es", " dunkel", " hölzern"),
    ],
}
"""{language: (beginning, right ending, wrong ending)}."""


class Endings(Eval):
    """Share of items whose right ending has the higher log-likelihood; the interval is over items."""

    measures: ClassVar[Mapping[str, Measure]] = {
        "endings/accuracy": Measure(title="Endings: accuracy", note="Share of right endings. Higher is better.")
    }

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        rows = [
            {"eval": self.name, "item": str(number), "pair": lang, "lang": lang, "text": begin + right}
            for lang in sorted({code for pair in pairs for code in pair} & set(ITEMS))
            for number, (begin, right, _) in enumerate(ITEMS[lang])
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=EVAL_TEXT)

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        out: dict[str, Metric] = {}
        for lang in sorted(set(texts["lang"].to_pylist())):
            right, _ = lm.loglikelihood([(begin, ending) for begin, ending, _ in ITEMS[lang]])
            wrong, _ = lm.loglikelihood([(begin, ending) for begin, _, ending in ITEMS[lang]])
            out[f"{self.name}/{lang}/accuracy"] = statistics.mean((right > wrong).astype(np.float64))
        return out

    def chance(self, texts: pa.Table) -> dict[str, float]:
        return {f"{self.name}/{lang}/accuracy": 0.5 for lang in set(texts["lang"].to_pylist())}
