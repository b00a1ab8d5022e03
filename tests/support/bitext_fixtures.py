"""Rows put straight into a store, for tests of the stages that read them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.schema import BITEXT, EVAL_TEXT, bitext_batch
from pipelines.sources import Source
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

CORPUS = "planted/v1"


class Planted(Source):
    """A source of `rows` numbered sentences in any language, and of as many questions, multi-parallel by number."""

    rows: int = 10

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        yield bitext_batch(*sentences(pair, self.rows), *pair, CORPUS)

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        return {CORPUS: {"version": "v1", "licence": "CC0-1.0", "url": "", "citation": "tests"}}

    def instructions(self, lang: str, home: Path) -> Iterator[tuple[int | str, str, str, str]]:
        for number in range(self.rows):
            yield (
                number,
                f"{lang} question {number}?",
                "" if number % 2 else f"{lang} given {number}",
                f"{lang} {number}",
            )


def sentences(pair: Pair, rows: int) -> tuple[list[str], list[str]]:
    return tuple([f"{lang} sentence {number}." for number in range(rows)] for lang in pair)  # type: ignore[return-value]


def recipe(pairs: Sequence[str], name: str = "planted", seed: int = 0, **corpus: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": name, "seed": seed, "corpus": {"pairs": list(pairs), "sources": [Planted()], **corpus}}
    )


def store_bitext(
    store: Store,
    pair: Pair,
    rows: int | tuple[list[str], list[str]],
    mark: str = "",
    asset: str = "decontaminated_bitext",
) -> Manifest:
    """A dataset of bitext with a score column, as `clean` leaves one; `mark` is its fingerprint."""
    src, tgt = sentences(pair, rows) if isinstance(rows, int) else rows
    batch = bitext_batch(src, tgt, *pair, CORPUS).append_column("score_x", pa.array([0.5] * len(src), pa.float64()))
    with store.writing(asset, pair) as out:
        out.write(batch)
        out.write(pa.RecordBatch.from_pylist([], schema=BITEXT), "rejected")
        return out.commit(f"{pair}{len(src)}{mark}", {}, corpora=Planted().provenance(pair, store.sources))


def store_eval_text(store: Store, texts: dict[str, list[str]]) -> Manifest:
    """Held-out texts by language."""
    rows = [
        {"eval": "loss", "item": str(i), "pair": "", "lang": lang, "text": text}
        for lang, held in texts.items()
        for i, text in enumerate(held)
    ]
    with store.writing("eval_text") as out:
        out.write(pa.RecordBatch.from_pylist(rows, schema=EVAL_TEXT))
        return out.commit(str(sorted(texts.items())), {})
