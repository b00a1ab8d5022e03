"""Structured output: the named entities of a sentence as JSON. CoNLL columns as Universal NER has them, or MASSIVE's.

Sources: the setting of mid-align (Liu and Niehues 2025, arXiv 2502.14830), whose answers have the keys `Results`,
`TypeName` and `Text` (its released code); Universal NER (Mayhew et al. 2024, arXiv 2311.09122). The prompt is our own:
mid-align took those of Universal NER's instruction data, in eight languages, which `messages` can read from the hub.
Their offsets `Start` and `End` are left out here: mid-align's evaluation does not read them.
"""

import json

from pydantic import Field

from pipelines.tasks import Example, Message, Span
from pipelines.tasks._spans import SpanData
from pipelines.text.text_files import repaired

TYPES = {
    "PER": "a person",
    "ORG": "an organization or another group of people, but no nationality",
    "LOC": "a location, but no nationality",
}


class JsonExtraction(SpanData):
    """Entities in the order of the text, `{"Results": [{"TypeName": "LOC", "Text": "Capitol Hill"}]}`."""

    column: int = Field(3, ge=3)
    """Of CoNLL: which column has the labels, from 1; the second has the words. 4 in xSID, 3 in Universal NER."""
    types: dict[str, str] = TYPES
    """{type: what it is} that the prompt names; entities of other types are not asked for."""

    @property
    def wording(self) -> str:
        return "results"

    def render(self, example: Example) -> list[Message]:
        named = "; ".join(f"{kind}, {meaning}" for kind, meaning in self.types.items())
        system = (
            f"Extract the named entities of the user's sentence. Their types are: {named}. Copy each entity as it is "
            f'written, in the order of the sentence. Answer with JSON alone: {{"Results": [{{"TypeName": "...", '
            f'"Text": "..."}}]}}, or {{"Results": []}} where there is none.'
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": example.given}]

    def answer(self, example: Example) -> str:
        rows = [{"TypeName": kind, "Text": text} for kind, text in example.gold if kind in self.types]
        return json.dumps({"Results": rows}, ensure_ascii=False)

    def parse(self, answer: str) -> tuple[Span, ...] | None:
        """The entities in the order said; without the outer braces too, as Universal NER's instruction data have it."""
        text = answer.strip()
        try:
            found = repaired(json.loads(f"{{{text}}}" if text.startswith('"Results"') else text))
        except (json.JSONDecodeError, RecursionError):
            return None
        rows = found.get("Results") if isinstance(found, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return None
        spans = [(row.get("TypeName"), row.get("Text")) for row in rows]
        if not all(isinstance(side, str) for span in spans for side in span):
            return None
        return tuple(Span(str(kind), str(text)) for kind, text in spans)
