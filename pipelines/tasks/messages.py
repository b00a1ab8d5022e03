"""Conversations as they are: JSON lines or a hub's table of messages, of which the last is the answer to learn.

Source: the chat format of transformers, `{"messages": [{"role": ..., "content": ...}]}`
(https://huggingface.co/docs/transformers/chat_templating), and tables with a prompt and an answer, such as Universal
NER's instruction data (Mayhew et al. 2024, arXiv 2311.09122; columns `inputs` and `targets`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.errors import UserError
from pipelines.languages import parse
from pipelines.tasks import Example, Message
from pipelines.tasks._files import DataTask
from pipelines.text.segments import texts_and_sentences

ROLES = ("system", "user", "assistant")
Column = Literal["id", "lang", "messages", "prompt", "answer"]


class Messages(DataTask):
    """A row has `messages`, or a `prompt` and an `answer`; also `id` and `lang`, if it likes.

    Rows that say their language may lie together in one file; those that do not are in the file's, or in the only
    language of `train`. Rows of one `id` mean the same in every language.
    """

    mixed: ClassVar[bool] = True

    columns: dict[Column, str] = {}
    """What the data call these, where they call them otherwise: {prompt: inputs, answer: targets}."""

    def has(self, cell: str, home: Path | None) -> bool:
        """Of a file of several languages, rows are looked for."""
        if not self._named_for(cell, home):
            return False
        if home is None and not self.local:
            return True
        return any(self._language(where, row, cell) == cell for where, row in self.records(cell, home or Path()))

    def examples(self, cell: str, home: Path) -> Iterator[Example]:
        corpus, count = self.corpus_version(home), 0
        for where, row in self.records(cell, home):
            turns = self._turns(where, row)
            if self._language(where, row, cell) != cell:
                continue
            count += 1
            number = row.get(self._called("id"))
            item = "\n".join(turn["content"] for turn in turns) if number is None else str(number)
            yield Example(item, cell, cell, corpus, turns[:-1], turns[-1]["content"])
        if not count:
            raise self.none_found(cell)

    def render(self, example: Example) -> list[Message]:
        return list(example.given)

    def answer(self, example: Example) -> str:
        return example.gold

    def parse(self, answer: str) -> str | None:
        return answer.strip() or None

    def segments(self, example: Example) -> list[str]:
        """The whole prompt, every message but those of the system, and the sentences in them."""
        asked = [turn["content"] for turn in example.given if turn["role"] != "system"]
        return texts_and_sentences(["\n".join(asked), *asked, example.gold])

    def _called(self, column: Column) -> str:
        return self.columns.get(column, column)

    def _turns(self, where: str, row: dict[str, Any]) -> list[Message]:
        written = row.get(self._called("messages"))
        if written is None:
            sides = [row.get(self._called("prompt")), row.get(self._called("answer"))]
            if None in sides:
                raise UserError(
                    f"{where}: found {', '.join(map(str, row)) or 'nothing'}. Needed: '{self._called('messages')}', or "
                    f"'{self._called('prompt')}' and '{self._called('answer')}'. Say in `columns` what the data call "
                    f"them, or correct it."
                )
            written = [{"role": role, "content": side} for role, side in zip(("user", "assistant"), sides, strict=True)]
        roles = [turn.get("role") if isinstance(turn, dict) else None for turn in written]
        if len(written) < 2 or roles[-1] != "assistant" or not set(roles) <= set(ROLES):
            raise UserError(
                f"{where}: found messages of {', '.join(map(str, roles)) or 'nobody'}. Needed: two or more, of "
                f"{', '.join(ROLES)}, the assistant's last. Correct it."
            )
        for number, turn in enumerate(written, 1):
            content = turn.get("content")
            if not isinstance(content, str) or not content.strip():
                raise UserError(
                    f"{where}: found {content!r} as the content of message {number}. Needed: a text. Correct it."
                )
        return [{"role": turn["role"], "content": turn["content"].strip()} for turn in written]

    def _language(self, where: str, row: dict[str, Any], cell: str) -> str:
        said = row.get(self._called("lang"))
        if said is not None:
            try:
                return self.languages.get(said) or parse(said)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
        if len(self.train) > 1 and "{lang}" not in self.data_files + self.config:
            raise UserError(
                f"{where}: found no '{self._called('lang')}', and {len(self.train)} languages in `train`. Needed: rows "
                f"that say their language, a file a language ('{{lang}}' in data_files), or one language. Add it."
            )
        return cell
