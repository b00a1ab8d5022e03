import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import read_recipe
from pipelines.tasks import Span
from pipelines.tasks._slots import MID_ALIGN
from pipelines.tasks.slot_filling import SlotFilling

HOME = Path("unused")
ENGLISH = """# id = 3
# text-en: Wake me at nine.
# text = Wake me at nine, on Friday!
# intent = alarm/set_alarm
1\tWake\talarm/set_alarm\tO
2\tme\talarm/set_alarm\tO
3\tat\talarm/set_alarm\tB-datetime
4\tnine\talarm/set_alarm\tI-datetime
5\t,\talarm/set_alarm\tO
6\ton\talarm/set_alarm\tB-datetime
7\tFriday\talarm/set_alarm\tI-datetime
8\t!\talarm/set_alarm\tO

# id = 4
# text = # 1
1\t#\tx\tO
2\t1\tx\tI-rank
"""
CHINESE = """# id: 3
# text: 周五九点叫醒我
1\t周五\ta\tB-datetime
2\t九点\ta\tI-datetime
3\t叫醒\ta\tO
4\t我\ta\tB-person"""
SWAHILI = "1\tNiamshe\ta\tO\n2\tsaa\ta\tB-time\n3\ttatu\ta\tI-time\n4\tkesho\ta\tI-date\n"
MASSIVE = {
    "id": "0", "locale": "de-DE", "partition": "train", "intent": "alarm_set",
    "utt": "weck mich diese woche um fünf uhr morgens auf",
    "annot_utt": "weck mich [date : diese woche] um [time : fünf uhr morgens] auf",
}  # fmt: skip


def conll(folder: Path, **texts: str) -> SlotFilling:
    for lang, text in texts.items():
        (folder / f"{lang}.train.conll").write_text(text, encoding="utf-8")
    return SlotFilling.model_validate({"path": str(folder), "data_files": "{lang}.train.conll", "train": list(texts)})


def massive(folder: Path, *rows: Any, lang: str = "de-DE", **settings: Any) -> SlotFilling:
    (folder / f"{lang}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return SlotFilling.model_validate({"path": str(folder), "data_files": "{lang}.jsonl", "train": [lang], **settings})


def found(task: SlotFilling) -> list[tuple[str, str, list[tuple[str, str]]]]:
    return [
        (example.item, example.given, [tuple(span) for span in example.gold])
        for cell in task.cells
        for example in task.examples(cell, HOME)
    ]


def test_columns_become_the_text_and_the_spans_as_they_are_written_in_it(tmp_path: Path) -> None:
    assert found(conll(tmp_path, en=ENGLISH, zh=CHINESE, sw=SWAHILI)) == [
        ("3", "Wake me at nine, on Friday!", [("datetime", "at nine"), ("datetime", "on Friday")]),
        ("4", "# 1", [("rank", "1")]),
        ("3", "周五九点叫醒我", [("datetime", "周五九点"), ("person", "我")]),
        ("Niamshe saa tatu kesho", "Niamshe saa tatu kesho", [("time", "saa tatu"), ("date", "kesho")]),
    ]


def test_massive_is_read_by_its_locale_and_its_partition(tmp_path: Path) -> None:
    test = {**MASSIVE, "partition": "test"}
    rows = [MASSIVE, test, {**MASSIVE, "id": 7, "utt": " halt ", "annot_utt": "halt"}]
    wanted = [
        ("0", MASSIVE["utt"], [("date", "diese woche"), ("time", "fünf uhr morgens")]),
        ("7", "halt", []),
    ]
    assert found(massive(tmp_path, *rows)) == wanted
    assert found(massive(tmp_path, *rows, train=["deu_Latn"])) == wanted
    assert found(massive(tmp_path, *rows, split="test")) == wanted[:1]
    korean = {**MASSIVE, "utt": "금요일에 깨워", "annot_utt": "[date : 금요일에] 깨워"}
    assert found(massive(tmp_path, korean, lang="ko-KR"))[0][2] == [("date", "금요일에")]


def test_tables_and_packed_lines_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pq.write_table(pa.Table.from_pylist([{**MASSIVE, "intent": 48}]), tmp_path / "a" / "0000.parquet")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(MASSIVE).encode()))
    for settings in ({"path": str(tmp_path), "data_files": "a/*.parquet"}, {"path": str(tmp_path / "b.jsonl.gz")}):
        task = SlotFilling.model_validate({**settings, "train": ["de"]})
        assert found(task) == [("0", MASSIVE["utt"], [("date", "diese woche"), ("time", "fünf uhr morgens")])]


def test_it_asks_as_mid_align_does_and_reads_its_own_answers(tmp_path: Path) -> None:
    task = conll(tmp_path, en=ENGLISH, zh=CHINESE)
    examples = [example for cell in task.cells for example in task.examples(cell, HOME)]
    assert task.render(examples[0]) == [
        {"role": "system", "content": MID_ALIGN},
        {"role": "user", "content": "Wake me at nine, on Friday!"},
    ]
    assert [task.answer(example) for example in examples] == [
        "datetime: at nine; datetime: on Friday",
        "rank: 1",
        "datetime: 周五九点; person: 我",
    ]
    for example in examples:
        assert task.parse(task.answer(example)) == example.gold
        assert task.segments(example) == [example.given]
    bare = task.model_copy(update={"system": ""})
    assert bare.render(examples[0]) == [{"role": "user", "content": "Wake me at nine, on Friday!"}]
    assert (task.wording, bare.wording) == ("mid_align", "own")


