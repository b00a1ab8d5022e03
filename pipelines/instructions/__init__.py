"""Instruction types, one file each. An instruction type turns bitext into conversations."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.languages import Pair
from pipelines.registry import Plugin
from pipelines.schema import INSTRUCTION

RENDERED = INSTRUCTION.append(pa.field("segments", pa.list_(pa.string()), nullable=False))
"""INSTRUCTION and the segments a row was made of, by which held-out text is kept out of training."""


class InstructionType(Plugin):
    """Base of instruction types."""

    def check(self, pairs: list[Pair]) -> None:
        """Raise ValueError, before any work starts, where this type cannot serve `pairs`."""

    def pin(self, pair: Pair, home: Path) -> Any:
        """What identifies data of its own that `extra` reads beside the bitext, as JSON. `home` is as for sources."""
        return None

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        """{corpus: {version, licence, url, citation}} of that data."""
        return {}

    @abstractmethod
    def render(self, batch: pa.RecordBatch, rng: np.random.Generator) -> pa.RecordBatch:
        """RENDERED rows made from one BITEXT batch; all randomness comes from `rng`."""

    def extra(self, pair: Pair, rng: np.random.Generator, home: Path) -> Iterator[pa.RecordBatch]:
        """RENDERED rows of `pair` that come from data of its own rather than from bitext."""
        return iter(())


def conversations(
    prompts: Sequence[str],
    answers: Sequence[str],
    src_lang: Sequence[str],
    tgt_lang: Sequence[str],
    corpus: Sequence[str],
    template: Sequence[str],
    segments: Sequence[Sequence[str]],
) -> pa.RecordBatch:
    """A RENDERED batch of one-turn conversations; all sequences have equal lengths, in rows."""
    n = len(prompts)
    content = [turn for both in zip(prompts, answers, strict=True) for turn in both]
    turns = pa.StructArray.from_arrays(
        [pa.array(["user", "assistant"] * n, pa.string()), pa.array(content, pa.string())], ["role", "content"]
    )
    messages = pa.ListArray.from_arrays(pa.array(range(0, 2 * n + 1, 2), pa.int32()), turns)
    columns = (src_lang, tgt_lang, corpus, template, segments)
    rest = [pa.array(column, field.type) for column, field in zip(columns, list(RENDERED)[1:], strict=True)]
    return pa.record_batch([messages.cast(RENDERED.field("messages").type), *rest], schema=RENDERED)
