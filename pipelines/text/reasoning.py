"""Reasoning blocks, `<think> ... </think>` and their kin: found, closed, and taken out of answers."""

import re
from collections.abc import Iterator
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


def closing_tag(opening: re.Match[str]) -> str:
    """What would close a match of ANY_TAG."""
    if name := opening["angle"]:
        return f"</{name}>"
    return f"[/{opening['square']}]" if opening["square"] else f"<|/{opening['pipe']}|>"


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
        kept, place, is_open = list[str](), 0, False
        for start, end, closing in self._blocks(text):
            kept.append(text[place:start])
            place, is_open = end, bool(closing)
        outside = "".join([*kept, text[place:]])
        return outside[max((match.end() for match in self._stray(outside)), default=0) :], is_open

    def has_tags(self, text: str) -> bool:
        return bool(re.search(f"{self._any_opening}|{self.stray}", text, re.IGNORECASE))

    def close(self, text: str) -> str:
        """What to write after a text that ends inside a block: an empty block is `<think>\\n\\n</think>\\n\\n`."""
        closing = "".join(closing for _, _, closing in self._blocks(text))
        breaks = len(text) - len(text.rstrip("\n"))
        return "\n" * max(0, 2 - breaks) + closing + "\n\n" if closing else ""

    def split(self, text: str) -> tuple[str, str]:
        """A text cut before the block, or closing tag, and the whitespace that it ends in."""
        body = text.rstrip()
        places = [start for start, end, _ in self._blocks(body) if end == len(body)]
        places += [match.start() for match in self._stray(body) if match.end() == len(body)]
        head = text[: min(places, default=len(body))].rstrip()
        return head, text[len(head) :]

    def is_closed(self, block: str) -> bool:
        """Whether a text that `split` cut off has a closing tag."""
        return re.search(self.stray, block, re.IGNORECASE) is not None

    @property
    def _any_opening(self) -> str:
        return "|".join(f"(?:{pattern})" for pattern, _ in self.tags)

    def _stray(self, text: str) -> Iterator[re.Match[str]]:
        return re.finditer(self.stray, text, re.IGNORECASE)

    def _blocks(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Where each block begins and ends, and what would close it where nothing does."""
        opening, place = re.compile(self._any_opening, re.IGNORECASE), 0
        while match := opening.search(text, place):
            closing = self._closing(match[0])
            end = re.compile(re.escape(closing), re.IGNORECASE).search(text, match.end())
            place = end.end() if end else len(text)
            yield match.start(), place, "" if end else closing

    def _closing(self, opening: str) -> str:
        matches = ((re.fullmatch(pattern, opening, re.IGNORECASE), closing) for pattern, closing in self.tags)
        return next(match.expand(closing) for match, closing in matches if match)
