"""What tasks on labelled parts of texts share: reading them from MASSIVE's rows and from CoNLL columns with IOB labels.

Formats: MASSIVE (FitzGerald et al. 2023, arXiv 2204.08582), `annot_utt` as in `wake me at [time : nine am]`; xSID (van
der Goot et al. 2021, arXiv 2105.07316) and Universal NER (Mayhew et al. 2024, arXiv 2311.09122), a word a line.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipelines.errors import UserError
from pipelines.languages import spaceless
from pipelines.tasks import Example, Span
from pipelines.tasks._files import CONLL, JSON, Block, DataTask

MARKED = re.compile(r"\[([^\[\]]*)\]")
LABEL = re.compile(r"O|[BI]-(.+)")


class SpanData(DataTask):
    """Base of tasks with texts and the spans in them, in the order of the text."""

    endings: ClassVar[tuple[str, ...]] = (*JSON, *CONLL)

    column: int = Field(4, ge=3)
    """Of CoNLL: which column has the labels, from 1; the second has the words. 4 in xSID, 3 in Universal NER."""

    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        corpus, count = self.corpus_version(home), 0
        for where, found in self.records(cell, home):
            item, text, spans = (
                labelled(where, found, self.column, cell) if isinstance(found, Block) else annotated(where, found)
            )
            count += 1
            yield Example(item or text, cell, cell, corpus, text, spans)
        if not count:
            raise self.none_found(cell)

    def segments(self, example: Example) -> list[str]:
        return [example.given]


def annotated(where: str, row: dict) -> tuple[str, str, tuple[Span, ...]]:
    """(id, text, spans) of a row of MASSIVE."""
    for field in ("utt", "annot_utt"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise UserError(
                f"{where}: found {', '.join(map(str, row)) or 'nothing'}. Needed: the texts `utt` and `annot_utt`, as "
                f"MASSIVE has them. Correct it, or name other data."
            )
    marked = MARKED.findall(row["annot_utt"])
    spans = []
    for part in marked:
        kind, colon, text = (side.strip() for side in part.partition(":"))
        if not (kind and colon and text):
            raise UserError(
                f"{where}: found '[{part}]' in annot_utt. Needed: a type and a text, as in '[time : nine am]'. Correct "
                f"it."
            )
        spans.append(Span(kind, text))
    if re.search(r"[\[\]]", MARKED.sub("", row["annot_utt"])):
        raise UserError(
            f"{where}: found a bracket without its other half in annot_utt, {row['annot_utt'][:80]!r}. Needed: "
            f"'[type : text]'. Correct it."
        )
    number = row.get("id")
    return "" if number is None else str(number), row["utt"].strip(), tuple(spans)


def labelled(where: str, block: Block, column: int, lang: str) -> tuple[str, str, tuple[Span, ...]]:
    """(id, text, spans) of a sentence with a word a line.

    The text is that of the comment `text`; without one, the words with spaces between, where the language has them. An
    I after another type begins a span, as in CoNLL's own evaluation.
    """
    comments, words = block
    space = "" if spaceless(lang) else " "
    text = comments.get("text") or space.join(columns[1] for _, columns in words if len(columns) > 1)
    file, at = where.rpartition(", line ")[0], 0
    spans: list[tuple[str, int, int]] = []
    kind = ""
    for number, columns in words:
        place = f"{file}, line {number}"
        if len(columns) < column:
            raise UserError(
                f"{place}: found {len(columns)} columns. Needed: at least {column}, the one with the labels. Correct "
                f"it, or `column`."
            )
        label = LABEL.fullmatch(columns[column - 1])
        if label is None:
            raise UserError(
                f"{place}: found label {columns[column - 1]!r} in column {column}. Allowed: O, B-type and I-type. "
                f"Correct it, or `column`."
            )
        start = text.find(columns[1], at)
        if start < 0 or text[at:start].strip():
            raise UserError(
                f"{place}: found the word {columns[1]!r} where the text goes on with {text[at:].strip()[:30]!r}. "
                f"Needed: the words of '# text' in their order. Correct it, or remove that comment."
            )
        at = start + len(columns[1])
        if label[1] and (label[0][0] == "B" or label[1] != kind):
            spans.append((label[1], start, at))
        elif label[1]:
            spans[-1] = (*spans[-1][:2], at)
        kind = label[1] or ""
    item = comments.get("id") or comments.get("sent_id") or ""
    return item, text, tuple(Span(kind, text[start:end]) for kind, start, end in spans)
