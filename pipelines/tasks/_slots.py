"""How slots are asked for and answered: mid-align's prompt (Liu and Niehues 2025, arXiv 2502.14830, released code)."""

from typing import ClassVar

from pipelines.tasks import Example, Message, Span, Task

MID_ALIGN = (
    "Given a command from the user, a voice assistant will extract entities essential for carry out the command.\n"
    "For example, for a command about playing a specific song, the name of the song mentioned by the user would be an "
    'entity, falling under the type of "song name".\n'
    "Your task is to extract the entities as words from the command if they fall under a predefined list of entity "
    "types."
)
NONE = "None"


class Slots(Task):
    """Base of slot filling: `date: this week; time: five am` in the order of the text, or `None` if there is none."""

    stop: ClassVar[tuple[str, ...]] = ("\n",)

    system: str = MID_ALIGN
    """The system message; an empty one is left out."""

    @property
    def wording(self) -> str:
        return "mid_align" if self.system == MID_ALIGN else "own"

    def render(self, example: Example) -> list[Message]:
        asked = {"role": "user", "content": example.given}
        return [{"role": "system", "content": self.system}, asked] if self.system else [asked]

    def answer(self, example: Example) -> str:
        return "; ".join(f"{span.type}: {span.text}" for span in example.gold) or NONE

    def parse(self, answer: str) -> tuple[Span, ...] | None:
        """The spans in the order said. What follows `; ` without a type of its own is still the span before it."""
        if answer.strip() == NONE:
            return ()
        spans: list[Span] = []
        for part in answer.strip().split("; "):
            kind, colon, text = (side.strip() for side in part.partition(":"))
            if kind and colon and text and len(kind.split()) == 1:
                spans.append(Span(kind, text))
            elif spans:
                spans[-1] = Span(spans[-1].type, f"{spans[-1].text}; {part}")
            else:
                return None
        return tuple(spans)
