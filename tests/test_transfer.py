import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from seqeval.metrics import f1_score

from alignment_train.evaluation import evaluate
from pipelines import sample_grammar, statistics
from pipelines.config import Recipe, read_recipe, validate
from pipelines.evals import LanguageModel
from pipelines.evals.transfer import Transfer
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.report import evaluation_figures
from pipelines.results.summary import summary
from pipelines.results.verdict import verdict
from pipelines.schema import EVAL_TEXT
from pipelines.stages import collect, task_data
from pipelines.statistics import BootstrappedMetric
from pipelines.storage.store import Store
from pipelines.tasks import Message, Span
from pipelines.tasks.slot_filling import SlotFilling
from tests.support.fake_lm import Unasked
from tests.support.fake_metrics import result
from tests.support.graph import TINY

HOME = Path("unused")
PAIRS = [Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "swh_Latn")]


class Knowing(Unasked):
    """A LanguageModel that knows {what the user says: its answer}; to all else it says nothing."""

    num_layers, trained_layer = 4, 2

    def __init__(self, answers: dict[str, str]):
        self.answers = answers
        self.heard: list[tuple[list[Message], tuple[str, ...], int]] = []

    def reply(self, talks: Sequence[list[Message]], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        self.heard += [(talk, tuple(stop), max_new_tokens) for talk in talks]
        return [self.answers.get(talk[-1]["content"], "") for talk in talks]


def columns(labels: Sequence[str], words: Sequence[str]) -> str:
    lines = (f"{n}\t{word}\tx\t{label}" for n, (word, label) in enumerate(zip(words, labels, strict=True), 1))
    return "\n".join(lines) + "\n\n"


def slots(folder: Path, test: dict[str, list[list[str]]], train: str = "Play\tsong") -> tuple[Transfer, list[str]]:
    """The eval over sentences with these labels, whose words tell them apart; and all sentences in order."""
    folder.mkdir(exist_ok=True)
    said = []
    for lang, labels in test.items():
        words = [[f"{lang}{n}w{i}" for i in range(len(row))] for n, row in enumerate(labels)]
        said += [" ".join(row) for row in words]
        text = "".join(columns(row, some) for row, some in zip(labels, words, strict=True))
        (folder / f"{lang}.test.conll").write_text(text)
    (folder / "en.train.conll").write_text("1\tPlay\tx\tO\n2\tit\tx\tB-song\n")
    task = SlotFilling.model_validate({"path": str(folder), "data_files": "{lang}.train.conll", "train": ["en"]})
    return Transfer.model_validate({"task": task, "test": {"data_files": "{lang}.test.conll"}}), said


def held_out(item: Transfer, pairs: list[Pair] = PAIRS) -> pa.Table:
    return pa.Table.from_batches(list(item.texts(pairs, HOME)), schema=EVAL_TEXT)


def as_answer(labels: Sequence[str], sentence: str) -> str:
    """What a model says that labels the words so; spans as CoNLL has them."""
    spans: list[Span] = []
    before = "O"
    for label, word in zip(labels, sentence.split(), strict=True):
        mark, _, kind = label.partition("-")
        if mark == "B" or (mark == "I" and before != kind):
            spans.append(Span(kind, word))
        elif mark == "I":
            spans[-1] = Span(kind, f"{spans[-1].text} {word}")
        before = kind
    return "; ".join(f"{span.type}: {span.text}" for span in spans) or "None"


PUBLISHED = (
    [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
    [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
    0.5,
)
"""The example of seqeval's README: gold, said and F1."""


def drawn(seed: int, rows: int = 40) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    kinds = np.array(["O", "O", "O", "B-time", "I-time", "B-song", "I-song"])
    return [rng.choice(kinds, size=rng.integers(1, 9)).tolist() for _ in range(rows)]


def test_f1_is_that_of_seqeval(tmp_path: Path) -> None:
    assert f1_score(*PUBLISHED[:2]) == PUBLISHED[2]
    gold, noise = drawn(0), drawn(1)
    said = [row if n % 3 else (other * 8)[: len(row)] for n, (row, other) in enumerate(zip(gold, noise, strict=True))]
    for number, (right, given) in enumerate((PUBLISHED[:2], (gold, said), (said, gold))):
        item, sentences = slots(tmp_path / str(number), {"en": right})
        model = Knowing({text: as_answer(row, text) for row, text in zip(given, sentences, strict=True)})
        found = item.run(model, held_out(item))["slot_filling/eng_Latn/f1"]
        assert found["value"] == pytest.approx(f1_score(right, given), abs=1e-12)
        assert found["n"] == len(right)


def test_f1_of_the_published_example_is_a_half(tmp_path: Path) -> None:
    item, sentences = slots(tmp_path, {"en": PUBLISHED[0]})
    model = Knowing({text: as_answer(row, text) for row, text in zip(PUBLISHED[1], sentences, strict=True)})
    assert item.run(model, held_out(item))["slot_filling/eng_Latn/f1"]["value"] == PUBLISHED[2]


def test_the_interval_and_the_paired_difference_are_over_items(tmp_path: Path) -> None:
    gold = drawn(2, 60)
    item, sentences = slots(tmp_path, {"en": gold})
    texts = held_out(item)
    found = {}
    for name, wrong in (("base", 2), ("aligned", 5)):
        said = {text: as_answer(row, text) for row, text in zip(gold, sentences, strict=True)}
        said |= dict.fromkeys(sentences[::wrong], "song: x")
        found[name] = item.run(Knowing(said), texts)["slot_filling/eng_Latn/f1"]
    counts = []
    for n, row in enumerate(gold):
        spans = 0 if (answer := as_answer(row, sentences[n])) == "None" else answer.count(": ")
        counts.append([(0, spans, 1) if n % wrong == 0 else (spans, spans, spans) for wrong in (2, 5)])
    each = np.array(counts)  # [60, models, (right, gold, said)]
    resamples = []
    for weights in statistics.weights(60):
        right, *sizes = (each * weights[:, None, None].astype(int)).sum(0).T
        resamples.append(2 * right / sum(sizes))
    low, high = np.quantile(np.array(resamples)[:, 1], [0.025, 0.975])
    assert found["aligned"] == pytest.approx(
        {"value": 2 * each[:, 1, 0].sum() / each[:, 1, 1:].sum(), "low": low, "high": high, "n": 60}
    )
    base, aligned = found["base"], found["aligned"]
    assert isinstance(base, BootstrappedMetric)
    assert isinstance(aligned, BootstrappedMetric)
    assert statistics.paired(aligned, base).resamples == pytest.approx(np.diff(resamples)[:, 0])
    rest = statistics.without(aligned, {sentences[1]})[1]
    assert rest is not None
    kept = np.arange(60) != 1
    assert rest["value"] == pytest.approx(2 * each[kept, 1, 0].sum() / each[kept, 1, 1:].sum())


@pytest.mark.parametrize(
    ("said", "f1", "valid"),
    [
        ("song: w; song: w", 1.0, 1.0),
        (" song: ｗ; song:  w \n", 1.0, 1.0),  # a tokenizer's full-width letter, and other spaces
        ("song: w", 2 / 3, 1.0),
        ("song: w; song: w; song: w", 4 / 5, 1.0),  # more often than it stands there
        ("time: w; song: w", 0.5, 1.0),
        ("None", 0.0, 1.0),
        ("I play w.", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_what_a_model_says_of_a_word_that_stands_there_twice(
    tmp_path: Path, said: str, f1: float, valid: float
) -> None:
    item, _ = slots(tmp_path, {"en": [["O"]]})
    (tmp_path / "en.test.conll").write_text(columns(["B-song", "O", "B-song"], ["w", "and", "w"]))
    found = item.run(Knowing({"w and w": said}), held_out(item))
    assert {key: metric["value"] for key, metric in found.items()} == {
        "slot_filling/eng_Latn/f1": pytest.approx(f1), "slot_filling/eng_Latn/valid": valid,
    }  # fmt: skip


def test_texts_without_spans_of_which_none_is_said_have_f1_0_as_in_seqeval(tmp_path: Path) -> None:
    item, sentences = slots(tmp_path, {"en": [["O"], ["O", "O"]]})
    found = item.run(Knowing(dict.fromkeys(sentences, "None")), held_out(item))
    assert found["slot_filling/eng_Latn/f1"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert found["slot_filling/eng_Latn/valid"]["value"] == 1.0


def taught(tmp_path: Path, evals: str = "{task: sample_slots, test: {split: heldout}, max_new_tokens: 40}") -> Recipe:
    """The tiny recipe with slots of English sentences."""
    file = tmp_path / "taught.yaml"
    tasks = "[sample_slots: {train: [en], dev_rows: 10, system: ''}]"
    file.write_text(f"extends: {TINY}\ncorpus: {{tasks: {tasks}}}\neval: [transfer: {evals}]\n", encoding="utf-8")
    return read_recipe(file)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Store]:
    """The held-out texts and the task's rows of the tiny recipe."""
    folder = tmp_path_factory.mktemp("planted")
    recipe = taught(folder)
    store = Store.open(folder / "store", recipe.name)
    collect.run_evals(recipe, store)
    task_data.run(recipe, store)
    return recipe, store


def answers(*langs: str) -> dict[str, str]:
    """The right answers in these languages."""
    task: Any = build("pipelines.tasks", {"sample_slots": {"train": list(langs), "split": "heldout"}})
    return {e.given: task.answer(e) for cell in task.cells for e in task.examples(cell, HOME)}


def wrong(said: dict[str, str]) -> dict[str, str]:
    """One type of four spans is another's."""
    return {text: answer.replace("person:", "thing:", 1) for text, answer in said.items()}


def test_right_wrong_and_silent_models_are_told_apart_by_language(planted: tuple[Recipe, Store]) -> None:
    recipe, store = planted
    models = {
        "base": Knowing({}),
        "control": Knowing(answers("en") | wrong(answers("de"))),
        "aligned": Knowing(answers("en", "de") | wrong(answers("sw"))),
    }
    lms: dict[str, Callable[[], LanguageModel]] = {name: lambda lm=lm: lm for name, lm in models.items()}
    metrics = evaluate.measure(recipe, store, lms).to_json()

    def values(name: str, metric: str, part: str = "") -> dict[str, float]:
        found = (metrics[part] if part else metrics)[name]
        return {key.split("/")[1]: row["value"] for key, row in found.items() if key.endswith(f"/{metric}")}

    assert values("base", "f1") == {"deu_Latn": 0, "eng_Latn": 0, "swh_Latn": 0}
    assert values("control", "f1") == {"deu_Latn": 0.75, "eng_Latn": 1, "swh_Latn": 0}
    assert values("aligned", "f1") == {"deu_Latn": 1, "eng_Latn": 1, "swh_Latn": 0.75}
    assert values("control", "valid") == {"deu_Latn": 1, "eng_Latn": 1, "swh_Latn": 0}
    assert metrics["task_groups"] == {"sample_slots": {"source": ["eng_Latn"], "transfer": ["deu_Latn", "swh_Latn"]}}
    assert values("control", "f1", "means") == {"all": round(1.75 / 3, 6), "source": 1.0, "transfer": 0.375}
    assert values("aligned-control", "f1", "differences") == {
        "deu_Latn": 0.25, "eng_Latn": 0, "swh_Latn": 0.75, "all": round(1 / 3, 6), "source": 0, "transfer": 0.5,
    }  # fmt: skip
    assert values("control", "f1", "gaps") == {"deu_Latn": 0.25, "swh_Latn": 1.0, "all": 0.625}
    assert values("control", "valid", "gaps") == {}
    assert metrics["aligned"]["sample_slots/swh_Latn/f1"]["n"] == 96

    found = verdict(result(metrics))
    assert (found.tone, found.headline) == ("better", "Better at sample slots f1")
    text = " ".join(found.details).replace("\u00a0", " ")
    assert "Languages that the task was trained in (English): sample slots f1 +0.0 points" in text
    assert "Languages that the task was not trained in (German, Swahili): sample slots f1 +50.0 points (" in text
    assert "No language was measured" not in text
    rows = [
        (row["subject"], row["control"], row["aligned"]) for row in summary(result(metrics)) if row["metric"] == "f1"
    ]
    assert rows[-2:] == [
        ("mean of languages trained in", 1.0, 1.0), ("mean of languages not trained in", 0.375, 0.875),
    ]  # fmt: skip
    keys = [f"sample_slots/{lang}/f1" for lang in values("base", "f1")]
    shown = evaluation_figures.comparison(result(metrics), "sample_slots", "f1", keys)
    assert [(row["name"], row["change"]["value"], row["word"]) for row in shown["rows"][-3:]] == [
        ("Mean", "+33.3", "better"), ("Mean of languages trained in", "+0.0", "no significant difference"),
        ("Mean of languages not trained in", "+50.0", "better"),
    ]  # fmt: skip


def test_it_asks_what_training_asks_and_training_holds_none_of_it(planted: tuple[Recipe, Store]) -> None:
    recipe, store = planted
    item, lm = recipe.eval[0], Knowing({})
    assert isinstance(item, Transfer)
    texts = store.table("eval_text")
    found = item.answers(lm, texts)
    assert {(answer.lang, answer.prompt[-1]["content"]): answer.reference for answer in found} == {
        (lang, text): said for lang in ("deu_Latn", "eng_Latn", "swh_Latn") for text, said in answers(lang).items()
    }
    assert all(answer.texts == (answer.prompt[-1]["content"],) for answer in found)
    assert {tuple(rest) for _, *rest in lm.heard} == {(("\n",), 40)}
    shown = item.samples(Knowing(answers("en")), texts)
    assert [sample.key for sample in shown] == [
        f"sample_slots/{lang}" for lang in ("deu_Latn", "eng_Latn", "swh_Latn") for _ in range(3)
    ]
    assert [sample.output == sample.reference for sample in shown] == [False] * 3 + [True] * 3 + [False] * 3
    assert [(sample.prompt, sample.reference) for sample in shown[3:6]] == [
        (answer.prompt[-1]["content"], answer.reference) for answer in found if answer.lang == "eng_Latn"
    ][:3]
    trained = store.table("task_data", part="eng_Latn")["messages"].to_pylist()
    assert len(trained) > 1000
    assert {tuple(turn["role"] for turn in talk[:-1]) for talk in trained} == {
        tuple(turn["role"] for turn in answer.prompt) for answer in found
    }
    asked = {answer.prompt[-1]["content"] for answer in found}
    assert asked.isdisjoint(talk[0]["content"] for talk in trained)


def test_a_test_item_in_the_training_file_is_not_trained_on(tmp_path: Path) -> None:
    item, sentences = slots(tmp_path, {"en": [["O", "B-song"], ["B-time", "O"]]})
    train = "".join(columns(["O", "B-song"], words.split()) for words in (sentences[0], "put it", "stop that", "go on"))
    (tmp_path / "en.train.conll").write_text(train)
    spec = {"slot_filling": {"path": str(tmp_path), "data_files": "{lang}.train.conll", "train": ["en"], "dev_rows": 0}}
    raw = {
        "name": "planted",
        "corpus": {"pairs": ["en-de"], "sources": [{"sample": {}}], "tasks": [spec]},
        "eval": [{"transfer": {"task": "slot_filling", "test": item.test}}],
    }
    recipe = validate(Recipe, raw, "planted")
    assert recipe.notes() == ["transfer: slot_filling is not asked in 1 of 2 languages: German (deu_Latn)."]
    store = Store.open(tmp_path / "store", recipe.name)
    collect.run_evals(recipe, store)
    manifest = task_data.run(recipe, store)
    assert manifest.numbers["rows slot_filling eng_Latn"] == 3
    assert {row.step: row.dropped for row in manifest.ledger}["evaluation_overlap"] == 1
    assert store.require("eval_text").corpora.keys() == {f"{tmp_path.name}/local"}
    again = validate(Recipe, {**recipe.resolved(), "name": "again"}, "again")  # what the report shows can be run
    assert again.eval == recipe.eval


def test_entities_have_f1_and_a_share_of_valid_json(tmp_path: Path) -> None:
    rows = [(["B-PER", "O", "B-OTH"], ["Ada", "met", "it"]), (["O"], ["Hm"]), (["B-LOC"], ["Rome"])]
    for part in ("dev", "test"):
        text = "".join(columns(labels, words) for labels, words in rows[: 1 if part == "dev" else 3])
        (tmp_path / f"en.{part}.iob2").write_text(text if part == "test" else text.replace("Ada", "Eve"))
    task = {"path": str(tmp_path), "data_files": "{lang}.dev.iob2", "train": ["en"], "column": 4}
    item = Transfer.model_validate(
        {"task": {"json_extraction": task}, "test": {"data_files": "{lang}.test.iob2"}, "languages": ["en"]}
    )
    model = Knowing(
        {
            "Ada met it": '{"Results": [{"TypeName": "PER", "Text": "Ada"}]}',  # OTH is not asked for
            "Hm": '{"Results": [{"TypeName": "LOC", "Text": "Hm"}]}',
            "Rome": '{"Results": [{"TypeName": "LOC", "Text": "Rome"}',
        }
    )
    found = {key: metric["value"] for key, metric in item.run(model, held_out(item)).items()}
    assert found == {"json_extraction/eng_Latn/f1": 0.5, "json_extraction/eng_Latn/valid": pytest.approx(2 / 3)}
    assert item.chance(held_out(item)) == {}
    assert item.baselines(held_out(item), None) == {"constant": {}}
    assert model.heard[0][1:] == ((), 128)


def test_labels_have_an_accuracy_and_a_chance(tmp_path: Path) -> None:
    for lang in ("en", "de"):
        for part in ("dev", "test"):
            rows = [{"id": i, "text": f"{lang} {part} {i}", "label": "abc"[i % 3]} for i in range(9)]
            lines = "\n".join(map(json.dumps, rows[::-1] if lang == "de" else rows))
            (tmp_path / f"{lang}.{part}.jsonl").write_text(lines)
    task = {"path": str(tmp_path), "data_files": "{lang}.dev.jsonl", "train": ["en"], "labels": ["a", "b", "c"]}
    item = Transfer.model_validate(
        {"task": {"classification": task}, "test": {"data_files": "{lang}.test.jsonl"}, "rows": 6}
    )
    texts = held_out(item)
    numbers = {}
    for lang in ("en", "de"):
        own = [text for text in texts["text"].to_pylist() if text.startswith(lang)]
        numbers[lang] = {text.split()[-1] for text in own}
        assert len(own) == 6
    assert numbers["en"] == numbers["de"]  # the same draw of parallel data
    model = Knowing({text: "A." for text in texts["text"].to_pylist() if text.startswith("en")})
    share = sum(int(number) % 3 == 0 for number in numbers["en"]) / 6
    found = item.run(model, texts)
    assert {key: metric["value"] for key, metric in found.items()} == {
        "classification/deu_Latn/acc": 0, "classification/deu_Latn/valid": 0,
        "classification/eng_Latn/acc": share, "classification/eng_Latn/valid": 1,
    }  # fmt: skip
    keys = [f"classification/{lang}/acc" for lang in ("deu_Latn", "eng_Latn")]
    assert item.chance(texts) == dict.fromkeys(keys, 1 / 3)
    most = max(Counter(int(number) % 3 for number in numbers["en"]).values())
    assert item.baselines(texts, None) == {"constant": {key: {"value": most / 6, "n": 6} for key in keys}}


def test_the_part_that_is_trained_on_is_no_test(tmp_path: Path) -> None:
    item, _ = slots(tmp_path, {"en": [["O"]]})
    same = item.model_copy(update={"test": {}})
    with pytest.raises(ValueError, match=r"transfer.test: found 1 items of slot_filling in eng_Latn, all of which"):
        held_out(same)


@pytest.mark.parametrize(
    ("evals", "message"),
    [
        ("{task: slots}", r"transfer.task: found slots. Allowed: a task of the recipe's corpus.tasks, sample_slots"),
        ("{task: sample_slots}", r"eval\[0\].transfer.test: split: found 'test'. Expected: 'train' or 'heldout'"),
        ("{task: sample_slots, test: {part: x}}", r"eval\[0\].transfer.test: part: unknown key"),
        ("{task: sample_slots, test: {train: [de]}}", r"found train. Name the languages to ask in as `languages`"),
        (
            "{task: sample_slots, test: {split: heldout}, languages: [en, ta]}",
            r"found no held-out items of sample_slots in tam_Taml. Needed: those of `languages`",
        ),
        (
            "{task: {translation: {train: [en-de], source: {sample: {}}}}}",
            r"found translation with settings of its own. Allowed: a task of the recipe's corpus.tasks, sample_slots",
        ),
    ],
)
def test_what_cannot_be_asked_is_said_before_work_starts(tmp_path: Path, evals: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taught(tmp_path, evals)


def test_a_task_of_pairs_is_for_another_eval() -> None:
    item = Transfer.model_validate({"task": {"translation": {"train": ["en-de"], "source": {"sample": {}}}}})
    with pytest.raises(ValueError, match=r"task: translation is learnt by pairs. Allowed: tasks that are learnt by la"):
        item.check(PAIRS)


def test_a_right_answer_that_cannot_be_read_back_is_refused(tmp_path: Path) -> None:
    item, _ = slots(tmp_path, {"en": [["O"]]})
    (tmp_path / "en.test.conll").write_text("1\tnow\tx\tB-point in time\n")
    with pytest.raises(ValueError, match=r"slot_filling, eng_Latn: found the right answer 'point in time: now', which"):
        held_out(item)


def test_the_recipes_with_a_task_ask_it() -> None:
    sample, massive = (read_recipe(name).eval[-1] for name in ("sample_task.yaml", "mid_align.yaml"))
    assert isinstance(sample, Transfer)
    assert isinstance(massive, Transfer)
    langs, lacking = sample._languages([Pair.parse(f"en-{code}") for code in ("de", "hi", "tr")], None)
    assert (langs, lacking) == (["deu_Latn", "eng_Latn", "hin_Deva"], ["tur_Latn"])
    assert set(langs) <= set(sample_grammar.LANGUAGES)
    assert massive.trained_in == {"slot_filling": ["eng_Latn", "arb_Arab", "spa_Latn", "rus_Cyrl", "zho_Hans"]}
    held = massive._held_out(["swh_Latn"])
    assert isinstance(held, SlotFilling)
    assert (held.data_files, held.revision) == ("{lang}/test/*.parquet", "refs/convert/parquet")
