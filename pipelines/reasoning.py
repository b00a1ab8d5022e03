"""Reasoning blocks, `<think> ... </think>` and their kin: found, closed, and taken out of answers."""

import re
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
        outside, is_open = self._outside(text)[:2]
        places = [match.end() for match in re.finditer(self.stray, outside, re.IGNORECASE)]
        return outside[max(places, default=0) :], is_open

    def has_tags(self, text: str) -> bool:
        return bool(re.search(f"{self._any_opening}|{self.stray}", text, re.IGNORECASE))

    def close(self, text: str) -> str:
        """What to write after a text that ends inside a block: an empty block is `<think>\\n\\n</think>\\n\\n`."""
        _, is_open, closing = self._outside(text)
        breaks = len(text) - len(text.rstrip("\n"))
        return "\n" * max(0, 2 - breaks) + closing + "\n\n" if is_open else ""

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

    @property
    def _any_opening(self) -> str:
        return "|".join(f"(?:{pattern})" for pattern, _ in self.tags)

    def _outside(self, text: str) -> tuple[str, bool, str]:
        """The text outside of blocks, whether the last of them is open, and what closes that one."""
        kept, place, closing = list[str](), 0, ""
        opening = re.compile(self._any_opening, re.IGNORECASE)
        while match := opening.search(text, place):
            kept.append(text[place : match.start()])
            closing = self._closing(match[0])
            end = re.compile(re.escape(closing), re.IGNORECASE).search(text, match.end())
            if end is None:
                return "".join(kept), True, closing
            place = end.end()
        return "".join([*kept, text[place:]]), False, closing

    def _closing(self, opening: str) -> str:
        matches = ((re.fullmatch(pattern, opening, re.IGNORECASE), closing) for pattern, closing in self.tags)
        return next(match.expand(closing) for match, closing in matches if match)
