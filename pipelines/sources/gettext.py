"""Trees of gettext catalogues, .po and .mo, packed or not: a company's own translation memory -> BITEXT batches.

Formats: https://www.gnu.org/software/gettext/manual/html_node/PO-Files.html and MO-Files.html
"""

import codecs
import gettext
import glob
import io
import os
import re
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field

from pipelines.errors import UserError
from pipelines.fetching.paths import content_hash, expand, inside, is_address
from pipelines.languages import Pair, parse
from pipelines.sources._files import Codes, FileSource, Rows
from pipelines.text.text_files import packed, reading, streams, text_blocks

LARGEST = 256 << 20  # bytes of a catalogue; the largest of GNOME, KDE and Django have about 3 MiB
ENDINGS = packed(".po", ".mo")
ONE, MANY = 1, 5  # numbers that stand for the singular and for the plural at large
GERMANIC = "n != 1"  # the plural rule where the header states none, as GNU gettext has it
CHARSET = re.compile(rb"Content-Type:[^\n]{0,100}?charset=([\w.:-]+)", re.IGNORECASE)
LANGUAGE = re.compile(r"^Language: *([\w.@-]+)", re.MULTILINE)
PLURAL = re.compile(r"^Plural-Forms:.*?plural *= *([^;\n]+)", re.MULTILINE)
TWO_LETTERS = re.compile(r"[A-Za-z]{2}([_-]\w+)*(@\w+)?(\.[\w-]+)?")
SUFFIX = re.compile(r".*[._-]([a-z]{2,3}(?:[_-][A-Za-z]{2,4})?(?:@[a-z]+)?)")  # messages.de, akismet-pt_BR
MODIFIERS = {
    "latin": "Latn",
    "cyrillic": "Cyrl",
    "devanagari": "Deva",
    "arabic": "Arab",
    "iqtelif": "Latn",
    "shaw": "Shaw",
}
GENERATED = re.compile(r"@(bold)?quot\b")  # English with other quotation marks, made from the msgids by a script
SEPARATORS = re.compile("[\v\f\x1c-\x1e\u2028\u2029]")  # end a line for Python, not for gettext
BAD_LINE = re.compile(
    r'^(?![ \t]*(?:#.*|(?:(?:msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?)[ \t]*)?"(?:[^"\\\n]|\\.)*")?[ \t\r]*$).+',
    re.MULTILINE,
)

Key = tuple[str, str, int]
"""(msgctxt, msgid, number that the form is for: 0 where it has no plural)"""


class Catalogue(NamedTuple):
    """A file of the tree."""

    path: str
    lang: str
    domain: str
    """Its place in the tree with the language left out: what it has in common with those of other languages."""


class Gettext(FileSource):
    """The entries of all catalogues below `root` that are translated, not fuzzy and not obsolete.

    A row joins two languages through msgctxt, msgid and the catalogue's place in the tree. In `source_language` the
    text is the msgid, or what the first catalogue of that language says instead. An entry with plural forms gives a row
    of the forms for 1 (none where a language has but one form) and one of those for 5, as each language's rule has it.

    A catalogue's language is that of the folder above LC_MESSAGES, else of its name or folder where that is a code of
    two letters, else of its header, else of a name of three letters. A .mo beside its .po is not read.
    """

    citation: ClassVar[str] = "GNU gettext manual. https://www.gnu.org/software/gettext/manual/"
    libraries: ClassVar[tuple[str, ...]] = ("polib",)

    root: str
    """A folder, here or at an address."""
    source_language: Annotated[str | None, BeforeValidator(lambda code: None if code is None else parse(code))] = Field(
        default="en", validate_default=True
    )
    """The language of the msgids; null where they are keys and no text."""

    def found(self, pair: Pair) -> list[str]:
        return [item.path for item in self._catalogues() if item.lang in pair]

    def pin(self, pair: Pair, home: Path) -> Any:
        wanted = [item for item in self._catalogues() if item.lang in pair]
        return [[item.domain, item.lang, content_hash(item.path)] for item in wanted]

    def read(self, pair: Pair, codes: Codes) -> Iterator[Rows]:
        domains: dict[str, dict[str, list[str | None]]] = {}
        for item in self._catalogues():
            if item.lang in pair:
                domains.setdefault(item.domain, {}).setdefault(item.lang, []).append(item.path)
        for files in domains.values():
            if self.source_language and self.source_language in pair:
                # It needs no catalogue, and one is enough: en_GB beside en would only say the same again.
                files[self.source_language] = files.get(self.source_language, [None])[:1]
            for src, tgt in product(*(files.get(lang, []) for lang in pair)):
                yield self._joined(pair, src, tgt)

    def _joined(self, pair: Pair, src: str | None, tgt: str | None) -> tuple[list[str], list[str]]:
        """The rows that two catalogues share, in the order of the one that is not of the source language."""
        own = [lang == self.source_language for lang in pair]
        texts = [_texts(path, content_hash(path)) if path else {} for path in (src, tgt)]
        one, other = (1, 0) if own[0] else (0, 1)
        out: tuple[list[str], list[str]] = ([], [])
        for key, (msgid, text) in texts[one].items():
            if key in texts[other] or own[other]:
                out[one].append(text)
                out[other].append(texts[other][key][1] if key in texts[other] else msgid)
        return out

    def _catalogues(self) -> list[Catalogue]:
        """All below `root` in the order of their paths."""
        root = os.path.expanduser(self.root).rstrip("/")
        try:
            below = f"{root if is_address(root) else glob.escape(root)}/**/*.[pm]o"
            paths = [path for path in expand(f"{below}*") if path.endswith(ENDINGS)] or expand(below)
        except UserError as error:
            raise UserError(f"source 'gettext', root: {error}") from None
        codes, out, seen = Codes(self.languages), [], set()
        above = len(inside(root).strip("/")) + 1
        for path in sorted(paths, key=lambda path: (_place(path), ".mo" in path[-7:])):
            place = _place(path)
            if place not in seen and not GENERATED.search(path):  # the .mo of a .po is seen
                seen.add(place)
                out.append(Catalogue(path, *_language(path, inside(place).lstrip("/")[above:], codes)))
        return out


