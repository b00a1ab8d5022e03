"""XML of any encoding and origin -> events for a handler, block by block, in bounded memory.

Refused: entity declarations (entities that unfold without end, or read other files), tags of more than LONGEST bytes
and elements more than DEEPEST deep. An external DTD is never read. Repaired: bytes that do not decode and characters
that XML does not allow become U+FFFD, surrogates written as two references one character, and entities that only HTML
knows (`&nbsp;`) what they are there. XML 1.0: https://www.w3.org/TR/xml/
"""

import re
from collections.abc import Iterator
from html.entities import html5
from typing import Any, BinaryIO
from xml.parsers import expat

from pipelines.errors import UserError, quoted
from pipelines.text import text_files
from pipelines.text.normalise import WINDOWS_1252

LONGEST = 16 << 20  # bytes of a tag or characters of a segment; the longest line that `opus` takes, too
DEEPEST = 200  # elements within elements; real files have about 10
UNMARKED = {b"<\0\0\0": "utf-32-le", b"\0\0\0<": "utf-32-be", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
"""What an XML file begins with, by its encoding, where it has no byte order mark."""
DECLARED = re.compile(rb"\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([\w.:-]+)[\"']")
FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # XML 1.0, production 2
CONTROLS = bytes(code for code in range(0x20) if code not in b"\t\n\r")
REFERENCES = re.compile(r"(?:&#(?:x[0-9A-Fa-f]{1,8}|[0-9]{1,10});)+")
REFERENCE = re.compile(r"&#(x?)([0-9A-Fa-f]+);")
# At the end of a block: half of two surrogates, a reference that is not closed yet, or the one after the other.
UNFINISHED = re.compile(r"&#(?:x[dD][89abAB]..|5(?:529[6-9]|5[3-9]\d\d|6[0-2]\d\d|63[01]\d));(?:&[^;]*)?$|&[^;]*$")
LONGEST_REFERENCE = 32  # characters


class Handler:
    """What a reader of one format overrides. `fail` stops with the line; names come without their prefix."""

    def __init__(self, where: str):
        self.where = where
        self.parser: Any = None

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def end(self, name: str) -> None: ...

    def data(self, text: str) -> None: ...

    def fail(self, found: str, allowed: str) -> UserError:
        return UserError(f"{self.where}, line {self.parser.CurrentLineNumber:,}: {found}. Allowed: {allowed}.")


def parse(stream: BinaryIO, handler: Handler) -> Iterator[None]:
    """Read `stream` to its end; yields after each block, for the caller to take what has come."""
    parser = handler.parser = expat.ParserCreate("utf-8")
    parser.UseForeignDTD(True)  # an entity that nobody declared is then told of, not an error
    parser.buffer_text = True
    parser.buffer_size = 1 << 16
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise handler.fail(f"found elements {depth} deep", f"{DEEPEST}. Do not use this file")
        handler.start(name.rpartition(":")[2] if ":" in name else name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        handler.end(name.rpartition(":")[2] if ":" in name else name)

    def declared(name: str, *_: Any) -> None:
        raise handler.fail(
            f"found the declaration of an entity, '{quoted(name)}', which can unfold without end or read other files",
            "the entities of XML and HTML. Write the text in its place, or do not use this file",
        )

    def skipped(name: str, in_dtd: bool) -> None:
        if not in_dtd:
            handler.data(html5.get(f"{name};", f"&{name};"))

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = handler.data
    parser.EntityDeclHandler = declared
    parser.SkippedEntityHandler = skipped
    fed = 0
    try:
        for text in _text(stream, handler):
            if "&" in text:
                text = REFERENCES.sub(_mended, text)
            data = text.encode()
            parser.Parse(data, False)
            fed += len(data)
            if fed - parser.CurrentByteIndex > LONGEST:
                raise handler.fail(f"found a tag or comment of more than {LONGEST:,} bytes", "shorter ones")
            yield
        parser.Parse("", True)
        yield
    except expat.ExpatError as error:
        raise UserError(
            f"{handler.where}, line {error.lineno:,}: not well-formed XML: {expat.ErrorString(error.code)}. Needed: a "
            f"whole, well-formed file. Repair it there or get it again."
        ) from None


def _text(stream: BinaryIO, handler: Handler) -> Iterator[str]:
    """The decoded text, some at a time; no block ends inside a reference."""
    head, rest = stream.read(text_files.BLOCK), ""
    for part in text_files.decoded(stream, handler.where, _encoding(head, handler), head):
        text = rest + _allowed(part)
        open_ = UNFINISHED.search(text, max(0, len(text) - LONGEST_REFERENCE))
        cut = open_.start() if open_ else len(text)
        yield text[:cut]
        rest = text[cut:]
    yield rest


def _encoding(head: bytes, handler: Handler) -> str | None:
    """As the zeros of UTF-16 and UTF-32 show, else as declared; None where it is UTF-8 or has a byte order mark."""
    if unmarked := next((name for begin, name in UNMARKED.items() if head.startswith(begin)), None):
        return unmarked
    if not (found := DECLARED.match(head)):
        return None
    declared = found[1].decode()
    try:
        if b"<".decode(declared) == "<" and "<".encode(declared) == b"<":
            return None if declared.lower() in ("utf-8", "utf8") else declared
    except (LookupError, UnicodeError):
        pass
    if declared.lower().startswith(("utf-16", "utf-32", "ucs")):
        return None  # a declaration that was left when the file was saved anew: its bytes show that it is neither
    raise UserError(f"{handler.where}, line 1: no encoding '{declared}'. Allowed: what Python knows. Save it as UTF-8.")


def _allowed(text: str) -> str:
    """`text` with U+FFFD for what XML forbids; the regular expression, which is slow, only where there is any."""
    try:
        data = text.encode()
    except UnicodeEncodeError:  # surrogates, which some encodings can spell
        return FORBIDDEN.sub("\ufffd", text)
    clean = len(data.translate(None, CONTROLS)) == len(data) and b"\xef\xbf\xbe" not in data
    return text if clean and b"\xef\xbf\xbf" not in data else FORBIDDEN.sub("\ufffd", text)


def _mended(found: re.Match[str]) -> str:
    """References to characters, those that XML forbids put right: two surrogates are one character, else U+FFFD.

    Those to C1 controls are to windows-1252, as in HTML.
    """
    written = [int(digits, 16 if x else 10) for x, digits in REFERENCE.findall(found[0])]
    codes = [ord(WINDOWS_1252[code]) if code in WINDOWS_1252 else code for code in written]
    if codes == written and not any(code > 0xFFFD or code < 0x20 or 0xD800 <= code < 0xE000 for code in codes):
        return found[0]
    out: list[str] = []
    for code in codes:
        if 0xDC00 <= code < 0xE000 and out and "\ud800" <= out[-1] < "\udc00":
            out[-1] = chr(0x10000 + ((ord(out[-1]) - 0xD800) << 10) + code - 0xDC00)
        else:
            out.append(chr(code) if code < 0x110000 else "\ufffd")
    return "".join(f"&#{ord(character)};" for character in FORBIDDEN.sub("\ufffd", "".join(out)))
