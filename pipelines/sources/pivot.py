"""Bitext of two languages with a third, such as English -> BITEXT of the two, through the segments both translate."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field

from pipelines.errors import UserError
from pipelines.languages import Pair, parse
from pipelines.progress import ProgressCallback, no_progress
from pipelines.registry import plugin_field
from pipelines.schema import BITEXT
from pipelines.sources import Source
from pipelines.stages.dedup import connection
from pipelines.storage.ledger import BATCH_ROWS, rebatch
from pipelines.text.matching import match_key

SIDES = ("src", "tgt")


class Pivot(Source):
    """Rows X-Y of segments whose translations in the pivot language have one match key, within one corpus.

    Where a pivot segment has several translations, the most frequent of each side are taken first, of equals the first;
    segments and keys that are empty give no row. A corpus `GNOME/v1` gives rows of `pivot(GNOME)/v1`. A pair with the
    pivot language itself has no rows here.
    """

    citation: ClassVar[str] = (
        "Masao Utiyama and Hitoshi Isahara. 2007. A Comparison of Pivot Methods for Phrase-Based Statistical Machine "
        "Translation. NAACL 2007. https://aclanthology.org/N07-1061"
    )
    online: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("duckdb", "pyarrow")

    sources: Annotated[list[plugin_field(Source, "pipelines.sources")], Field(min_length=1)]  # type: ignore[valid-type]
    """Where the bitext with the pivot language comes from."""
    language: Annotated[str, BeforeValidator(parse)] = "eng_Latn"
    """The pivot language."""
    most: int = Field(1, ge=1)
    """Rows that one pivot segment gives at most: 'OK' has many translations, few of which go together."""

    def nested(self) -> dict[str, Any]:
        return {f"sources[{place}]": source for place, source in enumerate(self.sources)}

    def settings(self) -> dict[str, Any]:
        own = self.model_dump(mode="json", exclude={"sources"})
        return {self.name: {"sources": [source.settings() for source in self.sources], **own}}

    @property
    def corpora_named(self) -> list[str] | None:
        found = [source.corpora_named for source in self.sources]
        known = [corpus for names in found if names is not None for corpus in names]
        return None if None in found else [_named(*_split(corpus)) for corpus in known]

    def check(self, pairs: list[Pair]) -> None:
        served = [pair for pair in pairs if self.language not in pair]
        if not served:
            raise UserError(
                f"source 'pivot', language {self.language}: every pair of the recipe has it: "
                f"{', '.join(map(str, pairs))}. Needed: a pair of two other languages. Add one, or name the "
                f"inner sources under `sources` themselves."
            )
        halves = list(dict.fromkeys(half for pair in served for half in self._halves(pair)))
        for source in self.sources:
            source.check(halves)

    def prepare(self, pair: Pair, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        for half in self._halves(pair):
            for source in self.sources:
                source.prepare(half, home, on_progress)

    def pin(self, pair: Pair, home: Path) -> Any:
        return [[source.pin(half, home) for source in self.sources] for half in self._halves(pair)]

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        halves = list(dict.fromkeys(half for pair in pairs for half in self._halves(pair)))
        moved = {half for source in self.sources if source.online for half in source.refresh(halves, home)}
        return [pair for pair in pairs if moved & set(self._halves(pair))]

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        halves = self._halves(pair)
        if not halves:
            return
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pivot-", dir=home) as spill, connection(Path(spill)) as duck:
            for side, lang, half in zip(SIDES, pair, halves, strict=True):
                duck.execute(
                    f"CREATE TABLE {side} (row BIGINT, name VARCHAR, version VARCHAR, key UHUGEINT, text VARCHAR)"
                )
                for rows in self._rows(lang, half, home):
                    duck.register("rows", rows)
                    duck.execute(
                        f"INSERT INTO {side} SELECT row, split_part(corpus, '/', 1), split_part(corpus, '/', 2), "
                        f"md5_number(key), text FROM rows WHERE key <> '' AND trim(text) <> ''"
                    )
                    duck.unregister("rows")
            # Of the first `most` combinations in the order of nth + nth, none has an nth above `most`.
            ranked = """
                SELECT name, key, text, min(row) AS row, min(version) AS version,
                       row_number() OVER (PARTITION BY name, key ORDER BY count(*) DESC, min(row)) AS nth
                FROM {side} GROUP BY name, key, text QUALIFY nth <= $most
            """
            found = duck.sql(
                f"""
                SELECT src.text AS src, tgt.text AS tgt, name, src.version AS src_version, tgt.version AS tgt_version
                FROM ({ranked.format(side="src")}) AS src JOIN ({ranked.format(side="tgt")}) AS tgt USING (name, key)
                QUALIFY row_number() OVER (PARTITION BY name, key ORDER BY src.nth + tgt.nth, src.nth) <= $most
                ORDER BY src.row, tgt.row
                """,
                params={"most": self.most},
            )
            yield from rebatch(_bitext(batch, pair) for batch in found.to_arrow_reader(BATCH_ROWS))

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        """Of every corpus that both halves have: versions, licences and addresses of both, and all files."""
        sides = []
        for half in self._halves(pair):
            stated = {name: facts for source in self.sources for name, facts in source.provenance(half, home).items()}
            sides.append({_split(name)[0]: (_split(name)[1], facts) for name, facts in stated.items()})
        out = {}
        for name, (version, facts) in sides[0].items() if sides else ():
            if name in sides[1]:
                other, more = sides[1][name]
                merged = {key: _both(facts.get(key, ""), more.get(key, "")) for key in ("version", "licence", "url")}
                citation = (
                    f"{_both(facts.get('citation', ''), more.get('citation', ''))} Joined through {self.language}."
                )
                files = [*facts.get("files", []), *more.get("files", [])]
                out[_named(name, version, other)] = {**merged, "citation": citation, "files": files}
        return out

    def _halves(self, pair: Pair) -> list[Pair]:
        """Either language with the pivot language; none where that is one of them."""
        return [] if self.language in pair else [Pair.parse([lang, self.language]) for lang in pair]

    def _rows(self, lang: str, half: Pair, home: Path) -> Iterator[pa.Table]:
        """row, corpus, key of the pivot side, text in `lang`; rows are numbered through all sources."""
        own, pivot = SIDES if half.src == lang else SIDES[::-1]
        start = 0
        for source in self.sources:
            for batch in source.fetch(half, home):
                columns = {"corpus": batch["corpus"], "key": match_key(batch[pivot]), "text": batch[own]}
                yield pa.table({"row": np.arange(start, start + batch.num_rows), **columns})
                start += batch.num_rows


def _bitext(found: pa.RecordBatch, pair: Pair) -> pa.RecordBatch:
    same = pc.equal(found["src_version"], found["tgt_version"])
    both = pc.binary_join_element_wise(found["src_version"], found["tgt_version"], "+")
    versions = pc.if_else(same, found["src_version"], both)
    names = pc.binary_join_element_wise("pivot(", found["name"], ")", "")
    corpus = pc.if_else(pc.equal(versions, ""), names, pc.binary_join_element_wise(names, versions, "/"))
    langs = [pa.repeat(pa.scalar(lang, pa.string()), found.num_rows) for lang in pair]
    return pa.record_batch([found["src"], found["tgt"], *langs, corpus], schema=BITEXT)


def _split(corpus: str) -> tuple[str, str]:
    """`GNOME/v1` -> GNOME, v1."""
    name, _, version = corpus.partition("/")
    return name, version


def _named(name: str, version: str, other: str | None = None) -> str:
    versions = _both(version, version if other is None else other, "+")
    return f"pivot({name})/{versions}" if versions else f"pivot({name})"


def _both(one: str, other: str, mark: str = " and ") -> str:
    return one if one == other else f"{one}{mark}{other}"
