"""What sources that read files share: where files lie, what they call languages, and the rows."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from pipelines.errors import UserError
from pipelines.fetching.paths import content_hash, expand
from pipelines.languages import Pair, parse
from pipelines.progress import ProgressCallback, no_progress
from pipelines.schema import BITEXT
from pipelines.sources import Source
from pipelines.text.normalise import c1_replaced, has_c1

ROWS = 20_000  # per batch; decides the bytes of the shards
MOST_BYTES = 256 << 20  # held for a batch; only segments of many thousand characters come near
SEPARATORS = b"\0\t\n\v\f\r\x1c\x1d\x1e"  # would end a line or a column further on
SPACES = np.array([0x20 if code in SEPARATORS else code for code in range(256)], np.uint8)
UNICODE_SEPARATORS = "[\\x{2028}\\x{2029}]"
LONGEST_CODE = 35  # characters of a language code (RFC 5646, section 4.4.1)
MOST_NAMED = 20  # strange codes that an error lists

# ISO 639-2's bibliographic codes, which older translation tools write, as their terminological twins.
BIBLIOGRAPHIC = {
    "alb": "sqi", "arm": "hye", "baq": "eus", "bur": "mya", "chi": "zho", "cze": "ces", "dut": "nld", "fre": "fra",
    "geo": "kat", "ger": "deu", "gre": "ell", "ice": "isl", "mac": "mkd", "mao": "mri", "may": "msa", "per": "fas",
    "rum": "ron", "slo": "slk", "tib": "bod", "wel": "cym",
}  # fmt: skip

Segments = tuple[list[str], list[str]]
Rows = Segments | tuple[pa.Array, pa.Array]
"""Segments in `pair.src` and `pair.tgt`, as many of one as of the other."""


class Codes:
    """What files call languages -> our codes; `known` comes first, in any case. It keeps what it did not know."""

    def __init__(self, known: Mapping[str, str] | None = None):
        self._found: dict[str, str | None] = {}
        self._known = {code.casefold(): lang for code, lang in (known or {}).items()}
        self.strange: set[str] = set()

    def __call__(self, code: str) -> str | None:
        """Our code, or None where this is no known language; each code is looked up once."""
        if code not in self._found:
            if len(self._found) > 10_000:  # no file has so many languages
                return None
            self._found[code] = self._looked_up(code)
            if self._found[code] is None and len(self.strange) < MOST_NAMED:
                self.strange.add(code[:LONGEST_CODE])
        return self._found[code]

    def __contains__(self, code: str) -> bool:
        """Whether the recipe says what `code` means."""
        return code.casefold() in self._known

    def _looked_up(self, code: str) -> str | None:
        written = code.strip().casefold()
        if written in self._known:
            return self._known[written]
        head, mark, rest = written.replace("_", "-").partition("-")
        if head == "x" or len(code) > LONGEST_CODE:  # private use means what its writer meant
            return None
        try:
            return parse(BIBLIOGRAPHIC.get(head, head) + mark + rest)
        except ValueError:
            return None


class FileSource(Source):
    """Base of sources whose rows lie in files of this machine or at addresses such as s3://bucket/x.

    What identifies the data is the SHA-256 of every file, so a changed file remakes what was made of it. A path that
    is not absolute is relative to the working directory.
    """

    corpus: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$")]
    """The name under which the rows are counted, without its version."""
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.+-]*$")] = "local"
    licence: str = "not stated"
    """Best as SPDX has it: CC-BY-4.0."""
    url: str = ""
    """Where the data come from."""
    cite: str = ""
    """Who made them and where they are described."""
    languages: dict[str, str] = {}
    """{what the files say: the language} where that is no code of ISO 639 or BCP 47, such as {ENU: en}."""

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: dict[str, str]) -> dict[str, str]:
        return {code: parse(lang) for code, lang in languages.items()}

    @property
    def corpora_named(self) -> list[str] | None:
        return [f"{self.corpus}/{self.version}"]

    @abstractmethod
    def found(self, pair: Pair) -> list[str]:
        """The files that may hold rows of `pair`, in the order in which they are read."""

    @abstractmethod
    def read(self, pair: Pair, codes: Codes) -> Iterator[Rows]:
        """The rows of `pair`, some at a time."""

    def prepare(self, pair: Pair, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Read every file once, for its hash; later calls find that done."""
        paths = self.found(pair)
        for done, path in enumerate(paths):
            on_progress(done, len(paths), path)
            content_hash(path)

    def pin(self, pair: Pair, home: Path) -> Any:
        return [content_hash(path) for path in self.found(pair)]

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        codes, rows = Codes(self.languages), 0
        for batch in batches(self.read(pair, codes), pair, f"{self.corpus}/{self.version}"):
            rows += batch.num_rows
            yield batch
        if not rows and codes.strange:
            raise UserError(
                f"source '{self.name}', {self.corpus}, {pair}: found no row of this pair, and languages that are not "
                f"known: {', '.join(sorted(codes.strange))}. Allowed: codes of ISO 639 or BCP 47. Say what these mean "
                f"in the source's `languages`, such as {{{min(codes.strange)}: de}}, or remove the pair."
            )

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        stated = {"version": self.version, "licence": self.licence, "url": self.url, "citation": self.cite}
        files = [{"url": path, "sha256": content_hash(path)} for path in self.found(pair)]
        return {f"{self.corpus}/{self.version}": {**stated, "files": files}}


