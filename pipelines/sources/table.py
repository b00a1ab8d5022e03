"""Tables: .tsv, .csv, .jsonl, the same packed or in a .zip, and .parquet -> BITEXT batches.

Formats: https://www.rfc-editor.org/rfc/rfc4180 (CSV), https://jsonlines.org, https://parquet.apache.org/docs/file-format/
"""

import csv
import io
import itertools
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, BinaryIO, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pipelines.errors import UserError, quoted
from pipelines.fetching.paths import open_binary
from pipelines.languages import Pair, parse
from pipelines.sources._files import ROWS, Codes, Listed, Rows
from pipelines.text.text_files import (
    ESCAPED_SURROGATE,
    Encoding,
    packed,
    paired_surrogates,
    reading,
    streams,
    text_blocks,
    unpacked_name,
)

FORMATS = {".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
ROLES = ("src", "tgt", "src_lang", "tgt_lang")
LONGEST_LINE = 4 << 20  # characters of a row; Arrow holds several blocks of so many at a time
SAMPLED = 100  # lines of a JSONL file in which every column has to occur

Path = tuple[str, ...]
"""A column and the fields below it."""


class Table(Listed):
    """Rows of tables. `columns` says where the texts stand: {en: english, de: german}, for any number of languages, or
    {src: ..., tgt: ..., src_lang: ..., tgt_lang: ...} where each row names its two languages.

    A column is a name, a dotted path to a nested field (JSONL, Parquet), or a number from 1 (TSV, CSV). Empty and null
    texts are rows with an empty side. A byte order mark decides the encoding; without one it is UTF-8, where single
    bytes that are none become U+FFFD.
    """

    citation: ClassVar[str] = "Y. Shafranovich. 2005. RFC 4180. https://www.rfc-editor.org/rfc/rfc4180"

    columns: Annotated[dict[str, int | str], Field(min_length=2)]
    format: Literal["tsv", "csv", "jsonl", "parquet"] | None = None
    """By the end of each file's name where it is not given."""
    header: bool | None = None
    """TSV, CSV: whether the first line names the columns; by default where `columns` are names, not numbers."""
    delimiter: Annotated[str | None, Field(min_length=1, max_length=1)] = None
    """TSV, CSV: one character; a tab, a comma by default."""
    quoted: bool | None = None
    """TSV, CSV: whether quotation marks enclose values; by default in CSV only."""
    escape: Annotated[str | None, Field(min_length=1, max_length=1)] = None
    """TSV, CSV: one character, such as the backslash of MySQL and Spark, after which any other stands for itself; `\\N`
    alone is then null. By default a quotation mark within a value is written twice (RFC 4180)."""
    encoding: Encoding = None
    """Not of Parquet: the encoding of files without a byte order mark, such as windows-1252; utf-8 where every other
    byte shall be U+FFFD."""

    @field_validator("columns")
    @classmethod
    def _languages_or_roles(cls, columns: dict[str, int | str]) -> dict[str, int | str]:
        if any(isinstance(column, int) and column < 1 for column in columns.values()):
            raise UserError(f"found {columns}. Allowed: numbers from 1. Count the first column as 1.")
        if len({isinstance(column, int) for column in columns.values()}) > 1:
            raise UserError(f"found {columns}. Allowed: names alone or numbers alone. Choose one.")
        if not {"src", "tgt"} & set(columns):
            out = {parse(code): column for code, column in columns.items()}
            if len(out) < len(columns):
                raise UserError(f"found {', '.join(columns)}. Allowed: each language once. Remove one.")
            return out
        if set(columns) != set(ROLES):
            raise UserError(
                f"found {', '.join(columns)}. Allowed: languages, such as {{en: english, de: german}}, or all of "
                f"{', '.join(ROLES)}, where columns say each row's languages. Name languages."
            )
        return columns

    @property
    def _by_row(self) -> bool:
        return "src_lang" in self.columns

    def check(self, pairs: list[Pair]) -> None:
        if not self._by_row and not any(set(pair) <= set(self.columns) for pair in pairs):
            raise UserError(
                f"source 'table', columns: found {', '.join(self.columns)}. Needed: both languages of one of "
                f"{', '.join(map(str, pairs))}. Add a column or a pair."
            )

    def found(self, pair: Pair) -> list[str]:
        return super().found(pair) if self._by_row or set(pair) <= set(self.columns) else []

    def read(self, pair: Pair, codes: Codes) -> Iterator[Rows]:
        for path in self.found(pair):
            columns = [self.columns[key] for key in (ROLES if self._by_row else pair)]
            for texts in self._tables(path, columns):
                yield _of_pair(texts, pair, codes) if self._by_row else (texts[0], texts[1])

    def _tables(self, path: str, columns: list[int | str]) -> Iterator[list[pa.Array]]:
        """`columns` of the file, as text, some rows at a time."""
        if (self.format or _format(path)) == "parquet":
            with open_binary(path) as file:
                yield from _parquet(file, path, columns)
            return
        endings = packed(*(end for end in FORMATS if end != ".parquet"))
        for where, stream in streams(path, ("",) if self.format else endings):
            with reading(where):
                kind = self.format or _format(where)
                blocks = text_blocks(stream, where, self.encoding, LONGEST_LINE)
                if kind == "jsonl":
                    yield from _jsonl(blocks, where, columns)
                elif kind in ("tsv", "csv"):
                    yield from self._separated(blocks, where, columns, kind)
                else:
                    raise UserError(
                        f"{where}: found a name of no known format. Allowed: {', '.join(FORMATS)}, but for .parquet "
                        f"also packed, such as .tsv.gz, or a .zip of these. Rename it or set `format`."
                    )

    def _separated(
        self, blocks: Iterator[str], where: str, columns: list[int | str], kind: str
    ) -> Iterator[list[pa.Array]]:
        from pyarrow import csv as arrow_csv

        numbered = isinstance(columns[0], int)
        header = not numbered if self.header is None else self.header
        quoted = kind == "csv" if self.quoted is None else self.quoted
        delimiter = self.delimiter or ("," if kind == "csv" else "\t")
        shape = csv_shape(delimiter, quoted, self.escape)
        if self.escape:
            null = re.compile(rf"(^|{re.escape(delimiter)}){re.escape(self.escape)}N(?={re.escape(delimiter)}|$)", re.M)
            blocks = (null.sub(r"\1", block) for block in blocks)
        if quoted:
            blocks = _checked(blocks, shape, where)
        head = next(blocks, "").lstrip("\n")
        if not head:
            return
        parse = arrow_csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            escape_char=self.escape or False,
            newlines_in_values=quoted or bool(self.escape),
        )
        read = arrow_csv.ReadOptions(
            use_threads=False,  # the same batches each time, and rows have numbers in messages
            block_size=4 * LONGEST_LINE,  # bytes
            autogenerate_column_names=numbered,
            skip_rows=int(numbered and header),
        )
        names = _first_row(head, shape, where)
        if numbered:
            names = [f"f{at}" for at in range(len(names))]
        wanted = [f"f{column - 1}" if isinstance(column, int) else column for column in columns]
        if missing := [column for column, name in zip(columns, wanted, strict=True) if names.count(name) != 1]:
            have = f"1 to {len(names)}" if numbered else _listed(names)
            raise UserError(
                f"{where}, line 1: no column, or more than one, {_listed(missing)}. Found: {have}. Correct `columns`, "
                f"`header` or `delimiter`."
            )
        take = arrow_csv.ConvertOptions(
            include_columns=list(dict.fromkeys(wanted)),
            column_types=dict.fromkeys(wanted, pa.string()),
            strings_can_be_null=False,
        )
        try:
            rest = (block.encode() for block in itertools.chain([head], blocks))
            with arrow_csv.open_csv(_File(rest), read, parse, take) as reader:
                for batch in reader:
                    yield [batch[name] for name in wanted]
        except pa.ArrowInvalid as error:
            raise _bad_table(where, error) from None


