"""Bitext as translation exercises, both directions, each prompt in one of several wordings.

Source: the translation mode of AFP (Li et al. 2024, arXiv 2311.08089): `{input} Translate into {tgt_lang}: {output}`
and `{input} = {output}`. AFP asks in English; here the prompt is in the language of the input unless told otherwise.
"""

from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.instructions import InstructionType, conversations
from pipelines.instructions._wordings import ENGLISH, name_in, translate_wordings


class Translate(InstructionType):
    """Every row of the bitext becomes one exercise; half of the rows of a batch ask for each direction."""

    libraries: ClassVar[tuple[str, ...]] = ("langcodes", "language_data", "numpy")

    prompt: Literal["source", "english"] = "source"
    """The language of the prompt: that of the input where there are wordings in it, or English."""

    def render(self, batch: pa.RecordBatch, rng: np.random.Generator) -> pa.RecordBatch:
        n = batch.num_rows
        forward = rng.permutation(n) % 2 == rng.integers(2)
        draws = rng.random(n)
        prompts, answers, src_lang, tgt_lang, template, segments = [], [], [], [], [], []
        columns = (batch[name].to_pylist() for name in ("src", "tgt", "src_lang", "tgt_lang"))
        for src, tgt, one, other, ahead, draw in zip(*columns, forward.tolist(), draws.tolist(), strict=True):
            if not ahead:
                src, tgt, one, other = tgt, src, other, one
            asked = one if self.prompt == "source" else ENGLISH
            wordings = translate_wordings(asked)
            number = int(draw * len(wordings))
            prompts.append(wordings[number].format(input=src, language=name_in(other, asked, self._recipe_languages)))
            answers.append(tgt)
            src_lang.append(one)
            tgt_lang.append(other)
            template.append(f"{self.name}/{number}")
            segments.append((src, tgt))
        corpus = batch["corpus"].to_pylist()
        return conversations(prompts, answers, src_lang, tgt_lang, corpus, template, segments)
