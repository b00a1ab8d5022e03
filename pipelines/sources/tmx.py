"""TMX 1.1 to 1.4b, translation memories: .tmx, packed or not, .zip of them -> BITEXT batches.

Format: https://www.gala-global.org/tmx-14b (TMX 1.4b, 2005).
"""

from collections.abc import Iterator
from itertools import product
from typing import BinaryIO, ClassVar

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.sources._files import Codes, Listed, Rows, Segments
from pipelines.sources._xml import LONGEST, Handler, parse
from pipelines.text.text_files import packed, reading, streams

CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})  # their content is markup of the original; <hi>'s is text
BREAKS = frozenset({"lb", "pb", "cb"})  # types of <ph> that stand for white space: line, page and column break
MOST_ROWS = 100  # of one unit: variants of the one language times those of the other


class Tmx(Listed):
    """Translation memories in TMX. A unit gives a row for each two of its variants in the languages of the pair.

    Of a segment the content of <bpt>, <ept>, <it>, <ph> and <ut> goes, with the sub-flows in it, and that of <hi>
    stays, as the standard says. A variant whose language is not known is in no pair.
    """

    citation: ClassVar[str] = "LISA OSCAR. 2005. TMX 1.4b Specification. https://www.gala-global.org/tmx-14b"

    def read(self, pair: Pair, codes: Codes) -> Iterator[Rows]:
        for path in self.found(pair):
            for where, stream in streams(path, packed(".tmx")):
                with reading(where):
                    yield from read_tmx(stream, pair, where, codes)


def read_tmx(stream: BinaryIO, pair: Pair, where: str, codes: Codes | None = None) -> Iterator[Segments]:
    """(segments in pair.src, segments in pair.tgt) of an unpacked TMX, some units at a time, in the order of the file.

    where: names the file in messages. codes: what the file calls languages, where those are no usual codes. Segments
    keep their line breaks. Memory is bounded by `_xml.LONGEST`, whatever the file.
    """
    units = _Units(where, pair, codes or Codes())
    for _ in parse(stream, units):
        if units.src:
            yield units.src, units.tgt
            units.src, units.tgt = [], []
    if not units.is_tmx:
        raise UserError(f"{where}: found no element <tmx>. Needed: a file in TMX. Correct `paths`.")


class _Units(Handler):
    """Collects the segments of the pair."""

    def __init__(self, where: str, pair: Pair, codes: Codes):
        super().__init__(where)
        self.pair, self.codes = pair, codes
        self.src: list[str] = []
        self.tgt: list[str] = []
        self.is_tmx = False
        self._unit: tuple[list[str], list[str]] = ([], [])  # texts so far, of either side
        self._side: list[str] | None = None  # where the segment of this variant goes; None: not of this pair
        self._parts: list[str] | None = None  # of the segment that is open
        self._size = 0  # characters of it
        self._inside = 0  # elements open, from the outermost that holds a code

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._inside:
            self._inside += 1
        elif self._parts is not None:
            if name in CODES:
                self._inside = 1
                if attributes.get("type") in BREAKS:
                    self._parts.append(" ")
        elif name == "seg":
            if self._side is not None:
                self._parts, self._size = [], 0
        elif name == "tuv":
            lang = self.codes(attributes.get("xml:lang") or attributes.get("lang") or "")
            self._side = self._unit[0] if lang == self.pair.src else self._unit[1] if lang == self.pair.tgt else None
        elif name == "tu":
            self._unit, self._side = ([], []), None
        elif name == "tmx":
            self.is_tmx = True

    def end(self, name: str) -> None:
        if self._inside:
            self._inside -= 1
        elif name == "seg" and self._parts is not None and self._side is not None:
            self._side.append("".join(self._parts))
            self._parts = None
            src, tgt = map(len, self._unit)
            if max(src, tgt, src * tgt) > MOST_ROWS:
                raise self.fail(
                    f"found {src} and {tgt} variants of the two languages in a unit, which make {src * tgt} rows",
                    f"{MOST_ROWS} variants and rows a unit. Remove the unit",
                )
        elif name == "tu":
            for src, tgt in product(*self._unit):
                self.src.append(src)
                self.tgt.append(tgt)
            self._unit, self._side = ([], []), None

    def data(self, text: str) -> None:
        if self._parts is not None and not self._inside:
            self._parts.append(text)
            self._size += len(text)
            if self._size > LONGEST:
                raise self.fail(f"found a segment of more than {LONGEST:,} characters", "shorter ones. Remove it")
