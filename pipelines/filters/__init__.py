"""Filters, one file each. A filter gives one number a row; the base class says which rows stay."""

from abc import abstractmethod
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.languages import Pair
from pipelines.registry import Plugin


class Filter(Plugin):
    """Base of filters: a row stays where min <= score <= max; null and NaN drop.

    A subclass sets the defaults of `min` and `max`; None is no bound.
    """

    min: float | None = None
    max: float | None = None

    columns: ClassVar[tuple[str, ...]] = ("src", "tgt", "src_lang", "tgt_lang")
    """The columns `score` reads."""

    def check(self, pairs: list[Pair]) -> list[str]:
        """Sentences to show before work starts, e.g. of languages this filter cannot judge fully."""
        return []

    def open(self) -> Any:
        """What `score` needs and is slow to load, made once per process; it is handed to every `score`."""
        return None

    @abstractmethod
    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        """One float64 a row of a BITEXT batch."""

    def keep(self, scores: pa.Array) -> pa.Array:
        """One boolean a row, never null."""
        verdict = pc.invert(pc.is_nan(scores))
        if self.min is not None:
            verdict = pc.and_(verdict, pc.greater_equal(scores, self.min))
        if self.max is not None:
            verdict = pc.and_(verdict, pc.less_equal(scores, self.max))
        return pc.fill_null(verdict, False)
