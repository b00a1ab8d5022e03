"""Classification: one of a few labels for a text, or for several such as premise and hypothesis.

Sources of data in these forms: XNLI (Conneau et al. 2018, arXiv 1809.05053), PAWS-X (Yang et al. 2019, arXiv
1908.11828), the intents of MASSIVE (FitzGerald et al. 2023, arXiv 2204.08582) and xSID (van der Goot et al. 2021, arXiv
2105.07316).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from pydantic import AfterValidator, BeforeValidator, Field

from pipelines.errors import UserError
from pipelines.tasks import Example, Message
from pipelines.tasks._files import CONLL, JSON, Block, DataTask, Record
from pipelines.text.text_files import csv_rows, numbered_lines, packed, reading, streams, unpacked_name

TABLES = packed(".tsv", ".csv")


def _mapping(labels: Any) -> Any:
    if isinstance(labels, list):
        return {str(label): str(label) for label in labels}
    return {str(said): meant for said, meant in labels.items()} if isinstance(labels, dict) else labels


def _distinct(labels: dict[str, str]) -> dict[str, str]:
    if len({_plain(label) for label in labels.values()}) < 2 or not all(map(_plain, labels.values())):
        raise UserError(f"found {', '.join(labels.values())}. Allowed: two labels or more, none empty. Add one.")
    return labels


class Classification(DataTask):
    """`{path: xnli, data_files: '{lang}.dev.tsv', header: [premise, hypothesis, label], text: [premise, hypothesis]}`.

    Of CoNLL the columns are a sentence's comments: `{data_files: '{lang}.valid.conll', label: intent}` for xSID.
    """

    endings: ClassVar[tuple[str, ...]] = (*JSON, *CONLL, *TABLES)
    stop: ClassVar[tuple[str, ...]] = ("\n",)

    labels: Annotated[dict[str, str], BeforeValidator(_mapping), AfterValidator(_distinct)]
    """The labels; where the data say them otherwise than an answer should, {what they say: the answer}."""
    text: Annotated[list[str], BeforeValidator(lambda text: [text] if isinstance(text, str) else text)] = Field(
        ["text"], min_length=1
    )
    """The columns of the text or texts; of several the prompt says which is which."""
    label: str = "label"
    """The column of the label."""
    header: list[str] = []
    """What the columns of a table without a header are."""
    prompt: str = "Classify the text."
    """The system message: what is asked."""
    show_labels: bool = True
    """Whether the labels are named in the prompt; else they are learnt from the examples."""

    @property
    def choices(self) -> list[str]:
        return list(dict.fromkeys(self.labels.values()))

    @property
    def wording(self) -> str:
        return "labels_shown" if self.show_labels else "labels_unseen"

    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        corpus, count = self.corpus_version(home), 0
        for where, found in self.records(cell, home):
            row = cast("dict[str, Any]", found[0] if isinstance(found, Block) else found)
            wanted = (*self.text, self.label)
            if lacking := [name for name in wanted if row.get(name) is None or not str(row[name]).strip()]:
                raise UserError(
                    f"{where}: found no {' and no '.join(lacking)} in {', '.join(map(str, row)) or 'nothing'}. Needed: "
                    f"{', '.join(wanted)}. Correct it, or `text`, `label` and `header`."
                )
            said = str(row[self.label]).strip()
            if said not in self.labels:
                raise UserError(
                    f"{where}: found label {said!r}. Allowed: {', '.join(self.labels)}. Correct it, or add it to "
                    f"`labels`."
                )
            count += 1
            given = {name: str(row[name]).strip() for name in self.text}
            number = row.get("id")
            item = "\n".join(given.values()) if number is None else str(number)
            yield Example(item, cell, cell, corpus, given, self.labels[said])
        if not count:
            raise self.none_found(cell)

    def records(self, lang: str, home: Path) -> Iterator[Record]:
        paths = self.paths(home, self._codes(lang)) if self.data_files or self.local else []
        if not paths or not all(path.lower().endswith(TABLES) for path in paths):
            yield from super().records(lang, home)
            return
        for path in paths:
            for where, stream in streams(path, TABLES):
                with reading(where):
                    yield from self._wanted(self._lines(where, stream))

    def render(self, example: Example) -> list[Message]:
        asked = f"{self.prompt} Answer with one of these: {', '.join(self.choices)}."
        texts = example.given
        said = "\n".join(f"{name}: {text}" for name, text in texts.items()) if len(texts) > 1 else texts[self.text[0]]
        system = asked if self.show_labels else self.prompt
        return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": said}]

    def answer(self, example: Example) -> str:
        return example.gold

    def parse(self, answer: str) -> str | None:
        """The label, whatever its case and a stop after it."""
        return {_plain(label): label for label in self.choices}.get(_plain(answer))

    def segments(self, example: Example) -> list[str]:
        return list(example.given.values())

    def _lines(self, where: str, stream: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """(place, {column: text}) of a table; quotation marks mean nothing between tabs."""
        text = (f"{line}\n" for _, line in numbered_lines(stream, where))
        tabs = unpacked_name(where).endswith(".tsv")
        head = self.header
        for number, line in csv_rows(text, where, "\t" if tabs else ",", quotes=not tabs):
            place = f"{where}, line {number}"
            if not head:
                head = line
            elif len(line) != len(head):
                raise UserError(
                    f"{place}: found {len(line)} columns. Needed: {len(head)}, {', '.join(head)}. Correct it, or "
                    f"`header`."
                )
            else:
                yield place, dict(zip(head, line, strict=True))


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").strip().casefold()
