"""Benchmarks of lm-evaluation-harness, used as a library: its prompts, filters and metrics, in the recipe's languages.

Source: Gao et al., A framework for few-shot language model evaluation (doi 10.5281/zenodo.10256836). The data are those
of the hub, or local files in the form in which the benchmark's authors publish them.
"""

import importlib.util
import io
import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from pydantic import Field, field_validator

from pipelines import statistics
from pipelines.errors import UserError
from pipelines.evals import Eval, LanguageModel, Metric, texts_by_item
from pipelines.fetching.paths import content_hash, expand, open_binary
from pipelines.languages import Pair, alpha2, iso, name, parse
from pipelines.schema import EVAL_TEXT
from pipelines.text.matching import match_key
from pipelines.text.text_files import csv_rows, file_lines, parse_json, repaired, unpacked_name

Role = Literal["test", "validation", "train"]
Shots = Annotated[int, Field(ge=0)]
Row = dict[str, Any]

SEED = 1234
"""Of the examples that a few-shot prompt shows; lm-eval's own."""
NAMED = re.compile(r'^(?:{ *)?"?task"?: *["\']?([^\s"\',\[]+)["\']? *,?$', re.MULTILINE)
CODE = r"[A-Za-z]{2,3}(?:[_-][A-Za-z]{2,4})?"
SPELT = {"jp": "jpn_Jpan"}
"""Languages that a benchmark calls by what is no code of theirs."""
REFUSED = {
    "loglikelihood_rolling": "its texts are scored as a whole; the eval `loss` does that for held-out text",
    "class": "it is a class of its own in Python",
}


class Family(NamedTuple):
    """A benchmark that has a task a language."""

    pattern: str
    folder: str
    licence: str
    citation: str
    columns: tuple[str, ...] = ()
    """Of its tab-separated files, which have no header."""
    read: Callable[[Row], Row] = dict
    """A row of its files -> a row as the task has it from the hub."""


def _xnli(row: Row) -> Row:
    return {**row, "label": ("entailment", "neutral", "contradiction").index(row["label"])}


def _mgsm(row: Row) -> Row:
    number = int(str(row.get("answer_number", row.get("answer"))).replace(",", ""))
    return {"question": row["question"], "answer": None, "answer_number": number, "equation_solution": None}


def _xwinograd(row: Row) -> Row:
    """The pronoun of crosslingual_winograd's rows becomes the gap, its two candidates the options."""
    if "option1" in row:
        return row
    sentence, at = row["sentence"], 0
    text, (begin, _), words = repaired(json.loads(row["pronoun"]))
    for token in repaired(json.loads(row["tokens"]))[:begin]:
        place = sentence.find(token.strip(), at)  # -1 of a quotation mark, which the tokens spell otherwise
        at = at if place < 0 else place + len(token.strip())
    at = sentence.index(words[0], at)
    options = repaired(json.loads(row["candidates"]))
    answer = next(str(i) for i, option in enumerate(options, start=1) if option[-1])
    gap = sentence[:at] + "_" + sentence[at + len(text) :]
    return {"sentence": gap, "option1": options[0][0], "option2": options[1][0], "answer": answer}


STORY = {f"InputSentence{i}": f"input_sentence_{i}" for i in (1, 2, 3, 4)} | {
    "InputStoryid": "story_id", "RandomFifthSentenceQuiz1": "sentence_quiz1",
    "RandomFifthSentenceQuiz2": "sentence_quiz2", "AnswerRightEnding": "answer_right_ending",
}  # fmt: skip


def _xstorycloze(row: Row) -> Row:
    return {STORY.get(key, key): int(value) if key == "AnswerRightEnding" else value for key, value in row.items()}


