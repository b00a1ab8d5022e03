"""Reads bitext from a file of this package: everyday phrases in English and German."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.schema import bitext_batch
from pipelines.sources import Source

FILE = Path(__file__).parents[1] / "data" / "phrases.tsv"
LANGUAGES = ("eng_Latn", "deu_Latn")
"""The languages of the file's columns."""
CORPUS = "phrasebook/v1"


class Phrasebook(Source):
    """Twenty phrases of English and German."""

    citation: ClassVar[str] = "Isogloss, example package."

    @property
    def corpora_named(self) -> list[str]:
        return [CORPUS]

    def check(self, pairs: list[Pair]) -> None:
        if other := [str(pair) for pair in pairs if set(pair) != set(LANGUAGES)]:
            raise UserError(
                f"source 'phrasebook': found {', '.join(other)}. Expected: en-de. Fix: remove the source or the pair."
            )

    def pin(self, pair: Pair, home: Path) -> Any:
        """The hash of the data: the corpus is rebuilt when it changes."""
        return hashlib.sha256(FILE.read_bytes()).hexdigest()

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        rows = [line.split("\t") for line in FILE.read_text(encoding="utf-8").splitlines()]
        columns = dict(zip(LANGUAGES, map(list, zip(*rows, strict=True)), strict=True))
        yield bitext_batch(columns[pair.src], columns[pair.tgt], pair.src, pair.tgt, CORPUS)

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        return {CORPUS: {"version": "v1", "licence": "Apache-2.0", "url": "", "citation": self.citation}}
