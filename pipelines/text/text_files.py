"""Files of text -> their text: archives unpacked, encodings recognised, line ends made alike.

Every source, task and evaluation that reads files does so through here. What is damaged or cannot be read is named
with its file and, where it has one, its line.
"""

import bz2
import codecs
import csv
import errno
import gzip
import io
import itertools
import json
import lzma
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Annotated, Any, BinaryIO, cast

import pyarrow as pa
from pydantic import AfterValidator

from pipelines.errors import UserError, quoted
from pipelines.fetching.paths import open_binary
from pipelines.text.normalise import has_c1, without_c1

BLOCK = 1 << 20  # bytes read at a time
LONGEST_LINE = 16 << 20  # characters
LONGEST_NAME = 1_000  # characters of the name of a member in messages
LARGEST = 64 << 30  # bytes unpacked; the largest files of OPUS (NLLB, CCMatrix) have about 30 GiB
DENSEST = 200  # unpacked over packed size; text gives 3 to 10, deflate's most is 1,032
SMALL = 10 << 20  # bytes unpacked below which the ratio does not matter
PACKED = (".gz", ".bz2", ".xz", ".zst")
"""What the names of packed files end in. How a file is packed is seen from its first bytes, whatever its name."""
BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose BOM it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SNIFFED = 1 << 16  # bytes by which an encoding without a byte order mark is recognised
BINARY, WIDE, WRONG = 0.3, 0.1, 0.02
"""Shares of characters that no text has (controls, unassigned ones): from BINARY on it is no UTF-8, from WIDE on it may
be UTF-16 or UTF-32, below WRONG it is."""
LEGACY = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874", "koi8_r",
    "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr",
)  # fmt: skip
ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?")
SURROGATE = re.compile("[\ud800-\udfff]")
RAW_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")

# What zipfile and the decompressors raise where bytes are not what they should be.
DAMAGED = (
    EOFError, OSError, UnicodeDecodeError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    NotImplementedError,
)  # fmt: skip
DAMAGE = re.compile(r"Invalid data stream|(Truncated|Invalid) compressed|ZSTD")
"""Messages of bzip2 and Arrow about damaged bytes. They come as OSError without a number; so do those of networks."""

csv.field_size_limit(LONGEST_LINE)  # Python's own limit of 128 KiB would end a run in a traceback


def _known(name: str) -> str:
    """Validator of a setting: a text encoding that Python knows."""
    try:
        "x".encode(name)
    except (LookupError, ValueError):
        raise UserError(
            f"found '{name}'. Expected: an encoding that Python knows, such as utf-8, windows-1252 or gb18030. Fix: "
            f"correct it."
        ) from None
    return name


Encoding = Annotated[str, AfterValidator(_known)] | None
"""A setting: the encoding of files without a byte order mark; None where that is to be seen from the file."""


def packed(*endings: str) -> tuple[str, ...]:
    """`endings` of file names, alone and followed by those of PACKED."""
    return tuple(ending + more for ending in endings for more in ("", *PACKED))


