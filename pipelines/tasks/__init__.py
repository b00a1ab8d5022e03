"""Tasks, one file each: what a model is asked, what it should answer, and how its answer is read back.

Training and evaluation share the file, so that both ask with the same prompt and mean the same by an answer.
"""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from pipelines.errors import UserError
from pipelines.languages import parse
from pipelines.progress import ProgressCallback, no_progress
from pipelines.registry import Plugin

Message = dict[str, str]
"""{role, content}; roles are system, user and assistant."""


class Span(NamedTuple):
    """A part of a text, and what kind of thing it is."""

    type: str
    text: str


class Example(NamedTuple):
    """One thing asked, with the right answer.

    item: the same in every language in which data hold the example; given: what the prompt is made of; gold: what
    `Task.parse` reads in the right answer.
    """

    item: str
    src_lang: str
    tgt_lang: str
    corpus: str
    given: Any
    gold: Any


def _each_once(languages: list[str]) -> list[str]:
    if repeated := sorted({code for code in languages if languages.count(code) > 1}):
        raise UserError(f"found {', '.join(repeated)} twice. Allowed: each language once. Remove one.")
    return languages


Languages = Annotated[list[Annotated[str, BeforeValidator(parse)]], Field(min_length=1), AfterValidator(_each_once)]
"""Languages by any code that `languages.parse` knows."""


class Task(Plugin):
    """Base of tasks. Examples come cell by cell: a cell is a language, `deu_Latn`, or a pair, `deu_Latn-eng_Latn`."""

    stop: ClassVar[tuple[str, ...]] = ()
    """Texts that no right answer holds, at which a model's is cut off."""

    rows: Annotated[int, Field(gt=0)] | None = None
    """Items a cell that are trained on at most, by a draw: data that are parallel give the same ones everywhere."""
    dev_rows: int = Field(default=200, ge=0)
    """Items a cell set aside by a draw, for merge coefficients and for stopping; at most a tenth of the cell."""

    @property
    @abstractmethod
    def cells(self) -> list[str]:
        """The languages or pairs that are trained on."""

    @property
    def corpora_named(self) -> list[str] | None:
        """As for sources."""
        return None

    @property
    def choices(self) -> list[str]:
        """The answers that there are, of a task that has but few."""
        return []

    def has(self, cell: str, home: Path | None) -> bool:
        """Whether there are examples of a cell; without `home` nobody is asked, and what only a hub knows is there."""
        return True

    def check(self) -> None:
        """Raise ValueError, before any work starts, where there can be no examples."""

    def prepare(self, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Do the slow part of `pin`, such as downloads. `home` is as for sources."""

    def pin(self, home: Path) -> Any:
        """What identifies the data that `examples` reads, as JSON; part of the fingerprint."""
        return None

    @abstractmethod
    def provenance(self, home: Path) -> dict[str, dict[str, Any]]:
        """{corpus: {version, licence, url, citation}} of the examples."""

    @abstractmethod
    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        """All examples of a language or pair, the same ones in the same order at every call."""

    @abstractmethod
    def render(self, example: Example) -> list[Message]:
        """The conversation up to the answer; it does not look at `gold`."""

    @abstractmethod
    def answer(self, example: Example) -> str:
        """The right answer, which `parse` reads as `gold`."""

    @abstractmethod
    def parse(self, answer: str) -> Any:
        """What an answer says, in the form of `gold`; None where it is not in the form asked for."""

    @abstractmethod
    def segments(self, example: Example) -> list[str]:
        """The texts that it is made of, by which held-out text is kept out of training."""

    @property
    def wording(self) -> str:
        """Which prompt it is: second part of the column `template`."""
        return "0"
