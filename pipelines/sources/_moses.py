"""Moses packages, zip files of two line-aligned texts -> their licence, their number of rows, BITEXT batches."""

import itertools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError, quoted
from pipelines.languages import Pair
from pipelines.schema import BITEXT
from pipelines.text.text_files import check_sizes, text_blocks

ROWS = 20_000  # per batch; decides the bytes of the shards
NOT_STATED = "not stated in the package"
MARKS = "\0\t\v\f\x1c\x1d\x1e\u2028\u2029"  # one by one they are found five times as fast as by INSIDE
INSIDE = re.compile(r"[\0\t\v\f\x1c-\x1e\u2028\u2029]+")  # would end a line or a column further on
UTF_8 = "utf-8"
"""Stated, as packages are not the user's to convert: what is no UTF-8 in them becomes U+FFFD."""


def check_zip(file: Path) -> None:
    """ValueError where `file` is no zip, unpacks to something absurd, or a CRC does not match."""
    try:
        with zipfile.ZipFile(file) as package:
            check_sizes("package", package.infolist())
            bad = package.testzip()
    except UserError:
        raise
    except Exception as error:  # a damaged zip makes zipfile raise almost anything
        raise UserError(
            f"not a sound zip file: {quoted(error, 200)}. Needed: a Moses package. Report it to the server."
        ) from None
    if bad:
        raise UserError(
            f"not a sound zip file: wrong CRC of '{quoted(bad)}'. Needed: a whole one. Report it to the server."
        )


def licence(package: zipfile.ZipFile) -> str:
    """The first line of the package's LICENSE."""
    if "LICENSE" not in package.namelist():
        return NOT_STATED
    with package.open("LICENSE") as stream:
        text = stream.read(1 << 16).decode("utf-8", errors="replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else NOT_STATED


class Moses:
    """The texts in an opened package whose files end in `.<package>.<code>`, found by name; nothing is unpacked to
    disk."""

    def __init__(self, archive: zipfile.ZipFile, where: str, package: str, codes: tuple[str, str]):
        self._archive, self._where, self._package = archive, where, package
        self._names = [self._member(f".{package}.{code}") for code in codes]

    def count(self) -> int:
        """Lines of either side; ValueError where the two have different numbers."""
        counts = []
        for name in self._names:
            with self._archive.open(name) as stream:
                counts.append(sum(block.count("\n") for block in text_blocks(stream, f"'{name}'", UTF_8)))
        if counts[0] != counts[1]:
            raise self._unequal(*counts)
        return counts[0]

    def read(self, pair: Pair, corpus: str, most: int | None = None) -> Iterator[pa.RecordBatch]:
        """BITEXT batches of the first `most` rows; what lies behind these is not even unpacked.

        Bytes that are no UTF-8 become U+FFFD, tabs and other separators inside a line one space.
        """
        left, read = most, 0
        with self._archive.open(self._names[0]) as src, self._archive.open(self._names[1]) as tgt:
            sides = (
                batched(lines_of(stream, f"'{name}'", UTF_8))
                for stream, name in zip((src, tgt), self._names, strict=True)
            )
            for both in itertools.zip_longest(*sides, fillvalue=()):
                counts = [len(lines) if left is None else min(left, len(lines)) for lines in both]
                if counts[0] != counts[1]:  # known of whole packages, not of those of which only a part is here
                    raise self._unequal(*(read + count for count in counts))
                rows = counts[0]
                read += rows
                same = [pa.repeat(pa.scalar(text, pa.string()), rows) for text in (*pair, corpus)]
                yield pa.record_batch([*(lines.slice(0, rows) for lines in both), *same], schema=BITEXT)
                if left is not None and not (left := left - rows):
                    return

    def _unequal(self, src: int, tgt: int) -> UserError:
        return UserError(
            f"{self._where}, {self._package}: found {src:,} lines in '{self._names[0]}' and {tgt:,} in "
            f"'{self._names[1]}'. Allowed: as many in both. Remove this corpus or name another version."
        )

    def _member(self, ending: str) -> str:
        names = self._archive.namelist()
        found = [name for name in names if name.endswith(ending) and "/" not in name]
        if len(found) != 1:
            raise UserError(
                f"{self._where}: found {', '.join(names[:10])}. Needed: one file '<corpus>{ending}'. Remove this "
                f"corpus or name another version."
            )
        return found[0]


def lines_of(stream: IO[bytes], name: str, encoding: str | None = None) -> Iterator[pa.Array]:
    """The lines of a stream, some at a time; a last line without a line break counts."""
    for block in text_blocks(stream, name, encoding):
        if any(mark in block for mark in MARKS):
            block = INSIDE.sub(" ", block)
        data = block.encode()
        breaks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        offsets = np.concatenate([[0], breaks - np.arange(len(breaks))]).astype(np.int32)
        values = pa.py_buffer(data.replace(b"\n", b""))
        yield pa.StringArray.from_buffers(len(breaks), pa.py_buffer(offsets), values)


def batched(pieces: Iterator[pa.Array]) -> Iterator[pa.Array]:
    """The same lines, ROWS at a time."""
    held: list[pa.Array] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= ROWS:
            whole = pa.concat_arrays(held)
            for start in range(0, count - ROWS + 1, ROWS):
                yield whole.slice(start, ROWS)
            count %= ROWS
            held = [whole.slice(len(whole) - count)]
    if count:
        yield pa.concat_arrays(held)
