import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.tasks.classification import Classification

HOME = Path("unused")
XNLI = {
    "header": ["premise", "hypothesis", "label"],
    "text": ["premise", "hypothesis"],
    "labels": ["entailment", "neutral", "contradiction"],
    "prompt": "Does the premise entail the hypothesis?",
}


def task(folder: Path, name: str, content: str, **settings: Any) -> Classification:
    (folder / name).write_text(content, encoding="utf-8")
    lang = name.partition(".")[0]
    return Classification.model_validate(
        {"path": str(folder), "data_files": name.replace(lang, "{lang}", 1), "train": [lang], **settings}
    )


def found(item: Classification) -> list[tuple[str, dict[str, str], str]]:
    return [(e.item, e.given, e.gold) for cell in item.cells for e in item.examples(cell, HOME)]


def test_tables_are_read_with_and_without_a_header(tmp_path: Path) -> None:
    quoted = 'Er sagte: "Ja.\tEr "log".\tcontradiction\n\nمرحبا\tأهلا\tneutral\n'
    item = task(tmp_path, "de.dev.tsv", quoted, **XNLI)
    assert found(item) == [
        ('Er sagte: "Ja.\nEr "log".', {"premise": 'Er sagte: "Ja.', "hypothesis": 'Er "log".'}, "contradiction"),
        ("مرحبا\nأهلا", {"premise": "مرحبا", "hypothesis": "أهلا"}, "neutral"),
    ]
    pawsx = "id\tsentence1\tsentence2\tlabel\n4\t他说\t他说了\t1\n6\ta\tb\t0\n"
    labels = {0: "no", 1: "yes"}
    item = task(tmp_path, "zh.tsv", pawsx, text=["sentence1", "sentence2"], labels=labels)
    assert found(item) == [
        ("4", {"sentence1": "他说", "sentence2": "他说了"}, "yes"),
        ("6", {"sentence1": "a", "sentence2": "b"}, "no"),
    ]
    item = task(tmp_path, "en.csv", 'text,label\n"Hi, you",a\n"two\nlines",b\n', labels=["a", "b"])
    assert found(item) == [("Hi, you", {"text": "Hi, you"}, "a"), ("two\nlines", {"text": "two\nlines"}, "b")]


def test_json_lines_parquet_and_intents_are_read(tmp_path: Path) -> None:
    rows = [
        {"id": 3, "utt": "weck mich", "intent": "alarm_set", "partition": "train"},
        {"id": 4, "utt": "stopp", "intent": "alarm_off", "partition": "test"},
    ]
    settings: dict[str, Any] = {"text": "utt", "label": "intent", "labels": ["alarm_set", "alarm_off"]}
    lines = "\n".join(map(json.dumps, rows))
    assert found(task(tmp_path, "de.jsonl", lines, **settings)) == [("3", {"utt": "weck mich"}, "alarm_set")]
    (tmp_path / "de.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    packed = {"path": str(tmp_path), "data_files": "{lang}.jsonl.gz", "train": ["de"], **settings}
    assert found(Classification.model_validate({**packed, "split": "test"}))[0][2] == "alarm_off"
    pq.write_table(pa.Table.from_pylist([{"utt": "halt", "intent": 1}]), tmp_path / "de.parquet")
    numbered = {**packed, "data_files": "{lang}.parquet", "labels": {0: "alarm_set", 1: "alarm_off"}}
    assert found(Classification.model_validate(numbered)) == [("halt", {"utt": "halt"}, "alarm_off")]
    conll = "# text = ปลุกฉัน\n# intent = alarm/set_alarm\n1\tปลุก\tx\tO\n2\tฉัน\tx\tO\n"
    intents = ["alarm/set_alarm", "weather/find"]
    item = task(tmp_path, "th.conll", conll, label="intent", labels=intents)
    assert found(item) == [("ปลุกฉัน", {"text": "ปลุกฉัน"}, "alarm/set_alarm")]


def test_labels_are_named_in_the_prompt_or_not(tmp_path: Path) -> None:
    item = task(tmp_path, "en.tsv", "a\tb\tneutral\n", **XNLI)
    [example] = item.examples("eng_Latn", HOME)
    assert item.render(example) == [
        {
            "role": "system",
            "content": "Does the premise entail the hypothesis? Answer with one of these: entailment, neutral, "
            "contradiction.",
        },
        {"role": "user", "content": "premise: a\nhypothesis: b"},
    ]
    assert item.choices == ["entailment", "neutral", "contradiction"]
    assert (item.answer(example), item.segments(example)) == ("neutral", ["a", "b"])
    bare = item.model_copy(update={"show_labels": False})
    assert bare.render(example)[0]["content"] == "Does the premise entail the hypothesis?"
    assert (item.wording, bare.wording) == ("labels_shown", "labels_unseen")
    single = task(tmp_path, "de.tsv", "text\tlabel\na\tx\n", labels=["x", "y"], show_labels=False, prompt="")
    assert single.render(next(single.examples("deu_Latn", HOME))) == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("answer", "label"),
    [("neutral", "neutral"), (" Neutral.\n", "neutral"), ("neutral, I think", None), ("", None), ("maybe", None)],
)
def test_answers_are_read_or_refused(answer: str, label: str | None) -> None:
    assert Classification.model_validate({"path": ".", "train": ["en"], **XNLI}).parse(answer) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\tmaybe\n", r"en.tsv, line 1: found label 'maybe'. Allowed: entailment, neutral, contradiction"),
        ("a\tb\tneutral\na\tneutral\n", r"line 2: found 2 columns. Needed: 3, premise, hypothesis, label"),
        (" \tb\tneutral\n", r"line 1: found no premise in premise, hypothesis, label. Needed: premise, hypothesis"),
        ("", r"eng_Latn: found no example. Needed: at least one"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(task(tmp_path, "en.tsv", text, **XNLI))


def test_one_label_is_none() -> None:
    with pytest.raises(ValueError, match=r"found a, A. Allowed: two labels or more, none empty. Add one."):
        Classification.model_validate({"path": ".", "train": ["en"], "labels": ["a", "A"]})
