"""Base class of filters, one file each: `score` gives each row a number, `keep` compares it with the bounds.

`clean` stores the scores of every row, so that changed bounds need no new scores.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from pipelines.errors import UserError
from pipelines.languages import Pair, parse
from pipelines.registry import Plugin, Strict

RANGE = pa.struct([("low", pa.float64()), ("high", pa.float64())])
"""Type of a score that consists of two numbers, such as the lengths of the shorter and the longer side."""


class Bounds(Strict):
    """Bounds for a subset of the rows. An unset bound is inherited from the wider subset; null removes it."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if (message := _order_error(self)) is not None:
            raise UserError(message)
        return self

    def override(self, wider: "Bounds") -> "Bounds":
        """Return these bounds where they are set, else those of `wider`."""
        is_set = self.model_fields_set
        return Bounds.model_construct(
            min=self.min if "min" in is_set else wider.min, max=self.max if "max" in is_set else wider.max
        )


class Filter(Plugin):
    """Base of filters: a row is kept if min <= score <= max. Null and NaN are dropped unless both bounds are None.

    Subclasses set the defaults of `min` and `max`; None means no bound.
    """

    min: float | None = None
    max: float | None = None
    per: dict[str, Bounds] = {}
    """Bounds for a language (`sw`), a pair (`en-sw`) or a corpus (`GNOME`, `GNOME/v3.8`).

    A corpus takes precedence over a pair, a pair over a language. If both languages of a pair have bounds, the stricter
    ones apply."""

    fits: ClassVar[bool] = False
    """Whether `fit` must see the pair's rows before they can be scored."""
    is_expensive: ClassVar[bool] = False
    """Whether a row costs more than most other filters together, as with a neural model. Such a filter scores only the
    rows that the filters before it keep."""
    judges_quality: ClassVar[bool] = False
    """Whether a higher score means a better translation, so that scores can rank rows."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        Bounds(min=self.min, max=self.max)
        return self

    def check(self, pairs: list[Pair]) -> None:
        """Raise UserError if the settings cannot work for `pairs` on any machine. Loads nothing."""

    def check_per(self, pairs: Sequence[Pair], corpora: Sequence[str] | None) -> None:
        """Raise UserError if a key of `per` is neither a language or pair of `pairs` nor one of `corpora`.

        Args:
            pairs: Pairs of the recipe.
            corpora: Corpora of the recipe. None if they are not known in advance; then any other key is accepted.
        """
        codes = sorted({lang for pair in pairs for lang in pair})
        for key in self.per:
            if _pair(key) in pairs or _language(key) in codes:
                continue
            if _pair(key) if corpora is None else not any(_is_corpus(key, corpus) for corpus in corpora):
                allowed = f"a corpus ({', '.join(corpora)})" if corpora else "a corpus"
                raise UserError(
                    f"per: found '{key}'. Expected: a language ({', '.join(codes)}), a pair "
                    f"({', '.join(map(str, pairs))}) or {allowed} of the recipe. Fix: correct or remove it."
                )
        for pair, corpus in product(pairs, ("", *self.per)):
            if (message := _order_error(self.bounds(pair, corpus))) is not None:
                raise UserError(f"per, {pair} {corpus}: {message}")

    def notes(self, pairs: list[Pair]) -> list[str]:
        """Return messages to show before work starts, e.g. about languages that this filter supports only partly.

        Raises:
            UserError: This machine lacks what `score` needs.
        """
        return []

    def fit(self, batches: Iterator[pa.RecordBatch], folder: Path) -> list[str]:
        """Learn from the normalized BITEXT rows of one pair and write the result to `folder`, deterministically.

        Returns:
            Messages for the user, each beginning with the filter's name, e.g. that a pair has too few rows.
        """
        return []

    def open(self) -> Any:
        """Load what `score` needs, once per process; the result is passed to every `score`."""
        return None

    def reopen(self, folder: Path) -> Any:
        """Load what `fit` wrote to `folder`; replaces `open` if `fits`."""
        return self.open()

    @abstractmethod
    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        """Return one float64, or one RANGE, per row of a BITEXT batch of a single language pair."""

    def bounds(self, pair: Pair, corpus: str = "") -> Bounds:
        """Return the bounds that apply to the rows of a corpus of a pair."""
        bounds = Bounds.model_construct(min=self.min, max=self.max)
        by_language = [self.per[key].override(bounds) for key in self.per if _language(key) in pair.languages]
        if by_language:
            lows = [item.min for item in by_language if item.min is not None]
            highs = [item.max for item in by_language if item.max is not None]
            bounds = Bounds.model_construct(min=max(lows, default=None), max=min(highs, default=None))
        for key in self.per:
            if _pair(key) == pair:
                bounds = self.per[key].override(bounds)
        for has_version in (False, True):
            for key in self.per:
                if corpus and _is_corpus(key, corpus) and ("/" in key) == has_version:
                    bounds = self.per[key].override(bounds)
        return bounds

    def keep(self, scores: pa.Array, pair: Pair | None = None, corpora: pa.Array | None = None) -> pa.Array:
        """Return one non-null bool per row; `corpora` holds the corpus of each row."""
        if not self.per or pair is None or corpora is None:
            return within(scores, Bounds.model_construct(min=self.min, max=self.max))
        kept = pa.repeat(pa.scalar(False), len(scores))
        for corpus in pc.unique(corpora).to_pylist():
            kept = pc.or_(kept, pc.and_(pc.equal(corpora, corpus), within(scores, self.bounds(pair, corpus))))
        return kept

    def unbounded(self) -> Self:
        """Return this filter without bounds, i.e. only with the settings that decide its scores."""
        return self.model_copy(update={"min": None, "max": None, "per": {}})


def within(scores: pa.Array, bounds: Bounds) -> pa.Array:
    """Return whether each score, or both ends of each RANGE, lie within `bounds`; False for null and NaN if bounded."""
    low, high = ends(scores)
    if bounds.min is None and bounds.max is None:
        return pa.repeat(pa.scalar(True), len(scores))
    kept = pc.invert(pc.or_(pc.is_nan(low), pc.is_nan(high)))
    if bounds.min is not None:
        kept = pc.and_(kept, pc.greater_equal(low, bounds.min))
    if bounds.max is not None:
        kept = pc.and_(kept, pc.less_equal(high, bounds.max))
    return pc.fill_null(kept, False)


def ends(scores: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return (low, high) of RANGE scores, or the scores twice."""
    if scores.type == RANGE:
        return pc.struct_field(scores, "low"), pc.struct_field(scores, "high")
    return scores, scores


