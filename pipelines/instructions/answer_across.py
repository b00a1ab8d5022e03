"""Questions in one language, answers in another: cross-lingual instruction following (CIF).

Source: AFP (Li et al. 2024, arXiv 2311.08089): question language uniform, answer in another language with probability
0.5, prompt `{instruction} {input} Answer in {tgt_lang}: {output}`. AFP asks in English; here the question's language
asks. AFP draws the two languages from all it has, here they are those of the pair.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.errors import UserError
from pipelines.instructions import RENDERED, InstructionType, conversations
from pipelines.instructions._wordings import answer_wording, name_in
from pipelines.languages import Pair
from pipelines.registry import plugin_field
from pipelines.sources import Source
from pipelines.tasks import Languages
from pipelines.text.segments import texts_and_sentences

BATCH_ROWS = 20_000


class AnswerAcross(InstructionType):
    """Every id of the source's instruction data becomes one exercise a pair."""

    libraries: ClassVar[tuple[str, ...]] = ("langcodes", "language_data", "numpy")

    source: plugin_field(Source, "pipelines.sources")  # type: ignore[valid-type]
    """Where the instructions come from: a source whose `instructions` are multi-parallel by id."""
    cross_probability: float = Field(0.5, ge=0, le=1)
    """How often the answer is in the other language of the pair."""
    languages: Languages | None = None
    """Languages that the source has instructions in; other pairs get no exercises. By default those of the recipe."""

    def check(self, pairs: list[Pair]) -> None:
        if type(self.source).instructions is Source.instructions:
            self.source.instructions(pairs[0].src, Path())
        if not (served := [pair for pair in pairs if self._serves(pair)]):
            raise UserError(
                f"answer_across.languages: found {', '.join(self.languages or [])}. Expected: both languages of at "
                f"least one pair of the recipe. Fix: add them, or leave `languages` out."
            )
        self.source.check(served)

    def _serves(self, pair: Pair) -> bool:
        return self.languages is None or set(pair) <= set(self.languages)

    def pin(self, pair: Pair, home: Path) -> Any:
        if not self._serves(pair):
            return None
        self.source.prepare(pair, home)
        return self.source.pin(pair, home)

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        return self.source.provenance(pair, home) if self._serves(pair) else {}

    def render(self, batch: pa.RecordBatch, rng: np.random.Generator) -> pa.RecordBatch:
        """No row: bitext has no questions."""
        return pa.RecordBatch.from_pylist([], schema=RENDERED)

    def extra(self, pair: Pair, rng: np.random.Generator, home: Path) -> Iterator[pa.RecordBatch]:
        if not self._serves(pair):
            return
        corpus = next(iter(self.source.provenance(pair, home)))
        held = [{row[0]: row[1:] for row in self.source.instructions(lang, home)} for lang in pair]
        shared = [key for key in held[0] if key in held[1]]
        for start in range(0, len(shared), BATCH_ROWS):
            keys = shared[start : start + BATCH_ROWS]
            asked = rng.integers(2, size=len(keys)).tolist()
            crossed = (rng.random(len(keys)) < self.cross_probability).tolist()
            rows = []
            for key, question, across in zip(keys, asked, crossed, strict=True):
                answer = 1 - question if across else question
                instruction, given, _ = held[question][key]
                output = held[answer][key][2]
                parts = [part for part in (instruction, given) if part]
                if across:
                    wanted = name_in(pair[answer], pair[question], self._recipe_languages)
                    parts.append(answer_wording(pair[question]).format(language=wanted))
                kind = "across" if across else "within"
                rows.append(
                    ("\n".join(parts), output, pair[question], pair[answer], corpus, f"{self.name}/{kind}",
                     texts_and_sentences((instruction, given, output)))
                )  # fmt: skip
            yield conversations(*zip(*rows, strict=True))
