"""What evals on held-out bitext share: where it comes from and which of its rows are asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.evals import Eval
from pipelines.filters.script import in_own_scripts
from pipelines.languages import Pair, pivot
from pipelines.registry import plugin_field
from pipelines.schema import EVAL_TEXT
from pipelines.sources import Source
from pipelines.text.segments import keys, seeded_order


class BitextEval(Eval):
    """Base of evals whose texts are bitext of the recipe's pairs from a source of their own."""

    source: plugin_field(Source, "pipelines.sources")  # type: ignore[valid-type]
    """Where the held-out bitext comes from; all of it is decontaminated against that is asked."""
    rows: int = Field(1000, gt=0)
    """Segment pairs a language pair at most, drawn by the text of the pivot language, so alike in all its pairs."""

    def check(self, pairs: list[Pair]) -> None:
        self.source.check(pairs)

    def pin(self, pairs: list[Pair], home: Path) -> Any:
        for pair in pairs:
            self.source.prepare(pair, home)
        return [self.source.pin(pair, home) for pair in pairs]

    def provenance(self, pairs: list[Pair], home: Path) -> dict[str, dict[str, Any]]:
        return {name: facts for pair in pairs for name, facts in self.source.provenance(pair, home).items()}

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        common = pivot(pairs)
        for pair in pairs:
            batches = [in_own_scripts(batch, self.source.other_scripts) for batch in self.source.fetch(pair, home)]
            rows = pa.Table.from_batches(batches)
            yield from questions(self.name, pair, rows, self.drawn, common)

    @property
    def drawn(self) -> int:
        """Rows a pair at most that this eval holds."""
        return self.rows


def by_pair(texts: pa.Table) -> dict[Pair, tuple[list[str], list[str]]]:
    """{pair: (source texts, target texts)} of EVAL_TEXT rows, in sorted order; text i of both means the same."""
    out = {}
    for code in sorted(set(texts["pair"].to_pylist())):
        rows = texts.filter(pc.equal(texts["pair"], code))
        pair = Pair.parse(code.split("-"))
        src, tgt = (rows.filter(pc.equal(rows["lang"], lang)).to_pylist() for lang in pair)
        answers = {row["item"]: row["text"] for row in tgt}
        out[pair] = [row["text"] for row in src], [answers[row["item"]] for row in src]
    return out


def questions(name: str, pair: Pair, rows: pa.Table, most: int, common: str) -> Iterator[pa.RecordBatch]:
    """EVAL_TEXT batches: both sides of every drawn row of bitext; `item` numbers them within the pair.

    most: rows drawn at most, by the text of the language `common`, or of the first of a pair that lacks it. A row with
    a segment that an earlier row has too is left out: it would have two right answers.
    """
    found = [keys(rows[side]) for side in ("src", "tgt")]
    drawn = seeded_order(found[pair.index(common) if common in pair else 0], "held-out")
    seen: tuple[set[int], set[int]] = (set(), set())
    chosen: list[int] = []
    for row in np.argsort(drawn, kind="stable").tolist():
        here = [int(side[row]) for side in found]
        if len(chosen) < most and not any(key in side for key, side in zip(here, seen, strict=True)):
            chosen.append(row)
            for key, side in zip(here, seen, strict=True):
                side.add(key)
    for side, lang in zip(("src", "tgt"), pair, strict=True):
        columns = {
            "eval": [name] * len(chosen),
            "item": [str(item) for item in range(len(chosen))],
            "pair": [str(pair)] * len(chosen),
            "lang": [lang] * len(chosen),
            "text": rows[side].take(chosen).to_pylist() if chosen else [],
        }
        yield pa.RecordBatch.from_pydict(columns, schema=EVAL_TEXT)
