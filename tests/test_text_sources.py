"""Messy files through every source, task and evaluation that reads them: the same texts, or one sentence."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipelines.errors import UserError
from pipelines.evals import harness
from pipelines.evals.localisation import Localisation
from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.tasks.json_extraction import JsonExtraction
from pipelines.text.text_files import file_lines

EN_DE = Pair.parse("en-de")
HOME = Path("unused")
ENGLISH = ["The baker’s shop opens.", "We waited – at home.", "It costs 5 € …"]
GERMAN = ["Der Laden des Bäckers öffnet.", "Wir warteten – zu Hause.", "Es kostet 5 € …"]
RAW_ENGLISH = [
    "The baker\x92s shop opens.",
    "We waited \x96 at home.",
    "It costs 5 \x80 \x85",
]  # cp1252 read as Latin-1
PLAIN = {"utf-8": "utf-8", "bom": "utf-8-sig", "utf-16": "utf-16", "utf-16-le": "utf-16-le", "utf-32": "utf-32"}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}
EXPECTED = list(zip(GERMAN, ENGLISH, strict=True))


def content(kind: str, english: list[str] = RAW_ENGLISH) -> str:
    """The rows as a file of that kind; without C1 controls where XML has references for them."""
    rows = list(zip(english, GERMAN, strict=True))
    if kind == "tsv":
        return "en\tde\n" + "".join(f"{en}\t{de}\n" for en, de in rows)
    if kind == "csv":
        return "en,de\n" + "".join(f'"{en}","{de}"\n' for en, de in rows)
    if kind == "jsonl":
        return "".join(json.dumps({"en": en, "de": de}, ensure_ascii=len(en) % 2 == 0) + "\n" for en, de in rows)
    referenced = [en.replace("\x92", "&#146;").replace("\x96", "&#x96;").replace("\x80", "&#x80;") for en in english]
    referenced[-1] = referenced[-1].replace("\x85", "&#133;")
    if kind == "tmx":
        units = "".join(
            f'<tu><tuv xml:lang="en"><seg>{en}</seg></tuv>\n<tuv xml:lang="de"><seg>{de}</seg></tuv></tu>'
            for en, de in zip(referenced, GERMAN, strict=True)
        )
        return f'<?xml version="1.0"?>\n<tmx version="1.4"><body>{units}</body></tmx>'
    if kind == "xlf":
        units = "".join(
            f"<trans-unit><source>{en}</source>\n<target>{de}</target></trans-unit>"
            for en, de in zip(referenced, GERMAN, strict=True)
        )
        langs = 'source-language="en" target-language="de"'
        return f'<xliff version="1.2">\n<file {langs}><body>{units}</body></file></xliff>'
    if kind == "po":
        entries = "".join(f'msgid "{en}"\nmsgstr "{de}"\n\n' for en, de in rows)
        return f'msgid ""\nmsgstr "Language: de\\n"\n\n{entries}'
    raise AssertionError(kind)


def source(kind: str, path: Path, packed: str = "") -> Any:
    if kind in ("tsv", "csv", "jsonl"):
        settings = {"table": {"paths": [f"{path}/a.{kind}{packed}"], "columns": {"en": "en", "de": "de"}}}
    elif kind in ("tmx", "xlf"):
        settings = {{"tmx": "tmx", "xlf": "xliff"}[kind]: {"paths": [f"{path}/a.{kind}{packed}"]}}
    else:
        settings = {"gettext": {"root": str(path)}}
    [(name, values)] = settings.items()
    return built("pipelines.sources", {name: {"corpus": "acme", **values}})


def built(package: str, settings: dict[str, Any]) -> Any:
    return build(package, settings)


def rows(item: Any) -> list[tuple[str, str]]:
    return [(row["src"], row["tgt"]) for batch in item.fetch(EN_DE, HOME) for row in batch.to_pylist()]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "tmx", "xlf", "po"])
@pytest.mark.parametrize("encoding", PLAIN)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_and_line_end_gives_the_same_rows(tmp_path: Path, kind: str, encoding: str, end: str) -> None:
    (tmp_path / f"a.{kind}").write_bytes(content(kind).replace("\n", end).encode(PLAIN[encoding]))
    assert rows(source(kind, tmp_path)) == EXPECTED


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "tmx", "xlf", "po"])
@pytest.mark.parametrize("packed", PACK)
def test_every_packing_gives_the_same_rows(tmp_path: Path, kind: str, packed: str) -> None:
    (tmp_path / f"a.{kind}{packed}").write_bytes(PACK[packed](content(kind).encode()))
    assert rows(source(kind, tmp_path, packed)) == EXPECTED
    if packed:
        whole = (tmp_path / f"a.{kind}{packed}").read_bytes()
        (tmp_path / f"a.{kind}{packed}").write_bytes(whole[:-9])
        with pytest.raises(UserError, match=rf"a\.{kind}{packed}: not a sound archive: "):
            rows(source(kind, tmp_path, packed))


@pytest.mark.parametrize("encoding", PLAIN)
@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("ends", [("\n", "\n"), ("\r\n", "\r\n"), ("\r", "\r"), ("\r", "\n"), ("\n", "\r\n")])
def test_lines_of_every_kind_stay_aligned(tmp_path: Path, encoding: str, packed: str, ends: tuple[str, str]) -> None:
    for lang, texts, end in (("en", RAW_ENGLISH, ends[0]), ("de", GERMAN, ends[1])):
        text = "".join(f"{line}{end}" for line in texts)
        (tmp_path / f"c.{lang}").write_bytes(PACK[packed](text.encode(PLAIN[encoding])))
    path = str(tmp_path / "c.{lang}")
    item = built("pipelines.sources", {"lines": {"corpus": "acme", "path": path}})
    assert rows(item) == EXPECTED


@pytest.mark.parametrize("mark", ["\r", "\v", "\f", "\0", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\t"])
def test_what_breaks_a_line_in_one_side_is_a_space(tmp_path: Path, mark: str) -> None:
    (tmp_path / "c.en").write_text(f"the shop{mark}at seven\r\nthe door\r\n", newline="")
    (tmp_path / "c.de").write_text("der Laden um sieben\r\ndie Tür\r\n", newline="")
    item = built("pipelines.sources", {"lines": {"corpus": "a", "path": f"{tmp_path}/c.{{lang}}"}})
    assert rows(item) == [("der Laden um sieben", "the shop at seven"), ("die Tür", "the door")]
    if mark != "\t":
        (tmp_path / "a.tsv").write_text(f"en\tde\nthe shop{mark}at seven\tder Laden\nthe door\tdie Tür\n", newline="")
        assert rows(source("tsv", tmp_path)) == [("der Laden", "the shop at seven"), ("die Tür", "the door")]
    (tmp_path / "a.csv").write_text(f'en,de\n"the shop{mark}at seven",der Laden\n', newline="")
    assert rows(source("csv", tmp_path)) == [("der Laden", "the shop at seven")]
    written = json.dumps(f"the shop{mark}at seven")
    (tmp_path / "a.jsonl").write_text(f'{{"en": {written}, "de": "der Laden"}}\n', newline="")
    assert rows(source("jsonl", tmp_path)) == [("der Laden", "the shop at seven")]


def test_an_encoding_can_be_stated(tmp_path: Path) -> None:
    texts = {"en": "the fiancé\nthe façade\n", "de": "größer\nschöner\n"}
    for lang, text in texts.items():
        (tmp_path / f"c.{lang}").write_bytes(text.encode("cp1252"))
    (tmp_path / "a.csv").write_bytes("en,de\nthe fiancé,größer\nthe façade,schöner\n".encode("cp1252"))
    lines = {"corpus": "a", "path": f"{tmp_path}/c.{{lang}}"}
    table = {"corpus": "a", "paths": [f"{tmp_path}/a.csv"], "columns": {"en": "en", "de": "de"}}
    expected = [("größer", "the fiancé"), ("schöner", "the façade")]
    replaced = [("gr\ufffd\ufffder", "the fianc\ufffd"), ("sch\ufffdner", "the fa\ufffdade")]
    for name, settings, file in (("lines", lines, "c.de, line 1"), ("table", table, "a.csv, line 2")):
        with pytest.raises(UserError, match=rf"{file}: byte 0x\w\w at byte \d+ is not UTF-8; .* like windows-1252"):
            rows(built("pipelines.sources", {name: settings}))
        assert rows(built("pipelines.sources", {name: {**settings, "encoding": "windows-1252"}})) == expected
        assert rows(built("pipelines.sources", {name: {**settings, "encoding": "utf-8"}})) == replaced
        with pytest.raises(UserError, match="found 'utf-9'. Expected: an encoding that Python knows"):
            built("pipelines.sources", {name: {**settings, "encoding": "utf-9"}})


SURROGATE = r"Where is it \ud83d?"


def test_half_a_surrogate_pair_becomes_the_replacement_character_in_every_json(tmp_path: Path) -> None:
    fixed = "Where is it \ufffd?"
    row = f'"prompt": "{SURROGATE}", "answer": "{SURROGATE}", "lang": "en", "label": "x", "text": "{SURROGATE}"'
    for name, text in {"t.jsonl": f"{{{row}}}\n", "t.json": f"[{{{row}}}]"}.items():
        (tmp_path / name).write_text(text)
        path = str(tmp_path / name)
        [example] = built("pipelines.tasks", {"messages": {"path": path, "train": ["en"]}}).examples("eng_Latn", HOME)
        assert (example.given[0]["content"], example.gold) == (fixed, fixed)
        task = {"path": path, "train": ["en"], "labels": ["x", "y"]}
        [example] = built("pipelines.tasks", {"classification": task}).examples("eng_Latn", HOME)
        assert example.given == {"text": fixed}
        for lang in ("en", "de"):
            alpaca = f'{{"instruction": "{SURROGATE}", "input": "", "output": "{SURROGATE}"}}'
            (tmp_path / f"i.{lang}.{name}").write_text(alpaca if name == "t.jsonl" else f"[{alpaca}]")
        item: Any = built("pipelines.sources", {"instructions": {"data_files": f"{tmp_path}/i.{{lang}}.{name}"}})
        assert list(item.instructions("eng_Latn", HOME)) == [("0", fixed, "", fixed)]
        assert rows(item) == [(fixed, fixed)]
        assert harness._rows("xcopa", path)[0]["prompt"] == fixed
    (tmp_path / "h.json").write_text(f'{{"en": "{SURROGATE}", "de": "x"}}\n{{"en": "y", "de": null}}\n')
    hub = {"path": f"{tmp_path}/h.json", "columns": {"en": "en", "de": "de"}}
    assert rows(built("pipelines.sources", {"hub": hub})) == [("x", fixed), ("", "y")]
    (tmp_path / "x.jsonl").write_text(f'{{"utt": "{SURROGATE}", "annot_utt": "{SURROGATE}", "id": 1}}\n')
    slots = built("pipelines.tasks", {"slot_filling": {"path": f"{tmp_path}/x.jsonl", "train": ["en"]}})
    assert [example.given for example in slots.examples("eng_Latn", HOME)] == [fixed]
    (tmp_path / "l.jsonl").write_text(
        f'{{"id": "a", "lang": "en", "question": "{SURROGATE}", "choices": ["a", "b\u2028"], "answer": 1}}\n'
    )
    [question] = Localisation.model_validate({"path": f"{tmp_path}/l.jsonl"}).items()
    assert (question.question, question.choices) == (fixed, ("a", "b\u2028"))


def test_fields_of_several_types_are_named(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text('{"en": "a", "de": "b"}\n{"en": 1, "de": "c"}\n')
    hub = {"path": f"{tmp_path}/h.jsonl", "columns": {"en": "en", "de": "de"}}
    with pytest.raises(UserError, match=r"h.jsonl: field 'en' has values of several types"):
        rows(built("pipelines.sources", {"hub": hub}))


EMPTY = {"empty": b"", "line ends": b"\n\r\n", "mark": b"\xef\xbb\xbf", "packed": gzip.compress(b"")}


@pytest.mark.parametrize("data", EMPTY.values(), ids=EMPTY)
def test_empty_files_are_no_rows_or_one_sentence(tmp_path: Path, data: bytes) -> None:
    for name in (
        "a.tsv",
        "a.csv",
        "a.jsonl",
        "a.tmx",
        "a.xlf",
        "a.parquet",
        "c.conll",
        "i.en.json",
        "i.de.json",
    ):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "de.po").write_bytes(data)
    for kind in ("tsv", "csv", "jsonl", "po"):
        assert rows(source(kind, tmp_path)) == []
    for kind in ("tmx", "xlf"):
        with pytest.raises(UserError, match=rf"a\.{kind}, line \d: not well-formed XML: no element found"):
            rows(source(kind, tmp_path))
    columns = {"en": "en", "de": "de"}
    with pytest.raises(UserError, match="a.parquet: not a sound Parquet file"):
        rows(
            build(
                "pipelines.sources", {"table": {"corpus": "a", "paths": [f"{tmp_path}/a.parquet"], "columns": columns}}
            )
        )
    with pytest.raises(UserError, match="eval.harness.data: .*a.parquet cannot be read: .*Parquet"):
        harness._rows("xnli", f"{tmp_path}/a.parquet")
    assert rows(built("pipelines.sources", {"instructions": {"data_files": f"{tmp_path}/i.{{lang}}.json"}})) == []
    for task, file in (("messages", "a.jsonl"), ("slot_filling", "c.conll"), ("classification", "a.tsv")):
        more = {"labels": ["a", "b"]} if task == "classification" else {}
        item = built("pipelines.tasks", {task: {"path": str(tmp_path), "data_files": file, "train": ["en"], **more}})
        with pytest.raises(UserError, match="eng_Latn: found no example. Needed: at least one"):
            list(item.examples("eng_Latn", HOME))
    assert Localisation.model_validate({"path": f"{tmp_path}/a.jsonl"}).items() == []
    assert not "".join(line for _, line in file_lines(f"{tmp_path}/a.tsv"))


@pytest.mark.parametrize("cut", [4, 100, -20])
def test_a_damaged_parquet_file_is_one_sentence(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"en": ["a"] * 1000, "de": ["b"] * 1000}), file)
    file.write_bytes(file.read_bytes()[:cut])
    table = {"corpus": "a", "paths": [str(file)], "columns": {"en": "en", "de": "de"}}
    for name, settings in (("table", table), ("hub", {"path": str(file), "columns": {"en": "en", "de": "de"}})):
        with pytest.raises(UserError, match=r"a\.parquet: "):
            rows(built("pipelines.sources", {name: settings}))


def test_harness_data_may_be_packed_and_of_any_line_end(tmp_path: Path) -> None:
    text = "premise\thypothesis\tlabel\nIt\u2028rains.\tIt is wet.\tentailment\n"
    for packed, pack in PACK.items():
        for end in ("\n", "\r\n", "\r"):
            (tmp_path / f"en.tsv{packed}").write_bytes(pack(text.replace("\n", end).encode("utf-16")))
            [row] = harness._rows("xnli", f"{tmp_path}/en.tsv{packed}")
            assert row == {"premise": "It\u2028rains.", "hypothesis": "It is wet.", "label": 0}
    (tmp_path / "en.tsv").write_bytes(b"a\tb\xfc\tentailment\n")
    with pytest.raises(UserError, match=r"eval.harness.data: .*en.tsv, line 1: byte 0xFC at byte 4 is not UTF-8"):
        harness._rows("xnli", f"{tmp_path}/en.tsv")


def test_text_after_a_closing_quotation_mark_is_refused_in_tasks_and_evaluations(tmp_path: Path) -> None:
    (tmp_path / "en.csv").write_text('text,label\n"a",x\n"he said \\"yes\\", twice",y\n')
    settings = {"path": f"{tmp_path}/en.csv", "train": ["en"], "labels": ["x", "y"]}
    place = r"en\.csv, line 3: ',' expected after '\"'. Expected: values in quotation marks end before the delimiter"
    with pytest.raises(UserError, match=place):
        list(built("pipelines.tasks", {"classification": settings}).examples("eng_Latn", HOME))
    with pytest.raises(UserError, match=f"eval.harness.data: .*{place}"):
        harness._rows("none", f"{tmp_path}/en.csv")


def test_surrogates_in_json_within_json_are_replaced() -> None:
    row = {
        "sentence": "Tom met Bob because he \ufffd came.",
        "pronoun": r'["he", [4, 5], ["he", "\ud83d"]]',
        "tokens": r'["Tom", "met", "Bob", "because", "he", "\ud83d", "came."]',
        "candidates": r'[["Tom \ud83d", [0, 1], true], ["Bob", [2, 3], false]]',
    }
    found = harness._xwinograd(row)
    assert found["option1"] == "Tom \ufffd"
    assert found["sentence"] == "Tom met Bob because _ \ufffd came."
    item = JsonExtraction.model_validate({"path": ".", "train": ["en"]})
    assert item.parse(r'{"Results": [{"TypeName": "person", "Text": "Bob \ud83d"}]}') == (("person", "Bob \ufffd"),)


@pytest.mark.parametrize("name", ["{}", "[1]", '["a", "b"]', "3"])
def test_json_that_is_no_list_of_objects_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "en.json").write_text(name)
    with pytest.raises(UserError, match="eval.harness.data: .*en.json"):
        harness._rows("xcopa", f"{tmp_path}/en.json")
