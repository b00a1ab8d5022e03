"""Evals, one file each: held-out texts, how a model is asked, and the metric."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.languages import Pair
from pipelines.registry import Plugin
from pipelines.tasks import Message, Task

Metric = dict[str, float | int]
"""{value, low, high, n}: the figure, its 95 % interval and the number of items; low and high only where they exist.

One of `pipelines.statistics` also remembers its items, by which two models are compared in pairs.
"""


States = Mapping[str, np.ndarray]
"""{language: float32 [N, H]} of sentences to look at, the same of every model."""


class Sample(NamedTuple):
    """One item that a model answered in words, for people to look at."""

    key: str
    """`task/language, pair or direction`."""
    prompt: str
    """What the item asks, without the examples before it."""
    reference: str
    output: str


POINTS = "points of 100"
"""The unit of scores that go to 100 where rates go to 1."""


class Measure(NamedTuple):
    """What a metric measures: declared by the eval that gives it, read by all that show it or judge by it."""

    title: str = ""
    """Above its table in the report; without one, its task and name."""
    note: str = ""
    """Below the title: what is counted, and which way is better. `{layer}` is where states were read."""
    name: str = ""
    """In a sentence; without one, its task and name."""
    unit: str = "%"
    """`%` of a rate, shown in percent and its change in points; POINTS of a score; else what the number counts."""
    lower_is_better: bool = False
    neutral: bool = False
    """Neither more nor less is better by itself."""
    relative: bool = False
    """A change is told as a share of the figure that it is measured from."""
    role: Literal["result", "detail", "guard"] = "result"
    """A result counts for the verdict. A detail helps to understand one: it decides nothing and has no gap. A guard
    describes states: of it no mean over a group of languages is made either."""

    @property
    def rate(self) -> bool:
        return self.unit == "%"

    @property
    def score(self) -> bool:
        """Whether it goes to 100 where rates go to 1."""
        return self.unit == POINTS


Pooling = Literal["mean", "last", "mean+special", "last+special"]
"""How the states of a text's tokens become one: their mean, or that of the last. Special tokens, such as BOS, which can
be an attention sink, count only with `+special`."""


class LanguageModel(Protocol):
    """All that an eval may ask of a model; `alignment_train.evaluation.lm` answers it, a fake one tests an eval."""

    num_layers: int
    trained_layer: int

    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        """{layer: float32 [N, H]}, row i of `texts[i]`; layers count as in `hidden_states`. pooling: a `Pooling`."""
        ...

    def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Nats and predicted tokens of each text, float64 [N] and int64 [N]; EOS is predicted, BOS is not."""
        ...

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """ln p of each continuation after its context, float64 [N], and whether it is the greedy one, bool [N].

        A context may be empty. Requests whose beginnings are alike are best asked for together.
        """
        ...

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        """What greedy decoding adds to each prompt, up to EOS or the first of the texts in `stop`, which is cut off.

        A prompt that was asked before, with the same of the rest, has the same answer at no cost.
        """
        ...

    def reply(self, talks: Sequence[list[Message]], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        """As `generate`, the assistant's answer to each conversation, which is put as in training on such."""
        ...


def texts_by_item(texts: pa.Table, pair: str) -> list[tuple[str, ...]]:
    """The texts of each item of a pair or task, in the order in which the items first appear."""
    found: dict[str, tuple[str, ...]] = {}
    for row in texts.filter(pc.equal(texts["pair"], pair)).select(["item", "text"]).to_pylist():
        found[row["item"]] = (*found.get(row["item"], ()), row["text"])
    return list(found.values())


class Eval(Plugin):
    """Base of evals. Its texts are kept in the store, decontaminated against, and handed to `run`."""

    measures: ClassVar[Mapping[str, Measure]] = {}
    """What the metrics are, by `task/metric`, or by `metric` for every task; one left out is a rate, more is better."""

    @property
    def uses_chat(self) -> bool:
        """Whether a model answers in conversations (`LanguageModel.reply`)."""
        return False

    @property
    def trained_in(self) -> dict[str, list[str]]:
        """{task of its figures: the languages that training taught it in}, so that the others show transfer."""
        return {}

    def of(self, tasks: Sequence[Task]) -> Self:
        """This eval in a recipe that teaches `tasks`; ValueError where it needs one that is not there."""
        return self

    def check(self, pairs: list[Pair]) -> None:
        """Raise ValueError, before any work starts, where this eval cannot serve `pairs`."""

    def notes(self, pairs: list[Pair]) -> list[str]:
        """Sentences to show before work starts, e.g. of languages that this eval does not have."""
        return []

    def pin(self, pairs: list[Pair], home: Path) -> Any:
        """What identifies the texts, as JSON; part of the fingerprint."""
        return None

    def provenance(self, pairs: list[Pair], home: Path) -> dict[str, dict[str, Any]]:
        """{corpus: {version, licence, url, citation}} of the texts."""
        return {}

    @abstractmethod
    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        """EVAL_TEXT batches of all held-out texts. `home` is as for sources."""

    @abstractmethod
    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        """Metrics of one model by key `task/language or pair/metric`; `texts` are the rows of this eval."""

    def observe(self, lm: LanguageModel, texts: pa.Table) -> tuple[dict[str, Metric], States | None]:
        """What `run` gives, and states to draw where this eval has such."""
        return self.run(lm, texts), None

    def samples(self, lm: LanguageModel, texts: pa.Table) -> list[Sample]:
        """A few items as the model answered them in `run`, the same ones of every model; to ask again costs nothing."""
        return []

    def signatures(self, texts: pa.Table) -> dict[str, str]:
        """How figures were computed, by the same keys as of `run`, in the words of the library that computes them."""
        return {}

    def baselines(self, texts: pa.Table, random: Callable[[], LanguageModel] | None) -> dict[str, dict[str, Metric]]:
        """{baseline: figures by the same keys}: what can be had without learning, beside chance.

        random: loads a model of the same shape whose weights are random; None where there is none.
        """
        return {}

    def chance(self, texts: pa.Table) -> dict[str, float]:
        """The value that guessing gives, by the same keys, where there is one."""
        return {}