def _place(path: str) -> str:
    """`path` without the ending of a catalogue."""
    return path[: max(path.rfind(".po"), path.rfind(".mo"))]


def _language(path: str, place: str, codes: Codes) -> tuple[str, str]:
    """(language, domain) of the catalogue at `path`, which lies at `place`, without its ending, below the root."""
    *folders, name = place.split("/")
    suffix = SUFFIX.fullmatch(name)
    # What may name the language, and the place without it.
    named = [(name, "/".join((*folders, "*"))), *([(suffix[1], f"{place[: suffix.start(1)]}*")] if suffix else [])]
    for at in range(len(folders) - 1, -1, -1):
        here = (folders[at], "/".join((*folders[:at], "*", *folders[at + 1 :], name)))
        named.insert(0 if folders[at + 1 :] == ["LC_MESSAGES"] else len(named), here)
    lc_messages = folders[-1:] == ["LC_MESSAGES"]
    for at, (code, domain) in enumerate(named):
        clear = (lc_messages and at == 0) or TWO_LETTERS.fullmatch(code) or code in codes
        if clear and (lang := _code(code, codes)):
            return lang, domain
    stated = LANGUAGE.search(_header(path, content_hash(path)))
    if stated and (lang := _code(stated[1], codes)):
        domain = next((domain for code, domain in named if _code(code, codes) == lang), place)
        return lang, domain
    for code, domain in named:
        if lang := _code(code, codes):
            return lang, domain
    raise UserError(
        f"source 'gettext', {path}: its language is not known. Allowed: folders as in de/LC_MESSAGES/app.po, names as "
        f"in de.po or app.de.po, or a header with 'Language: de'. Add the header, move the file out of `root`, or say "
        f"in `languages` what its folder or name means."
    )


def _code(code: str, codes: Codes) -> str | None:
    """Our code of a locale's name: `de_AT.UTF-8`, `sr@latin`."""
    plain, _, modifier = code.partition("@")
    lang = codes(plain.partition(".")[0])
    script = MODIFIERS.get(modifier.lower())
    return f"{lang.partition('_')[0]}_{script}" if lang and script else lang


@lru_cache(maxsize=4096)
def _header(path: str, digest: str) -> str:
    return next((texts[0] for msgid, texts in _entries(path) if msgid == ("", "", "")), "")


@lru_cache(maxsize=32)
def _texts(path: str, digest: str) -> dict[Key, tuple[str, str]]:
    """{key: (text in the source language, text)}; the first of entries that repeat a key counts."""
    out: dict[Key, tuple[str, str]] = {}
    rule: Callable[[int], int] | None = None
    for (context, msgid, many), forms in _entries(path):
        if not msgid:
            rule = _rule(path, forms[0])
        elif not many:
            if forms[0].strip():
                out.setdefault((context, msgid, 0), (msgid, forms[0]))
        else:
            rule = rule or _rule(path, "")
            at = {ONE: rule(ONE), MANY: rule(MANY)}
            for number, source in ((ONE, msgid), (MANY, many)):
                shared = number == ONE and at[ONE] == at[MANY]  # one form for all is that of the plural at large
                if not shared and at[number] < len(forms) and forms[at[number]].strip():
                    out.setdefault((context, msgid, number), (source, forms[at[number]]))
    return out


