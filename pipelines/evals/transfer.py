"""What a task that training taught in a few languages is worth in them and in all others: the setting of mid-align.

Source: mid-align (Liu and Niehues 2025, arXiv 2502.14830), which trains on slots or entities in source languages and
asks in others. F1 is that of CoNLL (Tjong Kim Sang and De Meulder 2003, arXiv cs/0306050) and of seqeval: a span counts
where type and text are right, and all types are averaged by their spans (micro).
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator, Field, SerializeAsAny

from pipelines import statistics
from pipelines.errors import UserError
from pipelines.evals import Eval, LanguageModel, Measure, Metric, Sample, texts_by_item
from pipelines.languages import Pair, name
from pipelines.registry import NestedError, build, rebuild
from pipelines.schema import EVAL_TEXT
from pipelines.tasks import Example, Languages, Message, Span, Task
from pipelines.text.reasoning import Reasoning
from pipelines.text.segments import digests, seeded_order

PACKAGE = "pipelines.tasks"
SHOWN = 3  # items of a language, in the report


def _named(task: Any) -> Any:
    return task if isinstance(task, str) else build(PACKAGE, task)


class Answered(NamedTuple):
    """One item: what was asked, and what a model said."""

    lang: str
    texts: tuple[str, ...]
    prompt: list[Message]
    reference: str
    output: str


class Transfer(Eval):
    """Greedy answers to a task's held-out items in every language, asked as in training.

    Of spans (slots, entities) `f1`; of one answer `acc`, the share that equals the right one. `valid` is the share of
    answers in the form asked for; others count as no span, or as wrong.
    """

    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    measures: ClassVar[Mapping[str, Measure]] = {
        "f1": Measure(note="Of the spans of held-out texts, type and text, micro-averaged. Higher is better."),
        "valid": Measure(
            note="Share of answers in the form asked for, such as JSON that can be read; others count as wrong.",
            role="detail",
        ),
    }

    task: Annotated[SerializeAsAny[Task] | str, BeforeValidator(_named)]
    """One of the recipe's tasks by name."""
    test: dict[str, Any] = {"split": "test"}
    """What the task's settings are for its held-out items: {data_files: '{lang}.test.conll'}, {split: heldout} ..."""
    languages: Languages | None = None
    """By default those of the recipe and of the task in which there are held-out items."""
    rows: int = Field(500, gt=0)
    """Items a language at most, by a draw: of data that are parallel by their ids the same ones everywhere."""
    max_new_tokens: int = Field(128, gt=0)
    """Tokens of an answer at most; with the prompt they must fit into the model's window."""

    @property
    def uses_chat(self) -> bool:
        return True

    @property
    def trained_in(self) -> dict[str, list[str]]:
        return {self._taught.name: self._taught.cells}

    def of(self, tasks: Sequence[Task]) -> Self:
        own = self.task if isinstance(self.task, str) else self.task.settings()
        found = next((task for task in tasks if own in (task.name, task.settings())), None)
        if found is None:
            said = self.task if isinstance(self.task, str) else f"{self.task.name} with settings of its own"
            raise UserError(
                f"{self.name}.task: found {said}. Allowed: a task of the recipe's corpus.tasks, "
                f"{', '.join(task.name for task in tasks) or 'of which there is none'}. Correct it, or add the task."
            )
        return self.model_copy(update={"task": found})

    def check(self, pairs: list[Pair]) -> None:
        taught = self._taught
        if any("-" in cell for cell in taught.cells):
            raise UserError(
                f"eval.{self.name}.task: {taught.name} is learnt by pairs. Allowed: tasks that are learnt by "
                f"languages. Ask it in another eval."
            )
        if "train" in self.test:
            raise UserError(f"eval.{self.name}.test: found train. Name the languages to ask in as `languages`.")
        langs, lacking = self._languages(pairs, None)
        if not langs or (self.languages and lacking):
            raise UserError(
                f"eval.{self.name}.test: found no held-out items of {taught.name} in {', '.join(lacking)}. Needed: "
                f"{'those of `languages`' if self.languages else 'at least one language'}. Correct `test`, or name "
                f"other languages."
            )
        self._held_out(langs).check()

    def notes(self, pairs: list[Pair]) -> list[str]:
        langs, lacking = self._languages(pairs, None)
        if not lacking:
            return []
        named = ", ".join(f"{name(lang)} ({lang})" for lang in lacking)
        every = len(langs) + len(lacking)
        return [f"{self.name}: {self._taught.name} is not asked in {len(lacking)} of {every} languages: {named}."]

    def pin(self, pairs: list[Pair], home: Path) -> Any:
        held = self._held_out(self._languages(pairs, home)[0])
        held.prepare(home)
        return [held.cells, held.pin(home)]

    def provenance(self, pairs: list[Pair], home: Path) -> dict[str, dict[str, Any]]:
        return self._held_out(self._languages(pairs, home)[0]).provenance(home)

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        """An item's texts are those by which the task's rows are kept apart; `item` is the prompt and the answer."""
        held = self._held_out(self._languages(pairs, home)[0])
        for lang in held.cells:
            examples = list(held.examples(lang, home))
            self._refuse_trained(lang, held, examples, home)
            rows = []
            order = np.argsort(seeded_order(digests(example.item for example in examples), "held-out"), kind="stable")
            for number in sorted(order[: self.rows].tolist()):
                example = examples[number]
                said = held.answer(example)
                if _parsed(held, said) is None:
                    raise UserError(
                        f"eval.{self.name}, {held.name}, {lang}: found the right answer {said!r}, which cannot be read "
                        f"back. Needed: labels of one word, and an answer of one line. Correct the data."
                    )
                item = {"number": number, "prompt": held.render(example), "answer": said}
                asks = json.dumps(item, ensure_ascii=False)
                rows += [(self.name, asks, f"{held.name}/{lang}", lang, text) for text in held.segments(example)]
            columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=EVAL_TEXT)

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        task, out = self._taught, dict[str, Metric]()
        found = self.answers(lm, texts)
        for lang in dict.fromkeys(item.lang for item in found):
            own = [item for item in found if item.lang == lang]
            read = [(_parsed(task, item.reference), _parsed(task, item.output)) for item in own]
            of = [item.texts for item in own]
            if isinstance(read[0][0], tuple):
                counts = np.array([overlap(gold, said or ()) for gold, said in read], np.float64)
                # F1 = 2 tp / (2 tp + fp + fn), a ratio of sums over items
                figure = statistics.ratio(2 * counts[:, 0], counts[:, 1] + counts[:, 2], texts=of)
                out[f"{task.name}/{lang}/f1"] = figure
            else:
                right = np.array([said == gold for gold, said in read])
                out[f"{task.name}/{lang}/acc"] = statistics.mean(right, texts=of)
            valid = np.array([said is not None for _, said in read])
            out[f"{task.name}/{lang}/valid"] = statistics.mean(valid, texts=of)
        return out

    def answers(self, lm: LanguageModel, texts: pa.Table) -> list[Answered]:
        """Every item with what the model says to it, language by language."""
        task, items = self._taught, self._items(texts)
        said = lm.reply([item.prompt for item in items], task.stop, self.max_new_tokens)
        return [item._replace(output=text) for item, text in zip(items, said, strict=True)]

    def _items(self, texts: pa.Table) -> list[Answered]:
        """Every item, not answered yet, language by language."""
        task, items = self._taught, list[Answered]()
        for pair in pc.unique(texts["pair"]).to_pylist():
            own, _, lang = pair.partition("/")
            if own != task.name:  # another eval of this name asks it
                continue
            rows = texts.filter(pc.equal(texts["pair"], pair))
            for item, of in zip(pc.unique(rows["item"]).to_pylist(), texts_by_item(rows, pair), strict=True):
                held = json.loads(item)
                items.append(Answered(lang, of, held["prompt"], held["answer"], ""))
        return items

    def samples(self, lm: LanguageModel, texts: pa.Table) -> list[Sample]:
        by_language: dict[str, list[Answered]] = {}
        for item in self.answers(lm, texts):
            by_language.setdefault(item.lang, []).append(item)
        return [
            Sample(f"{self._taught.name}/{lang}", item.prompt[-1]["content"], item.reference, item.output)
            for lang, items in by_language.items()
            for item in items[:SHOWN]
        ]

    def chance(self, texts: pa.Table) -> dict[str, float]:
        """1 / answers, of tasks that have but few."""
        task = self._taught
        asks = [pair for pair in pc.unique(texts["pair"]).to_pylist() if pair.startswith(f"{task.name}/")]
        return {f"{pair}/acc": 1 / len(task.choices) for pair in asks if task.choices}

    def baselines(self, texts: pa.Table, random: Callable[[], LanguageModel] | None) -> dict[str, dict[str, Metric]]:
        """`constant`: always the answer that is right most often, of tasks that have but few."""
        right: dict[str, Counter[str]] = {}
        for item in self._items(texts) if self._taught.choices else ():
            right.setdefault(item.lang, Counter())[item.reference] += 1
        return {
            "constant": {
                f"{self._taught.name}/{lang}/acc": {"value": max(found.values()) / found.total(), "n": found.total()}
                for lang, found in right.items()
            }
        }

    @property
    def _taught(self) -> Task:
        assert isinstance(self.task, Task), "a recipe puts the task in place of its name"
        return self.task

    def _held_out(self, langs: list[str]) -> Task:
        """The task on its held-out items."""
        settings = {**self._taught.model_dump(mode="json"), **self.test, "train": langs}
        try:
            held = rebuild(self._taught, settings)
        except NestedError as error:
            said = "; ".join(f"{'.'.join(map(str, place[1:]))}: {text}" for place, text in error.errors)
            raise UserError(f"eval.{self.name}.test: {said}") from None
        assert isinstance(held, Task)
        held.set_languages(self._recipe_languages)
        return held

    def _languages(self, pairs: list[Pair], home: Path | None) -> tuple[list[str], list[str]]:
        """The languages to ask in, and those of the wanted ones without items; `home` as for `Task.has`."""
        wanted = self.languages or sorted({lang for pair in pairs for lang in pair} | {*self._taught.cells})
        held = self._held_out(wanted)
        there = [lang for lang in wanted if held.has(lang, home)]
        return there, [lang for lang in wanted if lang not in there]

    def _refuse_trained(self, lang: str, held: Task, examples: list[Example], home: Path) -> None:
        """ValueError where `test` names what is trained on."""
        if lang not in self._taught.cells:
            return
        trained = {tuple(self._taught.segments(example)) for example in self._taught.examples(lang, home)}
        if all(tuple(held.segments(example)) in trained for example in examples):
            raise UserError(
                f"eval.{self.name}.test: found {len(examples):,} items of {held.name} in {lang}, all of which are "
                f"trained on. Needed: held-out items. Name them, such as test: {{data_files: '{{lang}}.test.conll'}}."
            )


def _parsed(task: Task, output: str) -> Any:
    """What an answer says without the reasoning before it; nothing, where there is only reasoning, is in no form."""
    answer, _ = Reasoning().without(output)
    return task.parse(answer) if answer.strip() else None


def overlap(gold: Sequence[Span], said: Sequence[Span]) -> tuple[int, int, int]:
    """(spans of both, of gold, of said). A span said twice counts twice, and is right as often as gold has it.

    A model copies letters as its tokenizer has them, so texts are compared in NFKC and whatever their spaces.
    """
    counts = [Counter((span.type, _plain(span.text)) for span in spans) for spans in (gold, said)]
    return (counts[0] & counts[1]).total(), len(gold), len(said)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())
