"""The embedded sample: sentences of `pipelines.sample_grammar` in eight languages, multi-parallel by id, offline.

For demonstration and tests: its size per language imitates resources, it holds labelled noise in known amounts where
asked to, and a held-out set that shares no sentence with training.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from pipelines import sample_grammar
from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.registry import Strict
from pipelines.schema import bitext_batch
from pipelines.sources import Source

LOW_RESOURCE = ("hin_Deva", "swh_Latn")
LOW_RESOURCE_SHARE = 4  # a pair with such a language has one row for so many of the others
BATCH_ROWS = 4_096


class Noise(Strict):
    """Shares of the rows that carry each noise, in [0, 1]; the counts are exact, round(share * rows)."""

    untranslated: float = Field(default=0.0, ge=0, le=1)
    """The target is a copy of the source."""
    wrong_language: float = Field(default=0.0, ge=0, le=1)
    """One side is the same sentence in a third language."""
    swapped: float = Field(default=0.0, ge=0, le=1)
    """The two sides have changed places."""
    duplicate: float = Field(default=0.0, ge=0, le=1)
    """The row repeats one before it."""
    length: float = Field(default=0.0, ge=0, le=1)
    """One side is cut to two or three characters, or four other sentences follow it."""
    markup: float = Field(default=0.0, ge=0, le=1)
    """Tags and placeholders make up half of one side or of both, or more."""
    misaligned: float = Field(default=0.0, ge=0, le=1)
    """The target is that of another row, of similar length."""
    near_duplicate: float = Field(default=0.0, ge=0, le=1)
    """The row repeats one before it but for a typo in one side or in both, each at least 0.8 similar: grammar.NEAR."""

    @model_validator(mode="after")
    def _leaves_rows_to_repeat(self) -> "Noise":
        shares = [share for _, share in self]
        repeats = self.duplicate + self.near_duplicate
        if sum(shares) + repeats > 1:
            raise UserError(
                f"noise: found shares of {sum(shares):g} in all, of which duplicates and near duplicates are "
                f"{repeats:g}. Allowed: at most 1 in all, these counted twice, as each repeats a clean row. Lower the "
                f"shares."
            )
        return self

    def counts(self, rows: int) -> dict[str, int]:
        return {name: round(share * rows) for name, share in self}


class Sample(Source):
    """Everyday sentences from a controlled grammar. Row order and noise depend on `seed`, meanings and ids do not.

    A pair with Hindi or Swahili has a quarter of `rows`; the held-out split has 1,000 rows in every pair.
    """

    loads: ClassVar[tuple[str, ...]] = ("pipelines.sample_grammar",)
    licence: ClassVar[str] = "Apache-2.0"
    citation: ClassVar[str] = "Isogloss, embedded sample: word tables and grammar of our own making, pipelines/grammar."

    split: Literal["train", "heldout"] = "train"
    rows: int = Field(default=len(sample_grammar.TRAIN_IDS), ge=1, le=len(sample_grammar.TRAIN_IDS))
    """Training rows of a pair without a low-resource language; the held-out split ignores it."""
    seed: int = 0
    noise: Noise = Noise()
    """Of the training split only: held-out rows are always clean."""

    @model_validator(mode="after")
    def _heldout_is_clean(self) -> "Sample":
        if self.split == "heldout" and any(share for _, share in self.noise):
            raise UserError(
                "noise: found noise with split 'heldout'. Allowed: noise with split 'train'. Remove one of the two."
            )
        return self

    @property
    def corpus(self) -> str:
        return "sample/v1" if self.split == "train" else "sample-heldout/v1"

    def check(self, pairs: list[Pair]) -> None:
        for pair in pairs:
            for code in pair:
                if code not in sample_grammar.LANGUAGES:
                    raise UserError(
                        f"source 'sample', pair {pair}: no language '{code}'. "
                        f"Available: {', '.join(sample_grammar.LANGUAGES)}. "
                        "Choose a pair of these, or take the pair from another source."
                    )
            rows = len(self.ids(pair))
            counts = self.noise.counts(rows)
            if sum(counts.values()) + sum(counts[kind] for kind in sample_grammar.REPEATS) > rows:
                raise UserError(
                    f"source 'sample', pair {pair}: found {sum(counts.values())} noisy rows in {rows}. "
                    "Allowed: as many as leave a clean row for each duplicate. Raise `rows` or lower `noise`."
                )

    def ids(self, pair: Pair) -> range:
        """The ids of the pair's rows. Low-resource pairs hold the first of those the other pairs hold."""
        if self.split == "heldout":
            return sample_grammar.HELDOUT_IDS
        low = any(code in LOW_RESOURCE for code in pair)
        return sample_grammar.TRAIN_IDS[: max(1, self.rows // LOW_RESOURCE_SHARE) if low else self.rows]

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        for batch, _ in self.labelled(pair):
            yield batch

    def labelled(self, pair: Pair) -> Iterator[tuple[pa.RecordBatch, list[str]]]:
        """BITEXT batches, and for each row its noise or "clean"."""
        self.check([pair])
        ids = self.ids(pair)
        rows = sample_grammar.bitext(pair.src, pair.tgt, ids, self.noise.counts(len(ids)), self.seed)
        while chunk := list(islice(rows, BATCH_ROWS)):
            src, tgt, labels = ([row[column] for row in chunk] for column in range(3))
            yield bitext_batch(src, tgt, pair.src, pair.tgt, self.corpus), labels

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        about = {"version": "v1", "licence": self.licence, "url": "", "citation": self.citation}
        return {self.corpus: about}

    def instructions(self, lang: str, home: Path) -> Iterator[tuple[int | str, str, str, str]]:
        """Questions on a short text, denials, changes of time and sums; no held-out sentence occurs in them."""
        for exercise in sample_grammar.exercises(lang):
            yield exercise.id, exercise.instruction, exercise.input, exercise.output