def _rule(path: str, header: str) -> Callable[[int], int]:
    """The number of the plural form for n, as the header's Plural-Forms has it."""
    stated = PLURAL.search(header)
    expression = stated[1].strip() if stated else GERMANIC
    if expression == "EXPRESSION":  # nobody filled in the template
        expression = GERMANIC
    try:
        rule = gettext.c2py(expression)  # type: ignore[attr-defined]  # no eval: it knows only the operators of C
        if min(rule(ONE), rule(MANY)) >= 0:
            return rule
    except (ValueError, ZeroDivisionError, RecursionError, OverflowError):
        pass
    raise UserError(
        f"{path}: found Plural-Forms '{expression[:100]}'. Allowed: an expression in n, such as 'n != 1'. Correct the "
        f"header."
    )


def _entries(path: str) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    """((msgctxt, msgid, msgid_plural), [msgstr, further forms]), the header first, as ("", "", "")."""
    data = b""
    for where, stream in streams(path):
        with reading(where):
            data += stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(f"{path}: found more than {LARGEST:,} bytes. Allowed: smaller catalogues. Split it.")
    if data[:4] in (b"\xde\x12\x04\x95", b"\x95\x04\x12\xde"):
        yield from _mo(path, data)
    else:
        yield from _po(path, "".join(text_blocks(io.BytesIO(data), path, _charset(data[: 1 << 16]))))


def _charset(header: bytes) -> str | None:
    """The charset that the header states; None where that is UTF-8, or none that is known."""
    stated = CHARSET.search(header)
    try:
        charset = codecs.lookup(stated[1].decode()).name if stated else "utf-8"
    except LookupError:  # CHARSET, where nobody filled in the template
        return None
    return None if charset == "utf-8" else charset


def _po(path: str, text: str) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    import polib

    text = SEPARATORS.sub(" ", text)
    bad = BAD_LINE.search(text)
    try:
        if bad:
            raise OSError(f"(line {text.count(chr(10), 0, bad.start()) + 1}): {bad[0][:100]!r}")
        found = polib.pofile(text + "\n\n")  # two line breaks: it would take a text without for a path
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"{path}: not a PO file: {error}. Allowed: comments, msgctxt, msgid, msgid_plural and msgstr with texts in "
            f"quotes. Correct the line; msgfmt --check finds it, too."
        ) from None
    yield ("", "", ""), ["\n".join(f"{key}: {value}" for key, value in found.metadata.items())]
    for entry in found:
        if not entry.obsolete and not entry.fuzzy and entry.msgid:
            forms = [entry.msgstr_plural[at] for at in sorted(entry.msgstr_plural)] or [entry.msgstr]
            yield (entry.msgctxt or "", entry.msgid, entry.msgid_plural), forms


def _mo(path: str, data: bytes) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    order = "<" if data[:1] == b"\xde" else ">"
    try:
        count, ids, texts = struct.unpack_from(f"{order}3I", data, 8)
        if count * 16 > len(data):
            raise struct.error(f"{count:,} entries in {len(data):,} bytes")
        tables = [struct.unpack_from(f"{order}{2 * count}I", data, at) for at in (ids, texts)]
    except struct.error as error:
        raise UserError(f"{path}: not a whole MO file: {error}. Needed: what msgfmt writes. Make it again.") from None
    spans = list(zip(*(table[part::2] for table in tables for part in (0, 1)), strict=True))
    if any(a + at > len(data) or b + to > len(data) for a, at, b, to in spans):
        raise UserError(f"{path}: not a whole MO file: texts end after it. Needed: what msgfmt writes. Make it again.")
    if sum(a + b for a, _, b, _ in spans) > 2 * LARGEST:  # they may overlap
        raise UserError(f"{path}: found texts of more than {2 * LARGEST:,} bytes. Allowed: fewer. Do not use it.")
    header = next((data[to : to + b] for a, _, b, to in spans if not a), b"")
    charset = _charset(header) or "utf-8"
    yield ("", "", ""), [header.decode(charset, "replace")]
    for a, at, b, to in spans:
        context, _, msgid = data[at : at + a].decode(charset, "replace").rpartition("\x04")
        msgid, _, many = msgid.partition("\0")
        if msgid:
            yield (context, msgid, many), data[to : to + b].decode(charset, "replace").split("\0")
