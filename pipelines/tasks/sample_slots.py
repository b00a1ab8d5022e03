"""Slot filling over the embedded sample: who, what, where and when in everyday sentences, in eight languages, offline.

Source: word tables and grammar of our own making (`pipelines.sample_grammar`), asked as mid-align asks (arXiv
2502.14830). A slot is what the grammar answers to `who?`, `what?`, `where?` or `when?`, found in the sentence;
examples are parallel by id, so that what is learnt in one language can be asked in the seven others.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines import sample_grammar
from pipelines.errors import UserError
from pipelines.sources.sample import Sample
from pipelines.tasks import Example, Languages, Span
from pipelines.tasks._slots import Slots

TYPES: dict[sample_grammar.Mode, str] = {"who": "person", "what": "thing", "where": "place", "when": "time"}


class SampleSlots(Slots):
    """The statements with a subject, a thing, a place and a time: 2,085 to train on, 96 held out."""

    loads: ClassVar[tuple[str, ...]] = ("pipelines.sample_grammar",)

    train: Languages = ["eng_Latn"]
    """The languages trained on, of those of the sample."""
    split: Literal["train", "heldout"] = "train"

    @property
    def cells(self) -> list[str]:
        return self.train

    @property
    def corpora_named(self) -> list[str] | None:
        return [self._corpus]

    @property
    def _corpus(self) -> str:
        return "sample-slots/v1" if self.split == "train" else "sample-slots-heldout/v1"

    def has(self, cell: str, home: Path | None) -> bool:
        return cell in sample_grammar.LANGUAGES

    def check(self) -> None:
        if strange := sorted(set(self.train) - set(sample_grammar.LANGUAGES)):
            raise UserError(
                f"task '{self.name}', train: found {', '.join(strange)}. Available: "
                f"{', '.join(sample_grammar.LANGUAGES)}. Choose of these."
            )

    def provenance(self, home: Path) -> dict[str, dict[str, Any]]:
        return {self._corpus: {"version": "v1", "licence": Sample.licence, "url": "", "citation": Sample.citation}}

    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        rules = sample_grammar.language(cell)
        for number in sample_grammar.TRAIN_IDS if self.split == "train" else sample_grammar.HELDOUT_IDS:
            sentence = sample_grammar.sentences()[number]
            if isinstance(sentence, sample_grammar.Act) and sentence.mode == "statement":
                text = rules.linearise(sentence)
                found = sorted(
                    _slot(text, rules.answer(sentence, asked), TYPES[asked]) for asked in sample_grammar.QUESTIONS
                )
                yield Example(str(number), cell, cell, self._corpus, text, tuple(span for _, span in found))

    def segments(self, example: Example) -> list[str]:
        return [example.given]


def _slot(text: str, answer: str, kind: str) -> tuple[int, Span]:
    """Where in `text` the grammar's answer stands, and the slot; its stop and its capital are those of a sentence."""
    wanted = answer[:-1]
    start = text.lower().find(wanted.lower())
    assert start >= 0, f"{answer!r} in {text!r}"
    return start, Span(kind, text[start : start + len(wanted)])