class Listed(FileSource):
    """Base of sources whose files a recipe lists."""

    paths: Annotated[list[str], Field(min_length=1)]
    """Paths, addresses or globs of either; `**` is any depth."""

    def found(self, pair: Pair) -> list[str]:
        return list(dict.fromkeys(path for pattern in self.paths for path in self._expanded(pattern)))

    def _expanded(self, pattern: str) -> list[str]:
        try:
            return expand(pattern)
        except UserError as error:
            raise UserError(f"source '{self.name}', paths: {error}") from None


def batches(found: Iterable[Rows], pair: Pair, corpus: str) -> Iterator[pa.RecordBatch]:
    """BITEXT batches of ROWS rows, however `found` was cut; null becomes empty, line breaks and tabs one space."""
    held: list[pa.RecordBatch] = []
    for rows in found:
        src, tgt = (_tidy(side) for side in rows)
        held.append(pa.record_batch([src, tgt], names=["src", "tgt"]))
        count = sum(batch.num_rows for batch in held)
        if count >= ROWS or sum(batch.nbytes for batch in held) > MOST_BYTES:
            whole = _joined(held)
            keep = count % ROWS if count >= ROWS else 0
            for start in range(0, count - keep, ROWS):
                yield _bitext(whole.slice(start, min(ROWS, count - keep - start)), pair, corpus)
            held = [whole.slice(count - keep)] if keep else []
    if whole := _joined(held) if held else None:
        yield _bitext(whole, pair, corpus)


def _tidy(texts: list[str] | pa.Array) -> pa.Array:
    """Without nulls, separators, C1 controls and outer spaces.

    Most batches have none, and looking is 5 times as fast as replacing.
    """
    column = pa.array(texts, pa.string()) if isinstance(texts, list) else texts.cast(pa.string())
    column = pc.fill_null(column, "")
    _, starts, text = column.buffers()
    spans = np.frombuffer(starts, np.int32)[column.offset : column.offset + len(column) + 1] if len(column) else []
    if len(spans) and spans[-1] > spans[0]:
        used = np.frombuffer(text, np.uint8)[spans[0] : spans[-1]]
        if (used < 0x20).any():
            own = pa.py_buffer((spans - spans[0]).astype(np.int32))
            used = SPACES[used]
            column = pa.Array.from_buffers(pa.string(), len(column), [None, own, pa.py_buffer(used)])
        if has_c1(used):
            column = c1_replaced(column)
        if _has_unicode_separator(used):
            column = pc.replace_substring_regex(column, UNICODE_SEPARATORS, " ")
    return pc.ascii_trim(column, " ")


def _has_unicode_separator(text: np.ndarray) -> bool:
    """Whether U+2028 or U+2029 is in UTF-8 bytes: E2 80 A8, E2 80 A9."""
    return bool((((text[2:] | 1) == 0xA9) & (text[1:-1] == 0x80) & (text[:-2] == 0xE2)).any())


def _joined(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    return held[0] if len(held) == 1 else pa.concat_batches(held)


def _bitext(rows: pa.RecordBatch, pair: Pair, corpus: str) -> pa.RecordBatch:
    same = [pa.repeat(pa.scalar(text, pa.string()), rows.num_rows) for text in (*pair, corpus)]
    return pa.record_batch([rows["src"], rows["tgt"], *same], schema=BITEXT)