FAMILIES = {
    "xnli": Family(
        "xnli_{lang}", "xnli", "CC-BY-NC-4.0", "Conneau et al. 2018, XNLI. EMNLP. arXiv 1809.05053",
        ("premise", "hypothesis", "label"), _xnli,
    ),
    "pawsx": Family(
        "paws_{lang}", "paws-x", "free for any purpose, Google LLC to be acknowledged",
        "Yang et al. 2019, PAWS-X. EMNLP. arXiv 1908.11828", (), lambda row: {**row, "label": int(row["label"])},
    ),
    "xcopa": Family("xcopa_{lang}", "xcopa", "CC-BY-4.0", "Ponti et al. 2020, XCOPA. EMNLP. arXiv 2005.00333"),
    "xstorycloze": Family(
        "xstorycloze_{lang}", "xstorycloze", "CC-BY-SA-4.0", "Lin et al. 2022, XGLM. EMNLP. arXiv 2112.10668", (),
        _xstorycloze,
    ),
    "xwinograd": Family(
        "xwinograd_{lang}", "xwinograd", "CC-BY-4.0",
        "Tikhonov and Ryabinin 2021, XWINO. Findings of ACL. arXiv 2106.12066",
        ("lang", "source", "note", "sentence", "tokens", "pronoun", "candidates"), _xwinograd,
    ),
    "mgsm": Family(
        "mgsm_direct_{lang}", "mgsm/direct", "CC-BY-4.0", "Shi et al. 2023, MGSM. ICLR. arXiv 2210.03057",
        ("question", "answer"), _mgsm,
    ),
    "belebele": Family(
        "belebele_{lang}", "belebele", "CC-BY-SA-4.0", "Bandarkar et al. 2024, Belebele. ACL. arXiv 2308.16884", (),
        lambda row: {**row, "correct_answer_num": str(row["correct_answer_num"])},
    ),
}  # fmt: skip


class TaskInLanguage(NamedTuple):
    """One task in one language."""

    family: str
    task: str
    lang: str
    config: Path
    files: tuple[tuple[Role, str], ...]


