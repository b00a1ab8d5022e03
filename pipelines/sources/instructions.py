"""Multi-parallel instruction data: the same instructions in several languages, by id -> conversations and BITEXT.

Formats: Bactrian-X (https://huggingface.co/datasets/MBZUAI/Bactrian-X), one file a language of rows with id,
instruction, input and output; Alpaca (https://github.com/tatsu-lab/stanford_alpaca), a list without ids: rows of one
place in the list mean the same.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, no_progress
from pipelines.sources import Source
from pipelines.sources._files import ROWS, Codes, batches
from pipelines.sources._hub import HubData, names_of
from pipelines.text.text_files import objects, packed, reading, repaired, streams

JSON = packed(".json", ".jsonl")
Role = Literal["id", "instruction", "input", "output", "output_lang"]


class Instructions(HubData, Source):
    """Instruction data of a hub id or of local files, with `{lang}` in `config` or `data_files`.

    A row without an instruction or without an output is no exercise; nor is one whose output is, by its `output_lang`,
    in another language. As bitext it gives the instructions of equal id, which is what AFP contrasts (Li et al. 2024,
    arXiv 2311.08089, its code), without the input: named under `sources`, it is a corpus like others.
    """

    citation: ClassVar[str] = (
        "Haonan Li et al. 2023. Bactrian-X: Multilingual Replicable Instruction-Following Models with Low-Rank "
        "Adaptation. arXiv 2305.15011"
    )
    online: ClassVar[bool] = True

    path: str = Field("", validate_default=False)
    """A hub id, or a folder; without it, `data_files` names local files."""
    columns: dict[Role, str] = {}
    """What the data call these, where they call them otherwise: {instruction: inputs, output: targets}."""

    @property
    def local(self) -> bool:
        return not self.path or super().local

    @property
    def named(self) -> str:
        return super().named if self.corpus or self.path else "instructions"

    @property
    def corpora_named(self) -> list[str] | None:
        return [self.named]

    def check(self, pairs: list[Pair]) -> None:
        if "{lang}" not in self.data_files + self.config:
            raise UserError(
                f"source 'instructions': found data_files '{self.data_files}' and config '{self.config}'. Needed: the "
                f"place of the language in one of them, such as data_files: 'data/{{lang}}.jsonl' or config: "
                f"'{{lang}}'. Write it so."
            )
        if self.local and not any(all(self._there(lang, Path()) for lang in pair) for pair in pairs):
            raise UserError(
                f"source 'instructions', {self.named}: '{self.data_files or self.config}' is there for both languages "
                f"of no pair of the recipe. Needed: those of one pair at least. Correct it, or say in `languages` what "
                f"the data call them."
            )

    def prepare(self, pair: Pair, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Fix the commit, and which configuration or files are the languages'; files are downloaded."""
        for done, lang in enumerate(pair):
            on_progress(done, 2, f"{self.named}, {lang}")
            self.identity(home, self._codes(lang))
            if self.data_files and not self.local:
                self.paths(home, self._codes(lang))

    def pin(self, pair: Pair, home: Path) -> Any:
        return [self.identity(home, self._codes(lang)) for lang in pair]

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        return list(pairs) if self.moved(home) else []

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        both = [self.about(home, self._codes(lang)) for lang in pair]
        merged = dict(both[0])
        if "files" in merged:
            merged["files"] = [file for facts in both for file in facts["files"]]
        return {self.corpus_version(home): merged}

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        """The instructions of each id that both languages have, in the order of the first."""
        if not all(self._there(lang, home) for lang in pair):
            return iter(())
        src, tgt = ({key: text for key, text, *_ in self._rows(lang, home) if text} for lang in pair)
        rows = ((text, tgt[key]) for key, text in src.items() if key in tgt)
        lists = iter(lambda: list(itertools.islice(rows, ROWS)), [])
        return batches(
            (([a for a, _ in some], [b for _, b in some]) for some in lists), pair, self.corpus_version(home)
        )

    def instructions(self, lang: str, home: Path) -> Iterator[tuple[int | str, str, str, str]]:
        codes, exercises = Codes(self.languages), 0
        for key, instruction, given, output, output_lang in self._rows(lang, home):
            if instruction and output and (not output_lang or codes(output_lang) == lang):
                exercises += 1
                yield key, instruction, given, output
        if not exercises:
            raise UserError(
                f"source 'instructions', {self.named}, {lang}: found no row with an instruction and an output in this "
                f"language. Needed: at least one. Check `columns`, or remove the pairs of this language."
            )

    def _rows(self, lang: str, home: Path) -> Iterator[tuple[str, str, str, str, str]]:
        """(id, instruction, input, output, output_lang) of every row; absent ones are empty, an absent id the place."""
        keys = [self.columns.get(role, role) for role in ("id", "instruction", "input", "output", "output_lang")]
        for place, row in enumerate(self._records(lang, home)):
            if keys[1] not in row:
                raise UserError(
                    f"source 'instructions', {self.named}, {lang}: row {place + 1} has no '{keys[1]}'. Found: "
                    f"{', '.join(map(str, row))}. Say in `columns` what the data call it."
                )
            number, *texts = (row.get(key) for key in keys)
            yield (
                str(place if number is None else number),
                *("" if text is None else str(text).strip() for text in texts),
            )  # type: ignore[misc]

    def _records(self, lang: str, home: Path) -> Iterator[dict[str, Any]]:
        if not self._there(lang, home):
            raise UserError(
                f"source 'instructions', {self.named}: '{self.data_files or self.config}' is there for no name of "
                f"{lang}: {', '.join(self._codes(lang)['lang'])}. Needed: every language of the recipe. Remove its "
                f"pairs, or say in `languages` what the data call it."
            )
        paths = self.paths(home, self._codes(lang)) if self.data_files else []
        if paths and all(
            path.lower().endswith(JSON) for path in paths
        ):  # read here: `datasets` wants columns of one type
            for path in paths:
                for where, stream in streams(path, JSON):
                    with reading(where):
                        yield from (row for _, row in objects(where, stream))
        else:
            for table in self.tables(home, self._codes(lang)):
                yield from map(repaired, table.to_pylist())

    def _there(self, lang: str, home: Path) -> bool:
        """Whether there are data of the language."""
        if self.local and self.data_files:
            return bool(self._local_files(self._codes(lang)))
        return self.chosen(home, self._codes(lang)) is not None

    def _codes(self, lang: str) -> dict[str, list[str]]:
        return {"lang": names_of(lang, self.languages)}
