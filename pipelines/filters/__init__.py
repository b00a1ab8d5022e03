"""Filters, one file each. A filter gives one number a row; the base class says which rows stay."""

from abc import abstractmethod
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from pipelines.languages import Pair
from pipelines.registry import Plugin


class Filter(Plugin):
    """Base of filters: a row stays where min <= score <= max; null and NaN drop.

    A subclass sets the defaults of `min` and `max`; None is no bound.
    """

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(
                f"found min {self.min:g} above max {self.max:g}. Allowed: min <= max; else no row stays. Change one."
            )
        return self

    def check(self, pairs: list[Pair]) -> None:
        """Raise ValueError where the settings can never serve `pairs`, on any machine; loads nothing."""

    def notes(self, pairs: list[Pair]) -> list[str]:
        """Sentences to show before work starts, e.g. of languages this filter cannot judge fully.

        Raises ValueError where this machine lacks what `score` needs.
        """
        return []

    def open(self) -> Any:
        """What `score` needs and is slow to load, made once per process; it is handed to every `score`."""
        return None

    @abstractmethod
    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        """One float64 a row of a BITEXT batch, which holds one pair of languages."""

    def keep(self, scores: pa.Array) -> pa.Array:
        """One boolean a row, never null."""
        verdict = pc.invert(pc.is_nan(scores))
        if self.min is not None:
            verdict = pc.and_(verdict, pc.greater_equal(scores, self.min))
        if self.max is not None:
            verdict = pc.and_(verdict, pc.less_equal(scores, self.max))
        return pc.fill_null(verdict, False)


def languages(batch: pa.RecordBatch) -> tuple[str, str]:
    """The codes of the batch's two sides; ("", "") of an empty batch. ValueError where it mixes pairs."""
    found = [pc.unique(batch[name]).to_pylist() for name in ("src_lang", "tgt_lang")]
    if any(len(codes) > 1 for codes in found):
        raise ValueError(
            f"batch of {batch.num_rows} rows: found the languages {found[0]} and {found[1]}. Allowed: one pair. "
            f"Split the rows by pair."
        )
    return (found[0][0], found[1][0]) if batch.num_rows else ("", "")
