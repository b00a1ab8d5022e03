"""What tasks on files and data sets share: JSON lines, CoNLL columns or tables, a language each -> records with places.

A record's place (`de.jsonl, line 3`) is for messages.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from pipelines.errors import UserError
from pipelines.languages import parse
from pipelines.progress import ProgressCallback, no_progress
from pipelines.sources._hub import HubData, names_of
from pipelines.tasks import Languages, Task
from pipelines.text.text_files import numbered_lines, objects, packed, reading, repaired, streams, unpacked_name

JSON = packed(".jsonl", ".json")
CONLL = packed(".conll", ".conllu", ".iob2")
MASSIVE = """af-ZA am-ET ar-SA az-AZ bn-BD ca-ES cy-GB da-DK de-DE el-GR en-US es-ES fa-IR fi-FI fr-FR he-IL hi-IN hu-HU
hy-AM id-ID is-IS it-IT ja-JP jv-ID ka-GE km-KH kn-IN ko-KR lv-LV ml-IN mn-MN ms-MY my-MM nb-NO nl-NL pl-PL pt-PT ro-RO
ru-RU sl-SL sq-AL sv-SE sw-KE ta-IN te-IN th-TH tl-PH tr-TR ur-PK vi-VN zh-CN zh-TW"""
"""Locales of MASSIVE 1.1 (FitzGerald et al. 2023, arXiv 2204.08582), which names files and configurations by them."""

Record = tuple[str, Any]
"""(place, what is there)."""


class DataTask(HubData, Task):
    """Base of tasks whose examples lie in a hub's data set or in local files; `{lang}` stands for a language's code.

    Of rows that say in a field `partition` or `split` what they belong to, those of `split` are read.
    """

    endings: ClassVar[tuple[str, ...]] = JSON
    mixed: ClassVar[bool] = False
    """Whether rows of several languages may lie in one file, each saying which it is in."""

    train: Languages
    """The languages trained on; what is learnt is to be seen in others."""

    @property
    def cells(self) -> list[str]:
        return self.train

    @property
    def corpora_named(self) -> list[str] | None:
        return [self.named]

    def check(self) -> None:
        if "{lang}" not in self.data_files + self.config and len(self.train) > 1 and not self.mixed:
            raise UserError(
                f"task '{self.name}', {self.named}: found data_files '{self.data_files}' and config '{self.config}' "
                f"for {len(self.train)} languages. Needed: the place of the language in one of them, such as "
                f"data_files: '{{lang}}.train.conll' or config: '{{lang}}'. Write it so."
            )
        if self.local:
            for lang in self.train:
                self._required(lang, Path())

    def prepare(self, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Fix the commit, and which configuration or files are the languages'; files are downloaded."""
        for done, lang in enumerate(self.train):
            on_progress(done, len(self.train), f"{self.named}, {lang}")
            self.identity(home, self._codes(lang))
            if self.data_files and not self.local:
                self.paths(home, self._codes(lang))

    def pin(self, home: Path) -> Any:
        return [[lang, self.identity(home, self._codes(lang))] for lang in self.train]

    def provenance(self, home: Path) -> dict[str, dict[str, Any]]:
        found = [self.about(home, self._codes(lang)) for lang in self.train]
        merged = dict(found[0])
        if "files" in merged:
            merged["files"] = list({file["url"]: file for facts in found for file in facts["files"]}.values())
        return {self.corpus_version(home): merged}

    def records(self, lang: str, home: Path) -> Iterator[Record]:
        """JSON objects and rows of tables as dicts; blocks of CoNLL as (line, text), as `blocks` gives them."""
        self._required(lang, home)
        if self.data_files or (self.local and not os.path.isdir(self._here)):
            paths = self.paths(home, self._codes(lang))
            if all(path.lower().endswith(self.endings) for path in paths):
                for path in paths:
                    for where, stream in streams(path, self.endings):
                        with reading(where):
                            if unpacked_name(where).endswith(CONLL):
                                yield from blocks(where, stream)
                            else:
                                yield from self._wanted(objects(where, stream))
                return
        rows = (repaired(row) for table in self.tables(home, self._codes(lang)) for row in table.to_pylist())
        yield from self._wanted((f"{self.named}, {lang}, row {n}", row) for n, row in enumerate(rows, 1))

    def none_found(self, lang: str) -> UserError:
        return UserError(
            f"task '{self.name}', {self.named}, {lang}: found no example. Needed: at least one. Check data_files, "
            f"split ('{self.split}') and `languages`, or remove the language from `train`."
        )

    def _wanted(self, records: Iterator[Record]) -> Iterator[Record]:
        for where, row in records:
            part = row.get("partition", row.get("split"))
            if part is None or part == self.split:
                yield where, row

    def has(self, cell: str, home: Path | None) -> bool:
        return self._named_for(cell, home)

    def _named_for(self, lang: str, home: Path | None) -> bool:
        codes = self._codes(lang)
        if self.local:
            return bool(self._local_files(codes)) if self.data_files else self.chosen(Path(), codes) is not None
        return home is None or self.chosen(home, codes) is not None

    def _required(self, lang: str, home: Path) -> None:
        codes = self._codes(lang)
        if not self._named_for(lang, home):
            raise UserError(
                f"task '{self.name}', {self.named}: '{self.data_files or self.config}' is there for no name of {lang}: "
                f"{', '.join(codes['lang'])}. Needed: every language of `train`. Remove it, or say in `languages` what "
                f"the data call it."
            )

    def _codes(self, lang: str) -> dict[str, list[str]]:
        names = names_of(lang, self.languages)
        return {"lang": list(dict.fromkeys([*names, *locales().get(lang, ())]))}


@cache
def locales() -> dict[str, list[str]]:
    """What MASSIVE calls our languages."""
    out: dict[str, list[str]] = {}
    for locale in MASSIVE.split():
        out.setdefault(parse(locale), []).append(locale)
    return out


class Block(tuple[dict[str, str], list[tuple[int, list[str]]]]):
    """A sentence in CoNLL columns: {comment: its text}, and (line number, columns) of every word."""

    __slots__ = ()


def blocks(where: str, stream: BinaryIO) -> Iterator[Record]:
    """(place, Block) of sentences with a word a line, between blank lines."""
    comments, words, first = dict[str, str](), list[tuple[int, list[str]]](), 1
    for number, line in numbered_lines(stream, where):
        if not line.strip():
            if words:
                yield f"{where}, line {first}", Block((comments, words))
            comments, words, first = {}, [], number + 1
        elif line.startswith("#") and not words:
            name, mark, value = line[1:].partition("=") if "=" in line.partition(":")[0] else line[1:].partition(":")
            if mark:
                comments[name.strip()] = value.strip()
        elif line.partition("\t")[0].isdecimal():
            words.append((number, line.split("\t")))
        elif not line[0].isdecimal():  # 3-4 joins words and 3.1 is none of the sentence: neither has a label of its own
            raise UserError(
                f"{where}, line {number}: found {line[:80]!r}. Needed: a number, a word and its labels with tabs "
                f"between, a comment before the words, or a blank line after them. Correct it."
            )
    if words:
        yield f"{where}, line {first}", Block((comments, words))
