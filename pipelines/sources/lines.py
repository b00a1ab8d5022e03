"""Plain text, a file a language, line by line each other's translation: FLORES, NTREX, any Moses corpus -> BITEXT."""

import itertools
from collections.abc import Iterator
from typing import ClassVar

import pyarrow as pa
from pydantic import field_validator

from pipelines.errors import UserError
from pipelines.fetching.paths import filesystem, inside
from pipelines.languages import Pair
from pipelines.sources._files import Codes, FileSource, Rows
from pipelines.sources._hub import names_of
from pipelines.sources._moses import batched, lines_of
from pipelines.text.text_files import Encoding, reading, streams


class Lines(FileSource):
    """Line n of one language's file is the translation of line n of another's; files may be packed (.gz, .zip, ...).

    In `path` `{lang}` stands for what files call a language (`de`, `deu_Latn`, `deu`, or as `languages` says) and
    `{pair}`, where it is there, for both, in either order: `flores200/{lang}.devtest.txt`, `Europarl.{pair}.{lang}`.
    A byte order mark decides the encoding; without one it is UTF-8, where single bytes that are none become U+FFFD.
    """

    citation: ClassVar[str] = "Koehn et al. 2007. Moses: Open Source Toolkit for SMT. ACL. doi 10.3115/1557769.1557821"

    path: str
    encoding: Encoding = None
    """Of files without a byte order mark: windows-1252 and the like; utf-8 where every other byte shall be U+FFFD."""

    @field_validator("path")
    @classmethod
    def _of_a_language(cls, path: str) -> str:
        if "{lang}" not in path:
            raise UserError(f"found '{path}'. Needed: the place of the language, such as 'data/corpus.{{lang}}'.")
        return path

    def check(self, pairs: list[Pair]) -> None:
        if not any(map(self.found, pairs)):
            tried = list(dict.fromkeys(path for both in self._named(pairs[0]) for path in both))
            raise UserError(
                f"source 'lines', path: found no two files of {', '.join(map(str, pairs))}; of {pairs[0]} looked for "
                f"{', '.join(tried[:8])}. Needed: both languages of a pair. Correct the path, or say in `languages` "
                f"what the files call them."
            )

    def found(self, pair: Pair) -> list[str]:
        """The two files of the pair; none where one is missing."""
        there = {path: filesystem(path).isfile(inside(path)) for both in self._named(pair) for path in both}
        return next((list(both) for both in self._named(pair) if all(map(there.__getitem__, both))), [])

    def read(self, pair: Pair, codes: Codes) -> Iterator[Rows]:
        files, read = self.found(pair), 0
        for both in itertools.zip_longest(*map(self._texts, files), fillvalue=pa.array([], pa.string())):
            if len(both[0]) != len(both[1]):
                counts = [read + len(lines) for lines in both]
                raise UserError(
                    f"source 'lines', {self.corpus}: found {counts[0]:,} lines in {files[0]} and {counts[1]:,} in "
                    f"{files[1]}, or more. Allowed: as many in both. Correct the files or name others."
                )
            read += len(both[0])
            yield both

    def _named(self, pair: Pair) -> list[tuple[str, str]]:
        out: dict[tuple[str, str], None] = {}
        for src, tgt in itertools.product(*(names_of(lang, self.languages) for lang in pair)):
            for both in (f"{src}-{tgt}", f"{tgt}-{src}"):
                path = self.path.replace("{pair}", both)
                out[path.replace("{lang}", src), path.replace("{lang}", tgt)] = None
        return list(out)

    def _texts(self, path: str) -> Iterator[pa.Array]:
        """The lines of a file, as many at a time whatever the file."""
        for where, stream in streams(path):
            with reading(where):
                yield from batched(lines_of(stream, where, self.encoding))
