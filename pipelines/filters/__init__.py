"""Filters, one file each. A filter gives one score a row; the base class says which rows stay.

Scores and bounds are apart: `clean` stores the scores of every row, so that bounds move without scoring again.
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
"""Type of a score that is two numbers, such as the lengths of the shorter and of the longer side."""


class Bounds(Strict):
    """Bounds for some of the rows. One that is not given stays as it is for the others; null is no bound."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise UserError(
                f"found min {self.min:g} above max {self.max:g}. Allowed: min <= max; else no row stays. Change one."
            )
        return self

    def over(self, wider: "Bounds") -> "Bounds":
        """These bounds where they are given, else those of `wider`."""
        given = self.model_fields_set
        return Bounds.model_construct(
            min=self.min if "min" in given else wider.min, max=self.max if "max" in given else wider.max
        )


class Filter(Plugin):
    """Base of filters: a row stays where min <= score <= max; null and NaN drop, unless there is no bound at all.

    A subclass sets the defaults of `min` and `max`; None is no bound.
    """

    min: float | None = None
    max: float | None = None
    per: dict[str, Bounds] = {}
    """Other bounds for a language (`sw`), a pair (`en-sw`) or a corpus (`GNOME`, `GNOME/v3.8`).

    A corpus goes before a pair, a pair before a language. Of two languages of one pair the stricter bound holds."""

    fits: ClassVar[bool] = False
    """Whether `fit` must learn from the pair's rows before they can be scored."""
    is_expensive: ClassVar[bool] = False
    """Whether a row takes longer than in most other filters together, as with a neural model: then only the rows that
    the filters before it keep are scored."""
    judges_quality: ClassVar[bool] = False
    """Whether a higher score means a better translation: such scores can rank rows."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        Bounds(min=self.min, max=self.max)
        return self

    def check(self, pairs: list[Pair]) -> None:
        """Raise ValueError where the settings can never serve `pairs`, on any machine; loads nothing."""

    def check_per(self, pairs: Sequence[Pair], corpora: Sequence[str] | None) -> None:
        """ValueError where a key of `per` is no language or pair of `pairs` and none of `corpora`.

        `corpora` is None where it is not known beforehand which there will be: then any other key is taken for one.
        """
        codes = sorted({lang for pair in pairs for lang in pair})
        for key in self.per:
            if _pair(key) in pairs or _language(key) in codes:
                continue
            if _pair(key) if corpora is None else not any(_is_corpus(key, corpus) for corpus in corpora):
                named = f"a corpus ({', '.join(corpora)})" if corpora else "a corpus"
                raise UserError(
                    f"per: found '{key}'. Allowed: a language ({', '.join(codes)}), a pair "
                    f"({', '.join(map(str, pairs))}) or {named} of the recipe. Correct or remove it."
                )
        for pair, corpus in product(pairs, ("", *self.per)):
            found = self.bounds(pair, corpus)
            if found.min is not None and found.max is not None and found.min > found.max:
                raise UserError(
                    f"per, {pair} {corpus}: found min {found.min:g} above max {found.max:g}. Allowed: min <= max; else "
                    f"no row stays. Change one."
                )

    def notes(self, pairs: list[Pair]) -> list[str]:
        """Sentences to show before work starts, e.g. of languages this filter cannot judge fully.

        Raises ValueError where this machine lacks what `score` needs.
        """
        return []

    def fit(self, batches: Iterator[pa.RecordBatch], folder: Path) -> list[str]:
        """Learn from the normalised BITEXT rows of one pair and store it in `folder`; the same rows, the same bytes.

        Returns sentences for the user, e.g. of a pair that has too few rows to learn from; each begins with the name.
        """
        return []

    def open(self) -> Any:
        """What `score` needs and is slow to load, made once per process; it is handed to every `score`."""
        return None

    def reopen(self, folder: Path) -> Any:
        """`open` of a filter that fits: what `fit` stored in `folder`."""
        return self.open()

    @abstractmethod
    def score(self, batch: pa.RecordBatch, loaded: Any = None) -> pa.Array:
        """One float64 a row of a BITEXT batch, which holds one pair of languages; or a RANGE a row."""

    def bounds(self, pair: Pair, corpus: str = "") -> Bounds:
        """The bounds that hold for the rows of one corpus of one pair."""
        found = Bounds.model_construct(min=self.min, max=self.max)
        both = [self.per[key].over(found) for key in self.per if _language(key) in pair.languages]
        if both:
            lows = [item.min for item in both if item.min is not None]
            highs = [item.max for item in both if item.max is not None]
            found = Bounds.model_construct(min=max(lows, default=None), max=min(highs, default=None))
        for key in self.per:
            if _pair(key) == pair:
                found = self.per[key].over(found)
        for exact in (False, True):
            for key in self.per:
                if corpus and _is_corpus(key, corpus) and ("/" in key) == exact:
                    found = self.per[key].over(found)
        return found

    def keep(self, scores: pa.Array, pair: Pair | None = None, corpora: pa.Array | None = None) -> pa.Array:
        """One boolean a row, never null; `corpora` has the corpus of each row."""
        if not self.per or pair is None or corpora is None:
            return within(scores, Bounds.model_construct(min=self.min, max=self.max))
        verdict = pa.repeat(pa.scalar(False), len(scores))
        for corpus in pc.unique(corpora).to_pylist():
            own = pc.and_(pc.equal(corpora, corpus), within(scores, self.bounds(pair, corpus)))
            verdict = pc.or_(verdict, own)
        return verdict

    def unbounded(self) -> Self:
        """The same filter with all that does not decide its scores left out: by it stored scores are known again."""
        return self.model_copy(update={"min": None, "max": None, "per": {}})


def within(scores: pa.Array, bounds: Bounds) -> pa.Array:
    """Whether each score, or each end of a RANGE, lies within the bounds; null and NaN do not where there is one."""
    low, high = ends(scores)
    if bounds.min is None and bounds.max is None:
        return pa.repeat(pa.scalar(True), len(scores))
    verdict = pc.invert(pc.or_(pc.is_nan(low), pc.is_nan(high)))
    if bounds.min is not None:
        verdict = pc.and_(verdict, pc.greater_equal(low, bounds.min))
    if bounds.max is not None:
        verdict = pc.and_(verdict, pc.less_equal(high, bounds.max))
    return pc.fill_null(verdict, False)


def ends(scores: pa.Array) -> tuple[pa.Array, pa.Array]:
    """(low, high) of RANGE scores; of others twice the score."""
    if scores.type == RANGE:
        return pc.struct_field(scores, "low"), pc.struct_field(scores, "high")
    return scores, scores


def range_of(a: pa.Array, b: pa.Array) -> pa.Array:
    """RANGE scores of the two sides' numbers."""
    low, high = (pc.cast(pick(a, b), pa.float64()) for pick in (pc.min_element_wise, pc.max_element_wise))
    return pa.StructArray.from_arrays([low, high], fields=list(RANGE))


def languages(batch: pa.RecordBatch) -> tuple[str, str]:
    """The codes of the batch's two sides; ("", "") of an empty batch. ValueError where it mixes pairs."""
    found = [pc.unique(batch[name]).to_pylist() for name in ("src_lang", "tgt_lang")]
    if any(len(codes) > 1 for codes in found):
        raise UserError(
            f"batch of {batch.num_rows} rows: found the languages {found[0]} and {found[1]}. Allowed: one pair. "
            f"Split the rows by pair."
        )
    return (found[0][0], found[1][0]) if batch.num_rows else ("", "")


def _pair(key: str) -> Pair | None:
    try:
        return Pair.parse(key)
    except UserError:
        return None


def _language(key: str) -> str:
    try:
        return "" if _pair(key) else parse(key)  # `en-de` is also how English in Germany is written
    except UserError:
        return ""


def _is_corpus(key: str, corpus: str) -> bool:
    """Whether a key (`GNOME` or `GNOME/v1`) names this corpus (`GNOME/v1`)."""
    return key in (corpus, corpus.partition("/")[0])
