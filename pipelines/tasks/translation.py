"""Translation as a task of its own: other bitext than that aligned with, asked as mid-align asks, in both directions.

Source: mid-align (Liu and Niehues 2025, arXiv 2502.14830), whose second task it is: its prompt, from its released code.
Beside the instruction type `translate`, which makes exercises of the recipe's bitext in many wordings, this one has one
prompt, data and dev rows of its own, so that it can be held apart from alignment and scored.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from pipelines.errors import UserError
from pipelines.filters.script import in_own_scripts
from pipelines.languages import Pair, name
from pipelines.progress import ProgressCallback, no_progress
from pipelines.registry import plugin_field
from pipelines.sources import Source
from pipelines.tasks import Example, Message, Task


def _distinct(pairs: list[Pair]) -> list[Pair]:
    if repeated := sorted({str(pair) for pair in pairs if pairs.count(pair) > 1}):
        raise UserError(f"found {', '.join(repeated)} twice. Allowed: each pair once. Remove one.")
    return pairs


class Translation(Task):
    """`Translate the following sentences from German to English.`, then the sentence; every row is asked both ways."""

    libraries: ClassVar[tuple[str, ...]] = ("langcodes", "language_data")

    source: plugin_field(Source, "pipelines.sources")  # type: ignore[valid-type]
    """Where the bitext comes from. It passes no filter: name clean corpora."""
    train: Annotated[
        list[Annotated[Pair, BeforeValidator(Pair.parse), PlainSerializer(str)]],
        Field(min_length=1),
        AfterValidator(_distinct),
    ]
    """The pairs trained on."""

    @property
    def cells(self) -> list[str]:
        return [str(pair) for pair in self.train]

    @property
    def corpora_named(self) -> list[str] | None:
        return self.source.corpora_named

    def check(self) -> None:
        self.source.check(self.train)

    def prepare(self, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        for pair in self.train:
            self.source.prepare(pair, home, on_progress)

    def pin(self, home: Path) -> Any:
        return [self.source.pin(pair, home) for pair in self.train]

    def provenance(self, home: Path) -> dict[str, dict[str, Any]]:
        return {corpus: facts for pair in self.train for corpus, facts in self.source.provenance(pair, home).items()}

    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        """Both directions of a row are one item."""
        for batch in self.source.fetch(Pair.parse(cell), home):
            for row in in_own_scripts(batch, self.source.other_scripts).to_pylist():
                src, tgt, one, other, corpus = (row[key] for key in ("src", "tgt", "src_lang", "tgt_lang", "corpus"))
                item = f"{src}\n{tgt}"
                if src.strip() and tgt.strip():
                    yield Example(item, one, other, corpus, src, tgt)
                    yield Example(item, other, one, corpus, tgt, src)

    def render(self, example: Example) -> list[Message]:
        src, tgt = (name(lang, self._recipe_languages) for lang in (example.src_lang, example.tgt_lang))
        asked = f"Translate the following sentences from {src} to {tgt}."
        return [{"role": "system", "content": asked}, {"role": "user", "content": example.given}]

    def answer(self, example: Example) -> str:
        return example.gold

    def parse(self, answer: str) -> str | None:
        return answer.strip() or None

    def segments(self, example: Example) -> list[str]:
        return [example.given, example.gold]

    @property
    def wording(self) -> str:
        return "mid_align"