class Harness(Eval):
    """Tasks of lm-evaluation-harness; figures are the harness's own, with the interval over their items.

    Metrics of which less is better are left out.
    """

    libraries: ClassVar[tuple[str, ...]] = ("lm_eval", "datasets", "numpy")

    tasks: list[str] = Field(min_length=1)
    """xnli, pawsx, xcopa, xstorycloze, xwinograd, mgsm, belebele, or any task by name: `arc_{lang}` in the recipe's
    languages, `arc_de` in that of its last part, `hellaswag` in English."""
    shots: list[Shots] = Field([0], min_length=1)
    """Examples in a prompt; a list, for each in turn."""
    limit: int | None = Field(None, gt=0)
    """Items of a task and language at most: the first, as lm-eval's --limit takes them."""
    data: dict[str, dict[Role, str]] = {}
    """{task: files} to read in place of the hub: one of the items, or {test, train}; `{lang}` stands for the language.

    tsv, csv, jsonl, json or parquet, by path or address. Examples are of train, else of validation, else other items.
    """

    @field_validator("shots", mode="before")
    @classmethod
    def _several(cls, shots: Any) -> Any:
        return [shots] if isinstance(shots, int) else shots

    @field_validator("data", mode="before")
    @classmethod
    def _of_items(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {task: {"test": file} if isinstance(file, str) else file for task, file in data.items()}

    def check(self, pairs: list[Pair]) -> None:
        self.plan(_languages(pairs))

    def notes(self, pairs: list[Pair]) -> list[str]:
        return self.plan(_languages(pairs))[1]

    def pin(self, pairs: list[Pair], home: Path) -> Any:
        """The content of local files; of data of the hub, the version of lm-eval, which is in the fingerprint."""
        asked = self.plan(_languages(pairs))[0]
        return [[one.task, one.lang, [(role, content_hash(file)) for role, file in one.files]] for one in asked]

    def provenance(self, pairs: list[Pair], home: Path) -> dict[str, dict[str, Any]]:
        out = {}
        for one in self.plan(_languages(pairs))[0]:
            said = _read_config(one.config)
            version = str((said.get("metadata") or {}).get("version", ""))
            known = FAMILIES.get(one.family)
            out[f"{one.family}/{version}"] = {
                "version": version,
                "licence": known.licence if known else "not stated",
                "url": f"https://huggingface.co/datasets/{said.get('dataset_path', '')}",
                "citation": known.citation if known else f"task {one.task} of lm-evaluation-harness",
            }
        return out

    def texts(self, pairs: list[Pair], home: Path) -> Iterator[pa.RecordBatch]:
        """What of an item stands in its prompt, choices or answer, as the data have it; `pair` is the task."""
        for one in self.plan(_languages(pairs))[0]:
            with quiet():
                task = load_task(one)
                task.set_config("num_fewshot", 0)
                task.build_all_requests(limit=self.limit)
            if (most := max(self.shots)) and len(task.sampler.df) <= most:
                raise UserError(
                    f"eval.{self.name}.shots: found {most}, but {one.task} has {len(task.sampler.df)} examples to draw "
                    f"from. Allowed: fewer shots than examples. Lower it, or give files of `train`."
                )
            items: dict[int, list[Any]] = {}
            for instance in task.instances:
                items.setdefault(instance.doc_id, []).append(instance)
            rows = [(str(number), text) for number, found in sorted(items.items()) for text in _texts(task, found)]
            columns = {
                "eval": [self.name] * len(rows),
                "item": [number for number, _ in rows],
                "pair": [one.task] * len(rows),
                "lang": [one.lang] * len(rows),
                "text": [text for _, text in rows],
            }
            yield pa.RecordBatch.from_pydict(columns, schema=EVAL_TEXT)

    def run(self, lm: LanguageModel, texts: pa.Table) -> dict[str, Metric]:
        out: dict[str, Metric] = {}
        langs = sorted(set(texts["lang"].to_pylist()))
        of = {f"{one.family}/{one.lang}": texts_by_item(texts, one.task) for one in self.plan(langs)[0]}
        for key, (own, each) in self.scored(lm, texts).items():
            items = of[key.rpartition("/")[0]]
            metric = statistics.mean(each, texts=items if len(items) == len(each) else None)
            # Where the harness's figure is no mean over items, resampling a mean says nothing about it.
            out[key] = metric if abs(metric["value"] - own) < 1e-9 else {"value": own, "n": len(each)}
        return out

    def scored(self, lm: LanguageModel, texts: pa.Table) -> dict[str, tuple[float, np.ndarray]]:
        """{key: (the harness's figure, its items' float64 [N])}, items in the order of `texts`, for paired tests."""
        asked = self._held(texts)
        out: dict[str, tuple[float, np.ndarray]] = {}
        for shots in self.shots:
            with quiet():
                tasks = [load_task(one) for one in asked]
                results = evaluated(adapter(lm), tasks, shots, self.limit)
            for one, task in zip(asked, tasks, strict=True):
                better, samples = task.higher_is_better(), results["samples"][one.task]
                for metric, filter_ in _metrics(samples):
                    values = [row[metric] for row in samples if row["filter"] == filter_ and metric in row]
                    if better.get(metric) is False or not all(isinstance(v, int | float | np.number) for v in values):
                        continue
                    key = _key(one, metric, filter_, len({row["filter"] for row in samples}), shots)
                    own = float(results["results"][one.task][f"{metric},{filter_}"])
                    out[key] = (own, np.array(values, np.float64))
        return out

    def chance(self, texts: pa.Table) -> dict[str, float]:
        """1 / choices, averaged over items, of accuracies."""
        return {
            key: float(np.mean([1 / len(task.doc_to_choice(doc)) for doc in docs]))
            for keys, task, docs in self._choices(texts)
            for key in keys
        }

    def baselines(self, texts: pa.Table, random: Callable[[], LanguageModel] | None) -> dict[str, dict[str, Metric]]:
        """`constant`: always the choice, by its number, that is right most often; of accuracies."""
        out: dict[str, Metric] = {}
        for keys, task, docs in self._choices(texts):
            right = Counter(choice for doc in docs for choice in _right(task, doc) if choice >= 0)
            out |= {key: {"value": max(right.values(), default=0) / len(docs), "n": len(docs)} for key in keys}
        return {"constant": out}

    def _choices(self, texts: pa.Table) -> Iterator[tuple[list[str], Any, list[Any]]]:
        """(keys of its accuracies, the harness's task, its items) of each task of choices."""
        for one in self._held(texts):
            with quiet():
                task = load_task(one)
                if task.OUTPUT_TYPE != "multiple_choice":
                    continue
                docs = [doc for _, doc in task.doc_iterator(limit=self.limit)]
                metrics = [metric for metric in task.aggregation() if metric.startswith("acc")]
            yield [_key(one, metric, "none", 1, shots) for metric in metrics for shots in self.shots], task, docs

    def plan(self, langs: list[str]) -> tuple[list[TaskInLanguage], list[str]]:
        """What is asked in which language, and a note on what is not; ValueError where a task has none of them."""
        where = f"eval.{self.name}"
        root()
        if len(set(self.tasks)) < len(self.tasks) or len(set(self.shots)) < len(self.shots):
            raise UserError(f"{where}: found a task or number of shots twice. Allowed: each once. Remove one.")
        if unknown := sorted(set(self.data) - set(self.tasks)):
            raise UserError(
                f"{where}.data: found {', '.join(unknown)}. Allowed: tasks of this eval ({', '.join(self.tasks)}). "
                f"Correct the name, or add the task."
            )
        out: list[TaskInLanguage] = []
        notes: list[str] = []
        for task in self.tasks:
            known = FAMILIES.get(task)
            configs = _configs(known.pattern if known else task, known.folder if known else "", where)
            family = re.sub(r"_?\{lang\}_?", "", task).replace("/", "_")
            asked, lost = [], []
            single = len(configs) == 1 and not known and "{lang}" not in task
            for lang in configs if single else langs:
                if lang not in configs:
                    lost.append(lang)
                    continue
                spelt, config = configs[lang]
                files = self._files(task, lang, spelt)
                if files is None:
                    lost.append(lang)
                    continue
                of = (known.pattern if known else task).replace("{lang}", spelt)
                asked.append(TaskInLanguage(task if known else family, of, lang, config, files))
            if not asked:
                files = " with its files " + ", ".join(self.data[task].values()) if task in self.data else ""
                raise UserError(
                    f"{where}.tasks: {task}{files} has none of {', '.join(langs)}. Allowed: a task in at least one "
                    f"language of the recipe; it has {', '.join(sorted(configs))}. Remove it or correct its files."
                )
            if lost:
                named = ", ".join(f"{name(lang)} ({lang})" for lang in lost)
                notes.append(f"{self.name}: {task} is not asked in {len(lost)} of {len(langs)} languages: {named}.")
            out += asked
        for one in out:
            said = _read_config(one.config)
            kind = "class" if "class" in said else said.get("output_type", "generate_until")
            if said.get("num_fewshot") == 0 and any(self.shots):
                raise UserError(
                    f"{where}.shots: found {', '.join(map(str, self.shots))}, but {one.task} is made to have none. "
                    f"Allowed: 0. Ask it in an eval of its own, or remove it."
                )
            if kind in REFUSED:
                raise UserError(
                    f"{where}.tasks: {one.task} cannot be asked: {REFUSED[kind]}. Allowed: multiple_choice, "
                    f"loglikelihood and generate_until. Remove it."
                )
        return out, notes

    def _files(self, task: str, lang: str, spelt: str) -> tuple[tuple[Role, str], ...] | None:
        """The files of a task in one language; None where those of its items are not there."""
        if task not in self.data:
            return ()
        roles = self.data[task]
        found: list[tuple[Role, str]] = []
        for role, pattern in roles.items():
            for code in dict.fromkeys((spelt, lang, alpha2(lang), iso(lang))):
                try:
                    [file] = expand(pattern.replace("{lang}", code))
                except ValueError:
                    continue
                found.append((role, file))
                break
        if not any(role != "train" for role, _ in found):
            return None
        return tuple(found)

    def _held(self, texts: pa.Table) -> list[TaskInLanguage]:
        """What `texts` holds, in its order; ValueError where the data are not those that the texts were taken from."""
        kept: dict[str, dict[str, set[str]]] = {}
        for row in texts.select(["pair", "item", "text"]).to_pylist():
            kept.setdefault(row["pair"], {}).setdefault(row["item"], set()).add(row["text"])
        langs = sorted(set(texts["lang"].to_pylist()))
        asked = {one.task: one for one in self.plan(langs)[0] if one.task in kept}
        kept = {task: items for task, items in kept.items() if task in asked}  # another eval of this name may have more
        for task, items in kept.items():
            with quiet():
                docs = {str(i): set(_strings(doc)) for i, doc in load_task(asked[task]).doc_iterator(limit=self.limit)}
            if set(docs) != set(items) or not all(items[number] & docs[number] for number in items):
                raise UserError(
                    f"eval.{self.name}, {task}: its data changed since eval_text was made. Allowed: the same items, "
                    f"which training was kept from. Run the corpus stages again."
                )
        return [asked[task] for task in kept]


def read_splits(family: str, files: dict[str, str], **_: Any) -> Any:
    """{role: data set} of local files, for the task's YAML to name as its `custom_dataset`."""
    import datasets

    return {role: datasets.Dataset.from_list(_rows(family, file)) for role, file in files.items()}


def _rows(family: str, file: str) -> list[Row]:
    known = FAMILIES.get(family)
    kind = unpacked_name(file).rpartition(".")[2]
    try:
        rows = _parquet(file) if kind == "parquet" else list(_parsed(file, kind, known.columns if known else ()))
    except UserError as error:
        raise UserError(f"eval.harness.data: {error}") from None
    except ValueError as error:
        raise UserError(
            f"eval.harness.data: {file} cannot be read: {error}. Allowed: tsv, csv, jsonl, json or parquet, in UTF-8, "
            f"with as many columns in every line. Correct or convert it."
        ) from None
    out = []
    for number, row in enumerate(rows, start=1):
        try:
            out.append(known.read(row) if known else row)
        except (KeyError, TypeError, ValueError, IndexError, StopIteration) as error:
            raise UserError(
                f"eval.harness.data: {file}, item {number:,}: found {str(row)[:200]}, which is no item of {family} "
                f"({type(error).__name__}: {error}). Allowed: the form in which its authors publish it, or the hub's "
                f"columns. Correct the file."
            ) from None
    if not out:
        raise UserError(f"eval.harness.data: {file} is empty. Allowed: at least one item. Correct the path.")
    return out


def _parquet(file: str) -> list[Row]:
    import pyarrow.parquet as pq

    with open_binary(file) as stream:
        try:
            return repaired(pq.read_table(stream).to_pylist())
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"not a sound Parquet file: {error}") from None