@pytest.mark.parametrize(
    ("answer", "spans"),
    [
        ("None", ()),
        (" None\n", ()),
        ("time: 5: 30 am;  date: morgen ", (Span("time", "5: 30 am"), Span("date", "morgen"))),
        ("reminder/todo: milk; bread; date: heute", (Span("reminder/todo", "milk; bread"), Span("date", "heute"))),
        ("todo: say it; he said: hello", (Span("todo", "say it; he said: hello"),)),
        ("ساعت: نه", (Span("ساعت", "نه"),)),
        ("", None),
        ("nine am", None),
        ("time:", None),
        (": nine", None),
    ],
)
def test_answers_are_read_or_refused(answer: str, spans: tuple[Span, ...] | None) -> None:
    task = SlotFilling.model_validate({"path": ".", "train": ["en"]})
    assert task.parse(answer) == spans


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3\tat\talarm/set_alarm\tB-datetime", "3\tat\tB-datetime", r"line 7: found 3 columns. Needed: at least 4"),
        ("\tI-datetime\n5", "\tdatetime\n5", r"line 8: found label 'datetime' in column 4. Allowed: O, B-type and I-"),
        ("2\tme", "2\tyou", r"line 6: found the word 'you' where the text goes on with 'me at nine"),
        ("2\tme\ta", "me\ta", r"line 6: found 'me\\talarm.*Needed: a number, a word and its labels with tabs"),
    ],
)
def test_a_malformed_line_of_columns_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    task = conll(tmp_path, en=ENGLISH.replace(old, new))
    with pytest.raises(ValueError, match=rf"en\.train\.conll, {message}"):
        found(task)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"utt": "x"}, r"line 2: found utt. Needed: the texts `utt` and `annot_utt`"),
        ({"utt": "x", "annot_utt": "[time nine] x"}, r"line 2: found '\[time nine\]' in annot_utt. Needed: a type"),
        ({"utt": "x", "annot_utt": "[time : nine x"}, r"line 2: found a bracket without its other half"),
        (["x"], r"line 2: found list. Needed: an object"),
    ],
)
def test_a_malformed_row_of_massive_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"de-DE\.jsonl, {message}"):
        found(massive(tmp_path, MASSIVE, row))


def test_what_cannot_be_is_said_before_work_starts(tmp_path: Path) -> None:
    task = conll(tmp_path, en=ENGLISH)
    task.check()
    with pytest.raises(
        ValueError, match=r"is there for no name of deu_Latn: de, .*de-DE. Needed: every language of `t"
    ):
        task.model_copy(update={"train": ["eng_Latn", "deu_Latn"]}).check()
    with pytest.raises(
        ValueError, match=r"found data_files 'en.train.conll' and config '' for 2 languages. Needed: the p"
    ):
        task.model_copy(update={"train": ["eng_Latn", "deu_Latn"], "data_files": "en.train.conll"}).check()
    with pytest.raises(ValueError, match="found eng_Latn twice"):
        SlotFilling.model_validate({"path": ".", "train": ["en", "eng_Latn"]})
    with pytest.raises(
        ValueError, match=r"de-DE, deu_Latn: found no example|deu_Latn: found no example. Needed: at leas"
    ):
        found(massive(tmp_path, {**MASSIVE, "partition": "test"}))


def test_the_corpus_has_a_licence_a_citation_and_hashes(tmp_path: Path) -> None:
    task = massive(tmp_path, MASSIVE, corpus="massive", licence="CC-BY-4.0", cite="FitzGerald et al. 2023")
    facts = task.provenance(HOME)["massive/local"]
    assert (facts["licence"], facts["citation"]) == ("CC-BY-4.0", "FitzGerald et al. 2023")
    before = task.pin(HOME)
    assert facts["files"][0]["sha256"] == before[0][1][0][1]
    assert massive(tmp_path, MASSIVE, MASSIVE).pin(HOME) != before


def test_mid_aligns_massive_is_read_from_the_hubs_parquet_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{locale}/{part}/0000.parquet" for locale in ("ar-SA", "en-US", "es-ES", "ru-RU", "zh-CN", "zh-TW")
             for part in ("test", "train")]  # fmt: skip
    copy = tmp_path / "0000.parquet"
    pq.write_table(pa.Table.from_pylist([MASSIVE]), copy)
    asked = []

    def download(path: str, name: str, **settings: Any) -> str:
        asked.append((name, settings["revision"]))
        return str(copy)

    hub = SimpleNamespace(
        dataset_info=lambda path, revision: SimpleNamespace(sha="b" * 40, card_data=None, asked=revision),
        list_repo_files=lambda path, **settings: names,
    )
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    [task] = read_recipe("mid_align.yaml").corpus.tasks
    task.check()
    task.prepare(tmp_path)
    assert asked == [(f"{locale}/train/0000.parquet", "b" * 40) for locale in
                     ("en-US", "ar-SA", "es-ES", "ru-RU", "zh-CN")]  # fmt: skip
    assert [example.item for example in task.examples("zho_Hans", tmp_path)] == ["0"]
    facts = task.provenance(tmp_path)[f"massive/{'b' * 12}"]
    assert facts["licence"] == "CC-BY-4.0"
    assert "2204.08582" in facts["citation"]
