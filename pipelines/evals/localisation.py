"""Questions whose right answer depends on the language they are asked in, and whether English's is given instead.

Source: aligning languages moves facts across them and takes local answers away (arXiv 2510.26024). Choices are scored
by likelihood per character, as lm-evaluation-harness does for `acc_norm` (doi 10.5281/zenodo.10256836).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from pipelines import statistics
from pipelines.errors import UserError
from pipelines.evals import Eval, LanguageModel, Measure, Metric, texts_by_item
from pipelines.fetching.paths import content_hash, expand
from pipelines.languages import Pair, name, parse
from pipelines.schema import EVAL_TEXT
from pipelines.text.text_files import file_lines, parse_json

EMBEDDED = Path(__file__).with_suffix(".jsonl")
ENGLISH = "eng_Latn"
ROUNDING = 1e-9  # nats a character: choices nearer together are equally likely
FORM = '{"id": "currency", "lang": "de", "question": "Man zahlt in", "choices": [" Dollar", " Euro"], "answer": 1}'


class Item(NamedTuple):
    """A question in one language; choice i means the same in all languages of an `id`."""

    id: str
    lang: str
    question: str
    choices: tuple[str, ...]
    """As they continue the question, space included."""
    answer: int

    @property
    def text(self) -> str:
        """What training is kept from: the question with its right answer."""
        return self.question + self.choices[self.answer]


class Localisation(Eval):
    """`accuracy`: share of questions answered as the language has it. `english_answers`: share answered as English has
    it, of the questions where that is wrong; more is worse, as a model that is aligned too far answers so everywhere.

    Choices are likely by nats a character; k equally likely ones earn 1/k each.
    """

    libraries: ClassVar[tuple[str, ...]] = ("numpy",)
    measures: ClassVar[Mapping[str, Measure]] = {
        "localisation/accuracy": Measure(
            title="Local answers: accuracy",
            note="Share of questions answered as is usual in the language. Higher is better.",
            name="local answers",
        ),
        "localisation/english_answers": Measure(
            title="Local answers: English's given instead",
            note="Share of questions answered as English has it, where that is wrong. More is worse: a model that is "
            "aligned too far answers as in English everywhere.",
            name="English's answers given elsewhere",
            lower_is_better=True,
        ),
    }

    sample: bool = False
    """Ask the embedded questions: 11 or 12 in each of the sample's languages, on what is usual in the country where
    most speak it (en US, sw TZ, hi IN), on punctuation and on word order. Few, so only large changes are told."""
    path: str | None = None
    """JSON lines, by path, address or pattern: id, lang, question, choices, answer (the number of a choice, from 0)."""

    @model_validator(mode="after")
    def _one_set(self) -> "Localisation":
        if self.sample == (self.path is not None):
            found = f"sample: true and path {self.path!r}" if self.sample else "neither"
            raise UserError(f"found {found}. Allowed: `sample: true` or a path. Give one of the two.")
        return self

    def check(self, pairs: list[Pair]) -> None:
        if not self._asked(pairs):
            langs = sorted({item.lang for item in self.items()})
            raise UserError(
                f"eval.{self.name}: has no question in {', '.join(_languages(pairs))}. Allowed: items in at least one "
                f"language of the recipe; these are in {', '.join(langs)}. Add such items, or remove the eval."
            )

    def notes(self, pairs: list[Pair]) -> list[str]:
        there = {item.lang for item in self._asked(pairs)}
        lost = [f"{name(lang)} ({lang})" for lang in _languages(pairs) if lang not in there]
        return [f"{self.name}: no question is asked in {', '.join(lost)}."] if lost else []

    def files(self) -> list[Path]:
        return [EMBEDDED] if self.sample else []

    def pin(self, pairs: list[Pair], home: Path) -> Any:
        return [content_hash(file) for file in expand(self.path)] if self.path else None

    def provenance(self, pairs: list[Pair], home: Path) -> dict[str, dict[str, Any]]:
        if self.sample:
            own = "Isogloss, embedded questions on local conventions, of our own making: pipelines/evals."
            return {"localisation/v1": {"version": "v1", "licence": "Apache-2.0", "url": "", "citation": own}}
        return {"localisation": {"version": "", "licence": "not stated", "url": "", "citation": "items of the recipe"}}

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        rows = [(self.name, item.id, item.lang, item.lang, item.text) for item in self._asked(pairs)]
        yield pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in zip(*rows, strict=True)], schema=EVAL_TEXT)

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        out: dict[str, Metric] = {}
        for lang, items in self._held(texts).items():
            nats, _ = lm.loglikelihood([(item.question, choice) for item in items for choice in item.choices])
            if not np.isfinite(nats).all():
                raise UserError(
                    f"{self.name}, {lang}: a log-likelihood is NaN or infinite. Needed: finite. The training diverged."
                )
            rates = nats / [len(choice) for item in items for choice in item.choices]
            bounds = np.cumsum([len(item.choices) for item in items])[:-1]
            picked = [best / best.sum() for own in np.split(rates, bounds) for best in [own >= own.max() - ROUNDING]]
            of = texts_by_item(texts, lang)
            right = np.array([credit[item.answer] for item, credit in zip(items, picked, strict=True)])
            out[f"{self.name}/{lang}/accuracy"] = statistics.mean(right, texts=of)
            differ = self._differing(items)
            if differ:
                said = np.array([picked[i][english] for i, english in differ.items()])
                out[f"{self.name}/{lang}/english_answers"] = statistics.mean(said, texts=[of[i] for i in differ])
        return out

    def chance(self, texts: pa.Table) -> dict[str, float]:
        """One over the choices, averaged over the questions."""
        out: dict[str, float] = {}
        for lang, items in self._held(texts).items():
            each = [1 / len(item.choices) for item in items]
            out[f"{self.name}/{lang}/accuracy"] = float(np.mean(each))
            if differ := self._differing(items):
                out[f"{self.name}/{lang}/english_answers"] = float(np.mean([each[i] for i in differ]))
        return out

    def items(self) -> list[Item]:
        """All questions, in all languages; ValueError where one is not as it should be."""
        found: dict[tuple[str, str], Item] = {}
        choices: dict[str, tuple[int, str]] = {}
        for where, line in self._lines():
            item = _item(line, where)
            if (item.lang, item.id) in found:
                raise UserError(f"{where}: found '{item.id}' in {item.lang} twice. Allowed: once. Rename one.")
            count, first = choices.setdefault(item.id, (len(item.choices), where))
            if count != len(item.choices):
                raise UserError(
                    f"{where}: found {len(item.choices)} choices of '{item.id}', and {count} at {first}. Needed: as "
                    f"many in every language, and of one order, so that English's can be found. Correct one."
                )
            found[item.lang, item.id] = item
        return [found[key] for key in sorted(found)]

    def _lines(self) -> Iterator[tuple[str, str]]:
        """(place, line) of every item."""
        for file in [str(EMBEDDED)] if self.sample else expand(self.path or ""):
            yield from ((where, line) for where, line in file_lines(file) if line.strip())

    def _asked(self, pairs: list[Pair]) -> list[Item]:
        wanted = set(_languages(pairs))
        return [item for item in self.items() if item.lang in wanted]

    def _held(self, texts: pa.Table) -> dict[str, list[Item]]:
        """{language: questions} of `texts`, in their order; ValueError where the items have changed since."""
        known = {(item.lang, item.id): item for item in self.items()}
        out: dict[str, list[Item]] = {}
        for row in texts.select(["lang", "item", "text"]).to_pylist():
            item = known.get((row["lang"], row["item"]))
            if item is None or item.text != row["text"]:
                raise UserError(
                    f"eval.{self.name}: '{row['item']}' in {row['lang']} changed since eval_text was made. Allowed: "
                    f"the same items, which training was kept from. Run the corpus stages again."
                )
            out.setdefault(row["lang"], []).append(item)
        return dict(sorted(out.items()))

    def _differing(self, items: list[Item]) -> dict[int, int]:
        """{number of a question: English's answer} of those where English's is wrong."""
        english = {item.id: item.answer for item in self.items() if item.lang == ENGLISH}
        return {i: english[item.id] for i, item in enumerate(items) if english.get(item.id, item.answer) != item.answer}


def _languages(pairs: list[Pair]) -> list[str]:
    return sorted({lang for pair in pairs for lang in pair})


def _item(line: str, where: str) -> Item:
    try:
        row = parse_json(where, line)
        choices = tuple(row["choices"])
        item = Item(str(row["id"]), parse(row["lang"]), row["question"], choices, row["answer"])
        texts = [item.question, *choices]
        whole = type(item.answer) is int and 0 <= item.answer < len(choices)
        good = whole and len(set(choices)) == len(choices) > 1 and all(isinstance(t, str) and t.strip() for t in texts)
    except (KeyError, TypeError, ValueError) as error:
        found = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{where}: {found}. Needed: {FORM}. Correct the line.") from None
    if not good:
        raise UserError(
            f"{where}: found choices {list(choices)} and answer {item.answer!r}. Needed: two choices or more, all "
            f"different, and the number of the right one, from 0, as in {FORM}. Correct the line."
        )
    return item
