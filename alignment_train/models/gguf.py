"""The header of a GGUF file: settings, and name, type and shape of every tensor, read before anything is allocated.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The reader of the
package `gguf` makes an object of each token of the vocabulary, which takes seconds, and does not notice missing bytes.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from pipelines.errors import UserError

SUFFIX = ".gguf"
MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
FEW = 4096  # bytes of an array that is read; the vocabulary is not
DIMENSIONS = 4
EXPERTS = 10_000


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself."""

    settings: dict[str, Any]
    """Such as `general.architecture`; of arrays, the number of entries alone."""
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Type (`F32`, `Q4_K`, ...) and shape of every tensor."""

    @property
    def architecture(self) -> str:
        return str(self.settings.get("general.architecture", ""))


def read(file: Path, place: str) -> Header:
    """The header; UserError where the file is no GGUF, is not whole, or describes what no model can be."""
    if find_spec("gguf") is None:
        raise UserError(
            f"{place}: found a GGUF file, and the package that reads it is not installed. Expected: gguf. Fix: "
            f"pip install gguf."
        )

    def damaged(what: str) -> UserError:
        return UserError(
            f"{place}: {file.name} is damaged: {what}. Expected: a whole GGUF file. Fix: download or copy it again."
        )

    if file.stat().st_size < len(MAGIC):
        raise damaged("it is empty")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != MAGIC:
            raise damaged("it does not begin with the letters GGUF")
        try:
            header, needed = _parse(_Cursor(data))
        except KeyError as error:
            raise damaged(f"found a value of unknown type {error}") from None
        except (struct.error, ValueError, TypeError, OverflowError) as error:
            raise damaged(str(error)) from None
        if needed > len(data):
            raise damaged(f"it has {len(data):,} bytes, and its tensors end at byte {needed:,}")
    _check(header, file, place)
    return header


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends within the {size:,} bytes at byte {self.at:,}")
        self.at += size

    def text(self) -> str:
        begin, size = self.at + 8, self.take("<Q")
        self.skip(size)
        return self.data[begin : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.take(FORMATS[kind])
        inner, count = self.take("<I"), self.take("<Q")
        if inner == STRING:
            for _ in range(count):
                self.skip(self.take("<Q"))
        elif struct.calcsize(FORMATS[inner]) * count <= FEW:
            return [self.take(FORMATS[inner]) for _ in range(count)]
        else:
            self.skip(struct.calcsize(FORMATS[inner]) * count)
        return count


def _parse(cursor: _Cursor) -> tuple[Header, int]:
    """The header, and where the last tensor ends."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    cursor.skip(len(MAGIC))
    if (version := cursor.take("<I")) not in VERSIONS:
        raise ValueError(f"it is of version {version}, and {' and '.join(map(str, VERSIONS))} are read here")
    count, entries = cursor.take("<Q"), cursor.take("<Q")
    settings: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text()
        settings[key] = cursor.value(cursor.take("<I"))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    end = 0
    for _ in range(count):
        name, dimensions = cursor.text(), cursor.take("<I")
        if dimensions > DIMENSIONS:
            raise ValueError(f"tensor {name[:80]} has {dimensions:,} dimensions")
        shape = tuple(cursor.take("<Q") for _ in range(dimensions))[::-1]  # the fastest comes first in the file
        kind, offset = GGMLQuantizationType(cursor.take("<I")), cursor.take("<Q")
        numbers, size = GGML_QUANT_SIZES[kind]
        tensors[name] = (kind.name, shape)
        end = max(end, offset + prod(shape) // numbers * size)
    alignment = settings.get("general.alignment", ALIGNMENT) or ALIGNMENT
    return Header(settings, tensors), -(-cursor.at // alignment) * alignment + end


def _check(header: Header, file: Path, place: str) -> None:
    """UserError for a file that is none of a whole language model that transformers can be asked for."""
    settings = header.settings
    if settings.get("split.count", 1) > 1:
        raise UserError(
            f"{place}: {file.name} is one of {settings['split.count']} parts. Expected: a model in one file. Fix: join "
            f"them with llama.cpp's 'llama-gguf-split --merge'."
        )
    if not header.architecture or not header.tensors:
        raise UserError(
            f"{place}: {file.name} has {len(header.tensors)} tensors and names "
            f"{header.architecture or 'no architecture'}. Expected: a language model. Fix: name another file."
        )
    for name, value, most in _counts(header):
        if not isinstance(value, int) or not 1 <= value <= most:
            raise UserError(
                f"{place}: {file.name}: {name}: found {str(value)[:40]}. Expected: a whole number from 1 to {most:,}. "
                f"Fix: download or copy it again."
            )


def _counts(header: Header) -> Iterator[tuple[str, Any, int]]:
    """(setting, value, largest it can be) of those by which transformers makes lists while it reads."""
    for name, value in header.settings.items():
        if name == f"{header.architecture}.block_count":
            yield name, value, len(header.tensors)
        if name == f"{header.architecture}.expert_count" and value:
            yield name, value, EXPERTS
