"""XLIFF 1.2, 2.0 and 2.1, files of translation tools: .xlf, .xliff, packed or not, .zip of them -> BITEXT batches.

Formats: https://docs.oasis-open.org/xliff/v1.2/os/xliff-core.html and
https://docs.oasis-open.org/xliff/xliff-core/v2.1/xliff-core-v2.1.html
"""

from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.sources._files import Codes, Listed, Rows, Segments
from pipelines.sources._xml import LONGEST, Handler, parse
from pipelines.text.text_files import packed, reading, streams

ENDINGS = packed(".xlf", ".xliff", ".sdlxliff", ".mxliff")
CODES = frozenset(
    {"bpt", "ept", "it", "ph"}
)  # 1.2: their content is markup of the original; that of <g>, <mrk> is text
BREAKS = frozenset({"lb", "pb", "x-br", "xlf:lb", "xlf:pb"})  # ctype (1.2), subType (2.x): stand for white space


class Xliff(Listed):
    """Translated units of XLIFF files: <trans-unit> of 1.2, <segment> of 2.x. The file says its languages, a source or
    target with `xml:lang` its own.

    A unit counts where it has a target that is not empty and no state in `skip_states`; alternatives and matches
    beside a unit do not count. Placeholders and codes go, text that they mark stays.
    """

    citation: ClassVar[str] = "OASIS. 2008, 2018. XLIFF 1.2 and 2.1. https://docs.oasis-open.org/xliff/"

    skip_states: list[str] = ["new", "needs-translation", "needs-l10n", "needs-adaptation", "initial"]
    """Values of state, state-qualifier (1.2) and subState (2.x) whose units are left out, where one is stated."""

    def read(self, pair: Pair, codes: Codes) -> Iterator[Rows]:
        for path in self.found(pair):
            for where, stream in streams(path, ENDINGS):
                with reading(where):
                    yield from read_xliff(stream, pair, where, codes, frozenset(self.skip_states))


def read_xliff(stream: BinaryIO, pair: Pair, where: str, codes: Codes, skip: frozenset[str]) -> Iterator[Segments]:
    """(segments in pair.src, segments in pair.tgt) of an unpacked XLIFF, some units at a time, in the file's order."""
    units = _Units(where, pair, codes, skip)
    for _ in parse(stream, units):
        if units.src:
            yield units.src, units.tgt
            units.src, units.tgt = [], []
    if not units.is_xliff:
        raise UserError(f"{where}: found no element <xliff>. Needed: a file in XLIFF. Correct `paths`.")


class _Units(Handler):
    """Collects the segments of the pair."""

    def __init__(self, where: str, pair: Pair, codes: Codes, skip: frozenset[str]):
        super().__init__(where)
        self.pair, self.codes, self.skip = pair, codes, skip
        self.src: list[str] = []
        self.tgt: list[str] = []
        self.is_xliff = self._is_2 = False
        self._above: list[str] = []  # names of the open elements
        self._translate = [True]  # whether to, by element
        self._stated = {"source": "", "target": ""}  # languages, by the file
        self._langs = self._stated  # those of the unit
        self._texts: dict[str, str] = {}  # source and target of the unit
        self._skipped = False  # by its state
        self._parts: list[str] | None = None  # of the source or target that is open
        self._size = 0  # characters of it
        self._inside = 0  # elements open, from the outermost that holds a code

    def start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._above[-1] if self._above else ""
        self._above.append(name)
        self._translate.append({"no": False, "yes": True}.get(attributes.get("translate", ""), self._translate[-1]))
        if self._parts is not None:
            if self._inside:
                self._inside += 1
                return
            self._inside = int(name in CODES)
            if {attributes.get("ctype"), attributes.get("subType")} & BREAKS or name == "cp":
                self._parts.append(" ")  # <cp> is a character that XML forbids
        elif name in ("source", "target") and parent in ("trans-unit", "segment"):
            self._parts, self._size = [], 0
            if lang := attributes.get("xml:lang"):
                self._langs = {**self._langs, name: lang}
            if name == "target":
                self._state(attributes)
        elif name in ("trans-unit", "segment"):
            self._texts, self._langs, self._skipped = {}, self._stated, False
            self._state(attributes)
        elif name == "file" and not self._is_2:
            self._stated = {
                "source": attributes.get("source-language", ""), "target": attributes.get("target-language", ""),
            }  # fmt: skip
        elif name == "xliff":
            self.is_xliff, self._is_2 = True, "srcLang" in attributes
            self._stated = {"source": attributes.get("srcLang", ""), "target": attributes.get("trgLang", "")}

    def end(self, name: str) -> None:
        self._above.pop()
        translate = self._translate.pop()
        if self._inside:
            self._inside -= 1
        elif self._parts is not None:
            if name in ("source", "target") and self._above[-1] in ("trans-unit", "segment"):
                self._texts[name], self._parts = "".join(self._parts), None
        elif name in ("trans-unit", "segment") and translate and not self._skipped:
            self._emit(self._texts.get("source", ""), self._texts.get("target", ""))

    def data(self, text: str) -> None:
        if self._parts is not None and not self._inside:
            self._parts.append(text)
            self._size += len(text)
            if self._size > LONGEST:
                raise self.fail(f"found a segment of more than {LONGEST:,} characters", "shorter ones. Remove it")

    def _state(self, attributes: dict[str, str]) -> None:
        stated = {attributes.get(name) for name in ("state", "state-qualifier", "subState")}
        self._skipped = self._skipped or bool(stated & self.skip)

    def _emit(self, source: str, target: str) -> None:
        if not target.strip():
            return
        if not all(self._langs.values()):
            raise self.fail(
                f"found a target, but no language of the {'target' if self._langs['source'] else 'source'}",
                "files that state source-language and target-language (1.2) or srcLang and trgLang (2.x). Add them",
            )
        langs = tuple(self.codes(lang) for lang in self._langs.values())
        if langs == tuple(self.pair):
            self.src.append(source)
            self.tgt.append(target)
        elif langs == (self.pair.tgt, self.pair.src):
            self.src.append(target)
            self.tgt.append(source)