def unpacked_name(name: str) -> str:
    """The name of a file, or of a member as messages have it, in small letters and without what PACKED adds."""
    name = name.lower().removesuffix("'")
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what a damaged archive raises into a sentence that names it."""
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            damage = error.errno == errno.EINVAL or (error.errno is None and DAMAGE.match(str(error)))
            if not damage:  # EINVAL is a place before the file's beginning; all others are the disk's or the network's
                raise
        raise UserError(
            f"{where}: not a sound archive: {quoted(error, 200)}. Needed: a whole .gz, .bz2, .xz or .zst, or a .zip "
            f"without a password, by deflate. Get it again."
        ) from None


def streams(path: str, endings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, BinaryIO]]:
    """(name for messages, unpacked bytes) of a file, packed or not, or of each member of a .zip that ends in `endings`.

    What it is is seen from its first bytes. Members are read in the order of their names and never unpacked to disk,
    so that their names can lead nowhere.

    Raises:
        UserError: something is damaged, or unpacks to more than DENSEST times its size.
    """
    with reading(path), open_binary(path) as raw:
        head = raw.read(4)
        raw.seek(0)
        if head in (b"PK\3\4", b"PK\5\6"):
            with zipfile.ZipFile(raw) as package:
                for name in _members(package, path, endings):
                    where = f"{path}, '{quoted(name, LONGEST_NAME)}'"
                    with package.open(name) as member:
                        yield where, _unpacked(_buffered(member), where)
        else:
            yield path, _unpacked(_buffered(raw), path)


def decoded(
    stream: IO[bytes], where: str, encoding: str | None = None, head: bytes = b"", strict: bool = False
) -> Iterator[str]:
    """The text of `stream`, some at a time; `head` is what has been read of it already.

    A byte order mark decides the encoding, else `encoding`, else the zero bytes of UTF-16 and UTF-32 do; the rest is
    UTF-8. There single bytes that are none become U+FFFD.

    Raises:
        UserError: more bytes are no UTF-8 than characters beyond ASCII are, so that it is probably another encoding;
            any byte is none, if `strict`; not where `encoding` says that it is UTF-8.
    """
    block = head or stream.read(BLOCK)
    name, mark = _encoding(block, where, encoding)
    block = block[mark:]
    if name != "utf-8":
        decoder = codecs.getincrementaldecoder(name)("replace")
        while block:
            yield decoder.decode(block)
            block = stream.read(BLOCK)
        yield decoder.decode(b"", True)
        return
    rest, lines, place, right, wrong = b"", 1, mark, 0, 0
    first = ""
    while True:
        data, final = rest + block, not block
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            text, used = codecs.utf_8_decode(data, "replace", final)
            before = data[: error.start]
            line = lines + max(before.count(b"\n"), before.count(b"\r"))
            first = first or f"line {line:,}: byte 0x{data[error.start]:02X} at byte {place + error.start + 1:,}"
            kept = data[:used].count("\ufffd".encode()) + 3 * len(RAW_SURROGATE.findall(data))
            wrong += text.count("\ufffd") - kept
            right += len(text) - len(text.encode("ascii", "ignore")) - text.count("\ufffd")
            if (strict or wrong > max(1, right)) and not encoding:
                likely = _likely(data)
                raise UserError(
                    f"{where}, {first} is not UTF-8; the file looks like {likely}. Expected: UTF-8, or UTF-16 or "
                    f"UTF-32 with a byte order mark. Fix: convert the file (iconv -f {likely} -t UTF-8), or, in the "
                    f"sources lines and table, set `encoding: {likely}`; `encoding: utf-8` reads such bytes as U+FFFD."
                ) from None
        yield text
        if final:
            return
        lines, place = lines + max(text.count("\n"), text.count("\r")), place + used
        rest, block = data[used:], stream.read(BLOCK)


def text_blocks(
    stream: IO[bytes], where: str, encoding: str | None = None, longest: int | None = None, strict: bool = False
) -> Iterator[str]:
    """The text of `stream` in blocks of whole lines, each ended by a line feed; C1 controls as `without_c1` has them.

    Lines end in LF or CRLF, and a CR within a line is a space, so that all files of a corpus have the same lines. A
    file without any LF, as of the classic Mac, has lines that end in CR.
    """
    rest, end, longest = "", "", longest or LONGEST_LINE
    for text in itertools.chain(decoded(stream, where, encoding, strict=strict), (None,)):
        rest += text or ""
        if not end and "\n" in rest:
            end = "\n"
        elif not end and "\r" in rest and (text is None or len(rest) > longest):
            end = "\r"
        if end == "\r":
            rest = rest.replace("\n", " ").replace("\r", "\n")
        cut = len(rest) if text is None else rest.rfind("\n") + 1 if end else 0
        if len(rest) - cut > longest:
            raise UserError(
                f"{where}: found a line of more than {longest:,} characters. Allowed: shorter ones. Remove it, or do "
                f"not use this file."
            )
        if cut:
            block, rest = rest[:cut], rest[cut:]
            if "\r" in block:
                block = block.replace("\r\n", "\n").replace("\r", " ")
            if has_c1(block):
                block = "\n".join(map(without_c1, block.split("\n")))
            yield block if block.endswith("\n") else f"{block}\n"


def numbered_lines(stream: IO[bytes], where: str, strict: bool = False) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of every line, as `text_blocks` has them."""
    blocks = text_blocks(stream, where, strict=strict)
    return enumerate((line for block in blocks for line in block[:-1].split("\n")), 1)