def _parsed(file: str, kind: str, columns: Sequence[str]) -> Iterator[Row]:
    if kind == "jsonl":
        yield from (parse_json(where, line) for where, line in file_lines(file) if line.strip())
    elif kind == "json":
        found = parse_json(file, "\n".join(line for _, line in file_lines(file)))
        if not isinstance(found, list):
            raise ValueError(f"found {type(found).__name__} in place of a list of objects")
        yield from found
    elif kind in ("tsv", "csv"):
        text = (f"{line}\n" for _, line in file_lines(file))
        comma = kind == "csv"
        table = [line for _, line in csv_rows(text, file, "," if comma else "\t", quotes=comma)]
        head = list(columns)
        if table and (not head or set(table[0]) & set(head)):
            head = table.pop(0)
        yield from (dict(zip(head, line[-len(head) :] if columns else line, strict=True)) for line in table)
    else:
        raise ValueError(f"found a file of kind '{kind}'")


def _languages(pairs: Sequence[Pair]) -> list[str]:
    return sorted({lang for pair in pairs for lang in pair})


def _key(one: TaskInLanguage, metric: str, filter_: str, filters: int, shots: int) -> str:
    """`xcopa/swh_Latn/acc`, `mgsm/deu_Latn/exact_match_flexible-extract_8shot`."""
    parts = [metric, *([filter_] if filters > 1 else []), *([f"{shots}shot"] if shots else [])]
    return f"{one.family}/{one.lang}/{'_'.join(parts)}"