def csv_shape(delimiter: str, quoted: bool, escape: str | None = None) -> dict[str, Any]:
    """Options of csv.reader."""
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return {"delimiter": delimiter, "quoting": quoting, "escapechar": escape}


def _first_row(head: str, shape: dict[str, Any], where: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(head, newline=""), **shape))
    except csv.Error as error:
        raise _bad_table(where, error) from None


def _checked(blocks: Iterator[str], shape: dict[str, Any], where: str) -> Iterator[str]:
    """The same blocks, of which csv reads ahead: Arrow takes text after a closing quotation mark as it comes."""
    ahead: deque[str] = deque()

    def lines() -> Iterator[str]:
        for block in blocks:
            ahead.append(block)
            yield from io.StringIO(block, newline="")

    rows = csv.reader(lines(), strict=True, **shape)
    begin = 1  # the line of the row
    try:
        for _ in rows:
            begin = rows.line_num + 1
            while len(ahead) > 1:
                yield ahead.popleft()
    except csv.Error as error:
        if "unexpected end of data" in str(error) or "field limit" in str(error):
            raise UserError(
                f"{where}, line {begin:,}: a quotation mark that is not closed. Expected: two for each value. Fix: "
                f"correct the line, or set `quoted: false` where quotation marks are part of the text."
            ) from None
        raise UserError(
            f"{where}, line {rows.line_num:,}: text after a closing quotation mark ({error}). Expected: the delimiter "
            f"or the end of the line; a quotation mark within a value is written twice. Fix: correct the line; set "
            f'`escape: "\\\\"` where a backslash stands before such marks, or `quoted: false` where they are text.'
        ) from None
    yield from ahead


