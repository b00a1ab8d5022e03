"""Data sets of the Hugging Face hub, or local ones that `datasets` reads -> BITEXT batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from pipelines.errors import UserError
from pipelines.languages import Pair, parse
from pipelines.progress import ProgressCallback, no_progress
from pipelines.sources import Source
from pipelines.sources._files import Codes, batches
from pipelines.sources._hub import HubData, codes_of

TRANSLATION = "translation"  # the column in which most bitext of the hub has its languages: {en: ..., de: ...}


class Hub(HubData, Source):
    """Bitext in a data set: two columns, one a language, or a column `translation` of all languages.

    A value that is null becomes an empty segment; filters drop and count it.
    """

    citation: ClassVar[str] = (
        "Quentin Lhoest et al. 2021. Datasets: A Community Library for Natural Language Processing. EMNLP 2021. "
        "arXiv 2109.02846"
    )
    online: ClassVar[bool] = True

    columns: dict[str, str] = {}
    """{language: column}; a dot leads into a column of structs: `text.english`. Without it, `translation` is read."""

    @field_validator("columns")
    @classmethod
    def _by_language(cls, columns: dict[str, str]) -> dict[str, str]:
        found = {parse(lang): column for lang, column in columns.items()}
        if columns and len(found) < max(2, len(columns)):
            raise UserError(f"found {columns}. Allowed: a column for each of two or more languages. Name them.")
        return found

    @property
    def corpora_named(self) -> list[str] | None:
        return [self.named]

    def check(self, pairs: list[Pair]) -> None:
        if self.columns and not any(set(pair) <= set(self.columns) for pair in pairs):
            raise UserError(
                f"source 'hub', columns: found {', '.join(self.columns)}, which are no pair of the recipe. Allowed: "
                f"both languages of at least one of {', '.join(map(str, pairs))}. Add columns or the pair."
            )

    def prepare(self, pair: Pair, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Fix the commit, and which configuration or files are the pair's; files are downloaded."""
        on_progress(0, 0, self.path)
        self.identity(home, codes_of(pair, self.languages))
        if self.data_files and not self.local:
            self.paths(home, codes_of(pair, self.languages))

    def pin(self, pair: Pair, home: Path) -> Any:
        return self.identity(home, codes_of(pair, self.languages))

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        return list(pairs) if self.moved(home) else []

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        if self.columns and not set(pair) <= set(self.columns):
            return iter(())
        tables = self.tables(home, codes_of(pair, self.languages))
        return batches(
            (self._sides(batch, pair) for table in tables for batch in table.to_batches()),
            pair,
            self.corpus_version(home),
        )

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        return {self.corpus_version(home): self.about(home, codes_of(pair, self.languages))}

    def _sides(self, batch: pa.RecordBatch, pair: Pair) -> tuple[pa.Array, pa.Array]:
        named = self.columns or self._translated(batch.schema, pair)
        src, tgt = (self._column(batch, named[lang]).cast(pa.string()) for lang in pair)
        return src, tgt

    def _translated(self, schema: pa.Schema, pair: Pair) -> dict[str, str]:
        index = schema.get_field_index(TRANSLATION)
        kind = schema.field(index).type if index >= 0 else None
        if kind is None or not pa.types.is_struct(kind):
            raise UserError(
                f"source 'hub', {self.path}: no column '{TRANSLATION}' of languages. Found: {', '.join(schema.names)}. "
                f"Say which column is which language: columns: {{{pair.src}: ..., {pair.tgt}: ...}}."
            )
        codes = Codes(self.languages)
        names = [kind.field(i).name for i in range(kind.num_fields)]
        found = {lang: f"{TRANSLATION}.{name}" for name in reversed(names) if (lang := codes(name))}
        if missing := [lang for lang in pair if lang not in found]:
            raise UserError(
                f"source 'hub', {self.path}, {pair}: column '{TRANSLATION}' has no {' and no '.join(missing)}. Found: "
                f"{', '.join(names)}. Name the configuration of this pair ('{{src}}-{{tgt}}' stands for its codes), or "
                f"say in `languages` what these are."
            )
        return found

    def _column(self, batch: pa.RecordBatch, path: str) -> pa.Array:
        names, whole = batch.schema.names, path
        column: Any = None
        while path:
            name = path if path in names else path.partition(".")[0]
            if name not in names:
                raise UserError(
                    f"source 'hub', {self.path}: no column '{whole}'. Found: {', '.join(batch.schema.names)}. Correct "
                    f"`columns`."
                )
            column = batch[name] if column is None else pc.struct_field(column, name)
            names = [column.type.field(i).name for i in range(column.type.num_fields)]
            path = path.removeprefix(name).removeprefix(".")
        return column