def _right(task: Any, doc: Any) -> set[int]:
    """The numbers of an item's right choices, as the harness finds them; -1 for one that is no choice."""
    found: Any = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    numbers: dict[Any, int] = {choice: number for number, choice in enumerate(task.doc_to_choice(doc))}
    each = found if isinstance(found, list) else [found]
    return {numbers.get(gold, -1) if isinstance(gold, str) else int(gold) for gold in each}


def _metrics(samples: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((metric, row["filter"]) for row in samples for metric in row["metrics"]))


def _texts(task: Any, instances: list[Any]) -> list[str]:
    """The strings of an item's data that its requests or answer show, each once; all of them where none is.

    Where choices are gaps filled, the filled sentences too.
    """
    shown = [part for instance in instances for part in instance.args if isinstance(part, str)]
    filled = ["".join(instance.args) for instance in instances] if task.multiple_input else []
    if task.OUTPUT_TYPE == "generate_until":
        shown.append(str(task.doc_to_target(instances[0].doc)))
    own = list(dict.fromkeys(_strings(instances[0].doc)))
    keys = match_key(pa.array([*own, " ".join(shown)], pa.string())).to_pylist()
    # XCOPA's prompts drop the last character of a premise, which is a full stop in most languages but not in Thai.
    found = [text for text, key in zip(own, keys, strict=False) if key and (key[:-1] if key[9:] else key) in keys[-1]]
    return found + filled or own


