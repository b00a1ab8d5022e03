# pyright: strict
"""The key of a figure in metrics.json, such as `retrieval/deu_Latn-eng_Latn/recall@1/layer=3`."""

import re
from functools import lru_cache
from typing import NamedTuple

from pipelines.errors import UserError, quoted

PATTERN = re.compile(r"([^/]+)/([^/]+)/(.+?)(?:/layer=(\d+))?")
LANGUAGE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
"""A language and its script, as in FLORES-200: `deu_Latn`."""


class MetricKey(NamedTuple):
    """A metric of one task and subject; `str` gives the form in which metrics.json has it."""

    task: str
    subject: str
    """A language `deu_Latn`, a pair `deu_Latn-eng_Latn`, a direction `deu_Latn>eng_Latn`, or a group of languages."""
    metric: str
    """Of a subset of the items it has a suffix: `recall@1_from_src/shared`."""
    layer: int | None = None
    """Index into `hidden_states`, of a figure per layer."""

    @classmethod
    def parse(cls, text: str) -> "MetricKey":
        """The key that `text` spells; UserError where it is none."""
        return _parse(text)

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"/layer={self.layer}"
        return f"{self.task}/{self.subject}/{self.metric}{layer}"

    @property
    def is_overall(self) -> bool:
        """Whether the figure is neither of a single layer nor of a subset of the items."""
        return self.layer is None and "/" not in self.metric

    @property
    def languages(self) -> list[str]:
        """The languages of the subject: of a language, pair or direction; empty for anything else."""
        return languages_of(self.subject)

    def with_subject(self, subject: str) -> "MetricKey":
        """The same metric of another subject."""
        return self._replace(subject=subject)


def languages_of(subject: str) -> list[str]:
    """The languages that a subject names; empty where it is no language, pair or direction."""
    parts = re.split("[->]", subject)
    return parts if all(LANGUAGE.fullmatch(part) for part in parts) else []


@lru_cache(maxsize=1 << 15)
def _parse(text: str) -> MetricKey:
    match = PATTERN.fullmatch(text)
    if match is None:
        raise UserError(
            f"metric key: found {quoted(text, 100)}. Expected: task/subject/metric or task/subject/metric/layer=N. "
            f"Fix: name the figure in this form."
        )
    task, subject, metric, layer = match.groups()
    return MetricKey(task, subject, metric, None if layer is None else int(layer))