def _format(name: str) -> str:
    """The format that the name of a file or member ends in, however it is packed; "" where it is none we know."""
    return FORMATS.get("." + unpacked_name(name).rpartition(".")[2], "")


def _of_pair(columns: list[pa.Array], pair: Pair, codes: Codes) -> tuple[pa.Array, pa.Array]:
    """The rows whose languages are those of the pair, in either order."""
    src, tgt, src_lang, tgt_lang = columns
    named = {code: codes(code) for side in (src_lang, tgt_lang) for code in pc.unique(side).to_pylist() if code}

    def is_in(column: pa.Array, lang: str) -> pa.Array:
        return pc.is_in(
            column, value_set=pa.array([code for code, found in named.items() if found == lang], pa.string())
        )

    swapped = pc.and_(is_in(src_lang, pair.tgt), is_in(tgt_lang, pair.src))
    kept = pc.or_(swapped, pc.and_(is_in(src_lang, pair.src), is_in(tgt_lang, pair.tgt)))
    sides = pc.if_else(swapped, tgt, src), pc.if_else(swapped, src, tgt)
    return sides[0].filter(kept), sides[1].filter(kept)


def _listed(names: Iterable[Any]) -> str:
    some = [quoted(name) for name in itertools.islice(names, 31)]
    return ", ".join(some[:30]) + (" ..." if len(some) > 30 else "") or "nothing"


def _bad_table(where: str, error: Exception) -> UserError:
    text = quoted(error, 300)
    if "straddl" in text:
        text = f"a row of more than {LONGEST_LINE:,} characters, or a quotation mark that is not closed"
    return UserError(
        f"{where}: {text} (rows are counted from 1, the header among them, empty lines not). Allowed: as many columns "
        f"in each row. Correct the file, `delimiter`, `quoted` or `escape`."
    )


class _File(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while have < size and (block := next(self._blocks, b"")):
            parts.append(block)
            have += len(block)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


def _jsonl(blocks: Iterator[str], where: str, columns: list[int | str]) -> Iterator[list[pa.Array]]:
    from pyarrow import json as arrow_json

    if isinstance(columns[0], int):
        raise UserError(f"{where}: found `columns` with numbers. Allowed: names, in JSONL. Name the columns.")
    line = 1
    paths: list[Path] = []
    for text in blocks:
        if "\\ud" in text or "\\uD" in text:
            text = ESCAPED_SURROGATE.sub(paired_surrogates, text)
        block = text.encode()
        if block.strip():
            paths = paths or _json_paths(block, where, columns)
            schema = _schema(paths, where)
            try:
                table = arrow_json.read_json(
                    io.BytesIO(block),
                    arrow_json.ReadOptions(use_threads=False, block_size=max(len(block), 1 << 20)),
                    arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
                ).combine_chunks()
            except pa.ArrowInvalid as error:
                raise _bad_json(where, line, block, paths, error) from None
            yield [_text(_field(table, path), where, path) for path in paths]
        line += block.count(b"\n")


def _json_paths(block: bytes, where: str, columns: list[Any]) -> list[Path]:
    """The place of each column, sought in the first lines."""
    if block.lstrip()[:1] == b"[":
        raise UserError(f"{where}: found a JSON array. Allowed: one object a line. Rewrite it with jq -c '.[]'.")
    known: dict[Path, None] = {}
    for row in block.splitlines()[:SAMPLED]:
        try:
            known |= dict.fromkeys(_keys(json.loads(row), ()))
        except (ValueError, RecursionError):
            continue  # told of with its line by the reader
    return [_path(column, known, where) for column in columns]


def _keys(value: Any, above: Path) -> Iterator[Path]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*above, key)
        yield from _keys(inner, (*above, key))