def _strings(value: Any) -> Iterator[str]:
    """All texts in an item's data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def root() -> Path:
    """Where the harness keeps its tasks; nothing of it is imported."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or found.origin is None:
        raise UserError(
            "eval.harness: lm_eval is not installed. Needed: lm-evaluation-harness. Install it with pip install "
            "'isogloss[eval]', or remove the eval."
        )
    return Path(found.origin).parent / "tasks"


def _configs(pattern: str, folder: str, where: str) -> dict[str, tuple[str, Path]]:
    """{our language: (what the task calls it, its YAML)} of the tasks that `pattern` names."""
    named = _named(folder, pattern.replace("{lang}", "*"))
    if "{lang}" not in pattern:
        named = named if pattern in named else _named(folder, "")
        if pattern not in named:
            raise UserError(
                f"{where}.tasks: lm-evaluation-harness has no task '{pattern}'. Allowed: {', '.join(FAMILIES)}, "
                f"or a single task by name, with {{lang}} where its languages stand; no group. Look it up with "
                f"`lm_eval ls tasks`."
            )
        end = re.search(rf"_({CODE})$", pattern)
        return {(_language(end[1]) if end and len(end[1]) != 3 else None) or "eng_Latn": ("", named[pattern])}
    before, _, after = pattern.partition("{lang}")
    whole = re.compile(f"{re.escape(before)}({CODE}){re.escape(after)}")

    def matching(named: dict[str, Path]) -> dict[str, tuple[str, Path]]:
        found: dict[str, tuple[str, Path]] = {}
        for task in sorted(named, key=lambda task: (len(task), task)):
            match = whole.fullmatch(task)
            if match and (lang := _language(match[1])):
                found.setdefault(lang, (match[1], named[task]))
        return found

    out = matching(named) or matching(_named(folder, ""))
    if not out:
        raise UserError(
            f"{where}.tasks: lm-evaluation-harness has no task '{pattern}' in any language. Allowed: "
            f"{', '.join(FAMILIES)}, or a task by name, with {{lang}} where its languages stand. Look it up with "
            f"`lm_eval ls tasks`."
        )
    return out


def _language(spelt: str) -> str | None:
    try:
        return SPELT.get(spelt) or parse(spelt)
    except ValueError:
        return None


@lru_cache
def _yamls(folder: str) -> list[Path]:
    return sorted((root() / folder).rglob("*.yaml"))