def file_lines(path: str, endings: tuple[str, ...] = ("",)) -> Iterator[tuple[str, str]]:
    """(place for messages, line) of a file, or of the members of a .zip, in which every byte must be UTF-8."""
    for where, stream in streams(path, endings):
        with reading(where):
            for number, line in numbered_lines(stream, where, strict=True):
                yield f"{where}, line {number:,}", line


def parse_json(where: str, text: str) -> Any:
    """The value of a JSON text: half a surrogate pair becomes U+FFFD, C1 controls as `without_c1` has them."""
    try:
        value = json.loads(text)
        return repaired(value) if "\\u" in text or not text.isascii() else value
    except (ValueError, RecursionError) as error:  # a ValueError, too, of numbers of more than 4,300 digits
        raise UserError(
            f"{where}: not readable as JSON: {error}. Needed: a list of objects, or one a line. Correct it."
        ) from None


def repaired(value: Any) -> Any:
    """`value`, all texts in it with U+FFFD for lone surrogates and without C1 controls."""
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", without_c1(value))
    if isinstance(value, list):
        return [repaired(item) for item in value]
    if isinstance(value, dict):
        return {repaired(key): repaired(item) for key, item in value.items()}
    return value


def paired_surrogates(found: re.Match[str]) -> str:
    """A surrogate escape that stands alone as U+FFFD; two that are one character, and text that only looks so, stay."""
    before = found.string[max(0, found.start() - 64) : found.start()]
    is_escaped = (len(before) - len(before.rstrip("\\"))) % 2
    is_whole = len(found[0]) == 12 and found[0][3:4] in "89abAB"
    return found[0] if is_escaped or is_whole else "\\ufffd" * (len(found[0]) // 6)


def objects(where: str, stream: IO[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of a JSON list, or of JSON lines."""
    lines = numbered_lines(stream, where)
    number, first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    if first.lstrip().startswith("["):
        found = parse_json(where, "\n".join([first, *(line for _, line in lines)]))
        for count, item in enumerate(found, 1):
            yield f"{where}, element {count}", _object(f"{where}, element {count}", item)
        return
    for count, line in itertools.chain([(number, first)], lines):
        if line.strip():
            place = f"{where}, line {count}"
            yield place, _object(place, parse_json(place, line))


def csv_rows(lines: Iterable[str], where: str, delimiter: str, quotes: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, values) of the rows of a table that are not empty."""
    rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE, strict=True)
    try:
        yield from ((rows.line_num, row) for row in rows if row)
    except csv.Error as error:
        raise UserError(
            f"{where}, line {rows.line_num:,}: {error}. Expected: values in quotation marks end before the delimiter, "
            f"and a quotation mark within is written twice. Fix: correct the line, or write the table with tabs (.tsv)."
        ) from None


def check_size(where: str, packed: int, unpacked: int, largest: int = LARGEST) -> None:
    """Raise UserError where something unpacks to more than text does."""
    if unpacked > largest or unpacked > max(SMALL, DENSEST * packed):
        raise UserError(
            f"{where}: unpacks {packed:,} bytes to {unpacked:,} or more. Allowed: at most {DENSEST} times as many, and "
            f"{largest:,}. Do not use this file."
        )


def check_sizes(where: str, members: list[zipfile.ZipInfo]) -> None:
    """Raise UserError where a member of a .zip, or all together, unpack to more than text does; they may overlap."""
    for member in members:
        check_size(f"{where}, '{quoted(member.filename)}'", member.compress_size, member.file_size)
    end = max((member.header_offset + member.compress_size for member in members), default=0)
    check_size(where, end, sum(member.file_size for member in members), 2 * LARGEST)  # two sides of a corpus


def _encoding(head: bytes, where: str, stated: str | None) -> tuple[str, int]:
    """(name, bytes of the mark) of the encoding of a file that begins with `head`."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return name, len(mark)
    if stated:
        name = codecs.lookup(stated).name
        return {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(name, name), 0
    if head[257:262] == b"ustar":
        raise UserError(f"{where}: a tar archive. Expected: a text file. Fix: unpack it and name the files in it.")
    return _unmarked(head[:SNIFFED], where) if b"\0" in head[:SNIFFED] else "utf-8", 0


def _unmarked(head: bytes, where: str) -> str:
    """The encoding of a text without a byte order mark in which there are zero bytes."""
    share = _strange(head.decode("utf-8", "replace"))
    if share >= WIDE:
        found: dict[str, int] = {}
        for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
            try:
                text = codecs.getincrementaldecoder(name)().decode(head)
            except UnicodeDecodeError:
                continue
            if text and _strange(text) < WRONG:
                found[name] = sum(char in "\t\n\r" or " " <= char < "\x7f" for char in text)
        best = max(found, key=lambda name: found[name], default="")
        # Read in the wrong order, a Latin text is one of Chinese characters, and neither has the other's spaces.
        if best and found[best] > 4 * max((n for name, n in found.items() if name != best), default=0):
            return best
    if share >= BINARY:
        raise UserError(
            f"{where}: found zero bytes, but no byte order mark; it is no UTF-8, and whether it is UTF-16 or no text "
            f"at all is not clear. Expected: UTF-8, or UTF-16 or UTF-32 with a byte order mark. Fix: save it as UTF-8."
        )
    return "utf-8"


def _strange(text: str) -> float:
    """The share of characters that no text has: C0 controls, replacements, unassigned ones, those of private use."""
    strange = sum(
        char == "\ufffd" or (char < " " and char not in "\t\n\r") or unicodedata.category(char) in ("Cn", "Co")
        for char in text
    )
    return strange / max(1, len(text))


def _likely(data: bytes) -> str:
    """The name of the encoding that `data`, which is no UTF-8, probably has."""
    from charset_normalizer import from_bytes

    lines = b"\n".join(line for line in re.split(rb"[\r\n]+", data) if not line.isascii())[:SNIFFED]
    best = from_bytes(lines, cp_isolation=[*LEGACY]).best()
    name = best.encoding if best else "cp1252"
    if name.startswith("cp12") and lines.decode(name, "replace") == lines.decode("cp1252", "replace"):
        name = "cp1252"  # most German is the same in several
    return re.sub(r"^cp(?=125)", "windows-", name).replace("_", "-")


def _object(where: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise UserError(f"{where}: found {type(item).__name__}. Needed: an object. Correct it.")
    return item


def _buffered(raw: Any) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)


def _members(package: zipfile.ZipFile, path: str, endings: tuple[str, ...]) -> list[str]:
    wanted = []
    for member in package.infolist():
        hidden = member.filename.startswith("__MACOSX/") or member.filename.rpartition("/")[2].startswith(".")
        if member.filename.lower().endswith(endings) and not hidden and not member.is_dir():
            wanted.append(member)
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile(f"'{member.filename}' is encrypted, or packed by another method")
    check_sizes(path, wanted)
    if not wanted:
        names = ", ".join(f"'{quoted(name)}'" for name in package.namelist()[:10]) or "nothing"
        raise UserError(f"{path}: found {names}. Needed: members that end in {', '.join(endings)}. Correct `paths`.")
    return sorted({member.filename for member in wanted})


def _unpacked(stream: io.BufferedReader, where: str) -> BinaryIO:
    head = stream.peek(10)[:10]
    if head.startswith(b"\x1f\x8b"):
        content: Any = gzip.GzipFile(fileobj=stream)
    elif BZIP2.match(head):
        content = bz2.BZ2File(stream)
    elif head.startswith(b"\xfd7zXZ\0"):
        content = lzma.LZMAFile(stream)  # noqa: SIM115
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        content = pa.CompressedInputStream(stream, "zstd")
    else:
        return stream
    return cast(BinaryIO, _Bounded(content, stream, where))


class _Bounded(io.RawIOBase):
    """The content of a packed stream, which is refused where it is a bomb."""

    def __init__(self, content: Any, packed: io.BufferedReader, where: str):
        self._content, self._packed, self._where, self._out = content, packed, where, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._content.read(size if size >= 0 else None)
        self._out += len(data)
        if self._out > SMALL:
            check_size(self._where, self._packed.tell(), self._out)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