def _path(column: str, known: Iterable[Path], where: str) -> Path:
    """A name with dots is a column of that name where there is one, else a way down."""
    for path in ((column,), tuple(column.split("."))):
        if path in known:
            return path
    raise UserError(
        f"{where}: no column '{column}'. Found: {_listed('.'.join(path) for path in known)}. Correct `columns`."
    )


def _schema(paths: list[Path], where: str) -> pa.Schema:
    tree: dict[str, Any] = {}
    for path in paths:
        here = tree
        for name in path[:-1]:
            here = here.setdefault(name, {})
        if here.setdefault(path[-1], None) is not None:
            raise UserError(f"{where}: column '{'.'.join(path)}' holds fields, no text. Name one of them.")

    def kind(below: dict[str, Any] | None) -> pa.DataType:
        return pa.string() if below is None else pa.struct([(name, kind(inner)) for name, inner in below.items()])

    return pa.schema([(name, kind(below)) for name, below in tree.items()])


def _bad_json(where: str, line: int, block: bytes, paths: list[Path], error: Exception) -> UserError:
    """The error with the line of the file; Arrow counts rows within what it was given."""
    found = str(error)
    for at, row in enumerate(block.split(b"\n"), line):
        try:
            value = json.loads(row) if row.strip() else {}
        except (ValueError, RecursionError) as bad:
            return UserError(f"{where}, line {at:,}: no JSON: {bad}. Needed: one object a line. Correct the line.")
        for path in [(), *(whole[:depth] for whole in paths for depth in range(1, len(whole) + 1))]:
            inner = value
            for name in path:
                inner = inner.get(name) if isinstance(inner, dict) else None
            wanted = str if path in paths else dict
            if inner is not None and not isinstance(inner, wanted):
                place = f"column '{'.'.join(path)}'" if path else "the row"
                found = f"{place} holds {type(inner).__name__}"
                return UserError(
                    f"{where}, line {at:,}: {found}. Allowed: {'text' if wanted is str else 'an object'} or null. "
                    f"Correct the line or `columns`."
                )
    return UserError(f"{where}, from line {line:,}: {found}. Needed: one JSON object a line. Correct the file.")


def _field(table: pa.Table | pa.RecordBatch, path: Path) -> pa.Array:
    column = table[path[0]]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pc.struct_field(column, list(path[1:])) if path[1:] else column


def _text(column: pa.Array, where: str, path: Path) -> pa.Array:
    """`column` as text that is sound UTF-8, which files may claim and not keep."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not any(is_text(kind) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise UserError(
            f"{where}: column '{'.'.join(path)}' has type {kind}. Allowed: text. Name another in `columns`."
        )
    column = column.cast(pa.string())
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # rare enough to go row by row
        raw = column.cast(pa.binary()).to_pylist()
        return pa.array([None if text is None else text.decode("utf-8", "replace") for text in raw], pa.string())
    return column


def _parquet(file: BinaryIO, where: str, columns: list[int | str]) -> Iterator[list[pa.Array]]:
    from pyarrow import parquet

    if isinstance(columns[0], int):
        raise UserError(f"{where}: found `columns` with numbers. Allowed: names, in Parquet. Name the columns.")
    try:
        table = parquet.ParquetFile(file)
        known = dict.fromkeys(_fields(table.schema_arrow, ()))
        paths = [_path(str(column), known, where) for column in columns]
        for batch in table.iter_batches(ROWS, columns=[".".join(path) for path in paths], use_threads=False):
            yield [_text(_field(batch, path), where, path) for path in paths]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{where}: not a sound Parquet file: {quoted(error, 300)}. Needed: a whole one. Make it again."
        ) from None


def _fields(within: Any, above: Path) -> Iterator[Path]:
    for field in within:
        yield (*above, field.name)
        if pa.types.is_struct(field.type):
            yield from _fields(field.type, (*above, field.name))