@lru_cache
def _named(folder: str, like: str) -> dict[str, Path]:
    """{task: its YAML} below the folder of a benchmark, or of all files whose names hold `like`, `*` being anything.

    The files are searched, not parsed: they are some 14,000, and most are called like their tasks.
    """
    wanted = re.compile(".*".join(map(re.escape, like.split("*")))) if not folder else re.compile("")
    out: dict[str, Path] = {}
    for file in _yamls(folder):
        if not wanted.search(file.stem):
            continue
        for task in NAMED.findall(file.read_text(encoding="utf-8")):
            out.setdefault(task, file)
    return out


class _Loader(yaml.SafeLoader):
    """Reads a task's YAML without running the functions that it names."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


@lru_cache
def _read_config(file: Path) -> dict[str, Any]:
    """What a task's YAML says, with what it includes."""
    said = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    includes = said.pop("include", [])
    out: dict[str, Any] = {}
    for path in includes if isinstance(includes, list) else [includes]:
        out |= _read_config(file.parent / path)
    return out | said


@lru_cache(maxsize=256)
def load_task(one: TaskInLanguage) -> Any:
    """The harness's task; with local files, its own YAML is included and the source of its data replaced."""
    from lm_eval.tasks import TaskManager

    path = one.config
    with tempfile.TemporaryDirectory() as folder:
        if one.files:
            roles = dict(one.files)
            examples = next((role for role in ("train", "validation") if role in roles), "test")
            said = {
                "include": str(one.config),
                "dataset_kwargs": {"family": one.family, "files": roles},
                **{f"{role}_split": role if role in roles else None for role in ("validation", "test")},
                "training_split": "train" if "train" in roles else None,
                "fewshot_split": examples,
            }
            path = Path(folder) / "task.yaml"
            read = f"custom_dataset: !function {__name__}.{read_splits.__name__}\n"
            path.write_text(read + yaml.safe_dump(said, allow_unicode=True), encoding="utf-8")
        [task] = TaskManager(include_defaults=False).load(str(path))["tasks"].values()
    return task


def evaluated(model: Any, tasks: list[Any], shots: int, limit: int | None) -> Any:
    """The harness's results of `tasks`, with the samples of every item; `model` is one of its own, or an `adapter`."""
    from lm_eval.evaluator import evaluate

    for task in tasks:
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(SEED)
    return evaluate(model, {"tasks": {task.task_name: task for task in tasks}}, limit=limit, bootstrap_iters=0)


def adapter(lm: LanguageModel) -> Any:
    """`lm` as the harness's model."""
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs

    class Adapter(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            nats, greedy = lm.loglikelihood([request.args for request in requests])
            if not np.isfinite(nats).all():
                raise UserError("harness: a log-likelihood is NaN or infinite. Needed: finite. The training diverged.")
            return list(zip(nats.tolist(), greedy.tolist(), strict=True))

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise AssertionError("refused by check()")

        def generate_until(self, requests: list[Any]) -> list[str]:
            alike: dict[tuple[tuple[str, ...], int], list[int]] = {}
            for i, request in enumerate(requests):
                asked: Any = normalize_gen_kwargs(request.args[1])
                if asked["do_sample"]:
                    raise UserError(
                        f"harness: {request.task_name} asks for sampling. Allowed: greedy decoding. Remove the task."
                    )
                until = asked.get("until") or []
                stop = tuple([until] if isinstance(until, str) else until)
                alike.setdefault((stop, asked["max_gen_toks"]), []).append(i)
            out = [""] * len(requests)
            for (stop, most), chosen in alike.items():
                try:
                    said = lm.generate([requests[i].args[0] for i in chosen], stop, most)
                except UserError as error:  # as where the model's window is no longer than an answer may be
                    task = requests[chosen[0]].task_name
                    raise UserError(
                        f"eval.harness.tasks: {task} cannot be asked of this model: {error} The task itself says how "
                        f"long an answer may be: remove it, or take a model with a longer window."
                    ) from None
                for i, text in zip(chosen, said, strict=True):
                    out[i] = text
            return out

    return Adapter()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's bars and warnings: our own line says what runs."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