def range_of(a: pa.Array, b: pa.Array) -> pa.Array:
    """Return RANGE scores from one number per side."""
    low, high = (pc.cast(pick(a, b), pa.float64()) for pick in (pc.min_element_wise, pc.max_element_wise))
    return pa.StructArray.from_arrays([low, high], fields=list(RANGE))


def languages(batch: pa.RecordBatch) -> tuple[str, str]:
    """Return the language codes of the two sides; ("", "") for an empty batch.

    Raises:
        UserError: The batch mixes language pairs.
    """
    src, tgt = (pc.unique(batch[name]).to_pylist() for name in ("src_lang", "tgt_lang"))
    if len(src) > 1 or len(tgt) > 1:
        raise UserError(
            f"batch of {batch.num_rows} rows: found the languages {src} and {tgt}. Expected: one pair. "
            f"Fix: split the rows by pair."
        )
    return (src[0], tgt[0]) if batch.num_rows else ("", "")


def _order_error(bounds: Bounds) -> str | None:
    if bounds.min is None or bounds.max is None or bounds.min <= bounds.max:
        return None
    return (
        f"found min {bounds.min:g} above max {bounds.max:g}, which keeps no row. Expected: min <= max. "
        f"Fix: change one of them."
    )


def _pair(key: str) -> Pair | None:
    try:
        return Pair.parse(key)
    except UserError:
        return None


def _language(key: str) -> str:
    try:
        return "" if _pair(key) else parse(key)  # `en-de` could also mean English as written in Germany
    except UserError:
        return ""


def _is_corpus(key: str, corpus: str) -> bool:
    """Return whether `key` (`GNOME` or `GNOME/v1`) names `corpus` (`GNOME/v1`)."""
    return key in (corpus, corpus.partition("/")[0])
