"""Reasoning blocks, `<think> ... </think>` and their kin: found, closed, and taken out of answers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

Tags = tuple[str, str]
"""A regular expression of an opening tag, and what closes it: a replacement that may name the groups of the first."""

KNOWN: tuple[Tags, ...] = (
    (r"<((?:\w+:)?(?:think|thinking|thoughts?|reasoning))>", r"</\1>"),  # Qwen3, R1, SmolLM3, GLM, Seed-OSS, ...
    (r"\[(THINK)\]", r"[/\1]"),  # Magistral
    (r"<\|START_THINKING\|>", "<|END_THINKING|>"),  # Command A Reasoning
    (r"<\|begin_of_thought\|>", "<|end_of_thought|>"),  # OpenThinker
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    (r"<\|channel>thought", "<channel|>"),  # Gemma 4
    (r"<\|channel\|>analysis<\|message\|>", "<|channel|>final<|message|>"),  # GPT-OSS
)
STRAY = (
    r"</(?:\w+:)?(?:think|thinking|thoughts?|reasoning)>|\[/THINK\]|<\|END_THINKING\|>|<\|end_of_thought\|>|◁/think▷"
    r"|<channel\|>|<\|channel\|>final<\|message\|>"
)
"""Closing tags, also of a block that the prompt opened."""
ANY_TAG = re.compile(r"<(?P<angle>\w[\w:-]*)>|\[(?P<square>\w+)\]|<\|(?P<pipe>\w+)\|>")


def closing_tag(opening: str) -> str | None:
    """What would close a text that is one opening tag, of any name; None where it is no such text."""
    match = ANY_TAG.fullmatch(opening)
    if not match:
        return None
    if name := match["angle"]:
        return f"</{name}>"
    return f"[/{match['square']}]" if match["square"] else f"<|/{match['pipe']}|>"


@dataclass
class Reasoning:
    """The tags that a model may reason between: those that are known, and those that its template shows."""

    tags: list[Tags] = field(default_factory=lambda: list(KNOWN))
    stray: str = STRAY

    def add(self, opening: str, closing: str) -> None:
        if any(re.fullmatch(pattern, opening, re.IGNORECASE) for pattern, _ in self.tags):
            return
        self.tags.append((re.escape(opening), closing.replace("\\", r"\\")))
        self.stray += "|" + re.escape(closing)

    def without(self, text: str) -> tuple[str, bool]:
        """The text without what stands between reasoning tags, and whether its last block is still open.

        A closing tag whose opening one was in the prompt takes all before it along; a block that is never closed goes
        on to the end.
        """
        is_open = False
        while opening := self._first(text):
            match, closing = opening
            end = re.compile(re.escape(closing), re.IGNORECASE).search(text, match.end())
            if end is None:
                text, is_open = text[: match.start()], True
            else:
                text = text[: match.start()] + text[end.end() :]
        places = [match.end() for match in re.finditer(self.stray, text, re.IGNORECASE)]
        return text[max(places, default=0) :], is_open

    def has_tags(self, text: str) -> bool:
        return self._first(text) is not None or re.search(self.stray, text, re.IGNORECASE) is not None

    def close(self, text: str) -> str:
        """What to write after a text that ends inside a block: an empty block is `<think>\\n\\n</think>\\n\\n`."""
        closing = None
        while opening := self._first(text):
            match, closing = opening
            end = re.compile(re.escape(closing), re.IGNORECASE).search(text, match.end())
            text, closing = (text[match.end() :], closing) if end is None else (text[end.end() :], None)
        if closing is None:
            return ""
        breaks = len(text) - len(text.rstrip("\n"))
        return "\n" * max(0, 2 - breaks) + closing + "\n\n"

    def split(self, text: str) -> tuple[str, str]:
        """A text cut before the empty or unfinished block, and the whitespace, that it ends in."""
        body = text.rstrip()
        stray = re.compile(f"(?:{self.stray})$", re.IGNORECASE).search(body)
        inner = body[: stray.start()].rstrip() if stray else body
        for pattern, _ in self.tags:
            if opening := re.compile(f"(?:{pattern})$", re.IGNORECASE).search(inner):
                return self._cut(text, opening.start())
        return self._cut(text, stray.start() if stray else len(body))

    @staticmethod
    def _cut(text: str, place: int) -> tuple[str, str]:
        head = text[:place].rstrip()
        return head, text[len(head) :]

    def is_closed(self, block: str) -> bool:
        """Whether a text that `split` cut off has a closing tag."""
        return re.search(self.stray, block, re.IGNORECASE) is not None

    def _first(self, text: str) -> tuple[re.Match[str], str] | None:
        """The first opening tag, and what closes it."""
        matches: Iterable[tuple[re.Match[str], str]] = (
            (match, match.expand(closing))
            for pattern, closing in self.tags
            if (match := re.search(pattern, text, re.IGNORECASE))
        )
        return min(matches, key=lambda pair: pair[0].start(), default=None)
