import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipelines.languages import Pair
from pipelines.registry import build
from pipelines.schema import BITEXT
from pipelines.sources import table
from pipelines.sources.table import Table
from pipelines.text import text_files

ROWS = [("one", "eins", "หนึ่ง"), ('"two" \\n', "zw'ei", "二"), ("", "drei", "ثلاثة"), ("four", "vier", "")]
NAMES = ["english", "german", "other"]
BY_NAME = {"en": "english", "de": "german"}


def rows(
    path: Path | str, pair: str = "en-de", columns: dict[str, Any] | None = None, **more: Any
) -> list[tuple[str, str]]:
    source = Table.model_validate({"corpus": "acme", "paths": [str(path)], "columns": columns or BY_NAME, **more})
    batches = list(source.fetch(Pair.parse(pair), Path("unused")))
    assert all(batch.schema == BITEXT for batch in batches)
    return [(row["src"], row["tgt"]) for batch in batches for row in batch.to_pylist()]


def made(folder: Path, name: str, header: bool = True) -> Path:
    """ROWS in the format that `name` ends in."""
    every = [tuple(NAMES), *ROWS] if header else ROWS
    if ".csv" in name:
        text = "".join(",".join('"' + value.replace('"', '""') + '"' for value in row) + "\n" for row in every)
    elif ".jsonl" in name:
        text = "".join(json.dumps({"id": 1, **dict(zip(NAMES, row, strict=True))}) + "\n" for row in ROWS)
    else:
        text = "".join("\t".join(row) + "\n" for row in every)
    if name.endswith(".parquet"):
        parquet.write_table(pa.table(dict(zip(NAMES, zip(*ROWS, strict=True), strict=True))), folder / name)
    elif name.endswith(".gz"):
        (folder / name).write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w") as package:
            package.writestr(name.removesuffix(".zip"), text)
    else:
        (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    "name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet", "a.tsv.gz", "a.csv.gz", "a.jsonl.gz", "a.csv.zip", "a.jsonl.zip"]
)
@pytest.mark.parametrize(("pair", "at"), [("en-de", (1, 0)), ("th-en", (0, 2)), ("de-th", (1, 2))])
def test_every_format_gives_every_pair_in_sorted_order(
    name: str, pair: str, at: tuple[int, int], tmp_path: Path
) -> None:
    expected = [(row[at[0]], row[at[1]]) for row in ROWS]
    assert rows(made(tmp_path, name), pair, {**BY_NAME, "th": "other"}) == expected
    assert rows(tmp_path / name, "en-sw") == []


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.tsv.gz"])
@pytest.mark.parametrize("header", [True, False])
def test_columns_have_numbers_from_1(name: str, header: bool, tmp_path: Path) -> None:
    found = rows(made(tmp_path, name, header), columns={"en": 1, "de": 2}, header=header)
    assert found == [(row[1], row[0]) for row in ROWS]
    if not header:
        assert rows(tmp_path / name, columns={"en": 1, "de": 2}) == found


def test_delimiter_quotes_and_format_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('english;german\n"a;b";c\n"line\nbreak";"d""e"\n')
    assert rows(tmp_path / "a.txt", format="csv", delimiter=";") == [("c", "a;b"), ('d"e', "line break")]
    (tmp_path / "a.tsv").write_text('english\tgerman\n"a"\t"\n"b\tc"\n')
    assert rows(tmp_path / "a.tsv") == [('"', '"a"'), ('c"', '"b')]
    (tmp_path / "b.tsv").write_text('english\tgerman\n"a\tx"\tb\n')
    assert rows(tmp_path / "b.tsv", quoted=True) == [("b", "a x")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("header", [True, False])
def test_quotation_marks_escaped_by_a_backslash(name: str, header: bool, tmp_path: Path) -> None:
    delimiter = "," if name == "a.csv" else "\t"
    written = [
        (r'"She said \"good, morning\" twice."', r'"Sie sagte \"guten, Morgen\"."'),
        (r'"C:\\"', '"ends in \\\\"'),
        ("\\N", r'"\\N"'),
        (r'"a ""b"" c"', r'"\"x\""'),
        ('"line\nbreak"', '"line\\\nbreak"'),
        ("plain", "\\N"),
    ]
    every = [("english", "german"), *written] if header else written
    (tmp_path / name).write_text("".join(f"{en}{delimiter}{de}\n" for en, de in every), encoding="utf-8")
    columns: dict[str, Any] = BY_NAME if header else {"en": 1, "de": 2}
    assert rows(tmp_path / name, columns=columns, escape="\\", quoted=True) == [
        ('Sie sagte "guten, Morgen".', 'She said "good, morning" twice.'),
        ("ends in \\", "C:\\"),
        (r"\N", ""),
        ('"x"', 'a "b" c'),
        ("line break", "line break"),
        ("", "plain"),
    ]


def test_an_escaped_delimiter_of_values_without_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('english\tgerman\na\\\tb\t"c\n\\N\td\\\\\n')
    assert rows(tmp_path / "a.tsv", escape="\\") == [('"c', "a b"), ("d\\", "")]


AFTER_QUOTE = r"a.csv, line %d: text after a closing quotation mark .* Fix: .* set `escape: .* or `quoted: false`"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('english,german\n"one",eins\n"He said \\"yes\\" to us.","ja"\n', AFTER_QUOTE % 3),
        ('english,german\n"one",eins\n"He said \\"yes, and\\" left.","ja"\n', AFTER_QUOTE % 3),
        ('english,german\n"one\n\ntwo",eins\n\n"three" x,drei\n', AFTER_QUOTE % 6),
        ('english,german\n"one" ,eins\n', AFTER_QUOTE % 2),
        ('"english"x,german\n', AFTER_QUOTE % 1),
        ('english,german\n"one",eins\n\n"two,zwei\nthree,drei\n', "a.csv, line 4: a quotation mark that is not closed"),
    ],
)
def test_quotation_marks_that_do_not_fit_are_refused_with_their_line(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=error):
        rows(tmp_path / "a.csv")


def test_quotation_marks_are_checked_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 7)
    text = "english,german\n" + '"a\n""b"", c","x"\n5" screen,d\n' * 50
    (tmp_path / "a.csv").write_text(text)
    assert rows(tmp_path / "a.csv") == [("x", 'a "b", c'), ("d", '5" screen')] * 50
    (tmp_path / "a.csv").write_text(text + '"e" f,g\n')
    with pytest.raises(ValueError, match=AFTER_QUOTE % 152):
        rows(tmp_path / "a.csv")


NESTED = [
    {"translation": {"en": "one", "de": "eins"}, "a.b": "x"},
    {"translation": {"en": None, "de": "zwei"}, "a.b": "y"},
    {"translation": None, "a.b": "z"},
]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_dotted_paths_lead_into_fields_and_null_is_an_empty_side(name: str, tmp_path: Path) -> None:
    if name == "a.parquet":
        parquet.write_table(pa.Table.from_pylist(NESTED), tmp_path / name)
    else:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n\n" for row in NESTED))
    columns = {"en": "translation.en", "de": "translation.de", "fr": "a.b"}
    assert rows(tmp_path / name, columns=columns) == [("eins", "one"), ("zwei", ""), ("", "")]
    assert rows(tmp_path / name, "de-fr", columns) == [("eins", "x"), ("zwei", "y"), ("", "z")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.tsv"])
def test_rows_may_name_their_languages(name: str, tmp_path: Path) -> None:
    found = [
        ("S1", "T1", "en", "de"), ("S2", "T2", "deu", "EN-us"), ("S3", "T3", "en", "fr"), ("S4", "T4", "x-b", "de"),
        ("S5", "T5", "ger", "eng"), ("S6", "T6", "de", "de"),
    ]  # fmt: skip
    names = ["s", "t", "sl", "tl"]
    if name == "a.parquet":
        parquet.write_table(pa.table(dict(zip(names, zip(*found, strict=True), strict=True))), tmp_path / name)
    elif name == "a.tsv":
        (tmp_path / name).write_text("".join("\t".join(row) + "\n" for row in [names, *found]))
    else:
        (tmp_path / name).write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in found))
    columns = {"src": "s", "tgt": "t", "src_lang": "sl", "tgt_lang": "tl"}
    assert rows(tmp_path / name, "en-de", columns) == [("T1", "S1"), ("S2", "T2"), ("S5", "T5")]
    assert rows(tmp_path / name, "en-fr", columns) == [("S3", "T3")]
    with pytest.raises(ValueError, match="languages that are not known: x-b. Allowed: codes of ISO 639 or BCP 47"):
        rows(tmp_path / name, "en-sw", columns)
    assert rows(tmp_path / name, "fr-de", columns, languages={"x-b": "fr"}) == [("T4", "S4")]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_bom_decides_the_encoding(name: str, encoding: str, tmp_path: Path) -> None:
    file = made(tmp_path, name)
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert rows(file, "en-th", {"en": "english", "th": "other"}) == [(row[0], row[2]) for row in ROWS]


@pytest.mark.parametrize("block", [5, 1 << 20])
@pytest.mark.parametrize(
    ("name", "written", "text"),
    [
        ("a.tsv", b"a\xffb\xe4\xb8\xad", "a\ufffdb中"),
        ("a.tsv", b"a\xed\xa0\x80\0b\x1c\xe2\x80\xa8c\xc2\x85", "a\ufffd\ufffd\ufffd b  c…"),
        ("a.csv", b"\xfe", "\ufffd"),
        ("a.jsonl", rb"a\ud83d\ude00b\u0000\td", "a😀b  d"),
        ("a.jsonl", rb"\ud83d\ud83d\ude00\ude00x\\ud83d\\\ud83d", "\ufffd😀\ufffdx\\ud83d\\\ufffd"),
        ("a.jsonl", b"\xff", "\ufffd"),
    ],
)
def test_what_is_no_utf_8_is_repaired(
    name: str, written: bytes, text: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK", block)
    around = {
        "a.tsv": b"english\tgerman\n@\tx\n",
        "a.csv": b"english,german\n@,x\n",
        "a.jsonl": b'{"english":"@","german":"x"}',
    }
    (tmp_path / name).write_bytes(around[name].replace(b"@", written))
    assert rows(tmp_path / name) == [("x", text)]


def test_parquet_that_holds_no_utf_8_is_repaired(tmp_path: Path) -> None:
    raw = pa.array([b"a\xffb", None, b"c"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    columns = {"english": text, "german": pa.array(["x", "y", "z"]).dictionary_encode()}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [("x", "a\ufffdb"), ("y", ""), ("z", "c")]


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.tsv", "en\tde\n1\t2\n", r"a.tsv, line 1: no column, or more than one, german, english. Found: en, de"),
        ("a.tsv", "english\tgerman\tgerman\n", r"line 1: no column, or more than one, german. Found: english, g"),
        ("a.tsv", "english\tgerman\na\tb\n\nc\n", r"a.tsv: CSV parse error: Row #3: Expected 2 columns, got 1: c"),
        ("a.csv", 'english,german\na,b,c\n', r"a.csv: CSV parse error: Row #2: Expected 2 columns, got 3: a,b,c"),
        ("a.csv", 'english,german\n"a,b\n', r"a.csv, line 2: a quotation mark that is not closed"),
        ("a.jsonl", '{"a": {"b": "c"}}\n', r"a.jsonl: no column 'german'. Found: a, a.b. Correct `columns`"),
        ("a.jsonl", '{"english": "a", "german": "b"}\n\n{"english":\n', "a.jsonl, line 3: no JSON: Expecting value"),
        ("a.jsonl", '{"english": "a", "german": "b"}\n{"german": 5}\n', "line 2: column 'german' holds int"),
        ("a.jsonl", '{"english": "a", "german": "b"}\n["c"]\n', "line 2: the row holds list. Allowed: an object"),
        ("a.jsonl", '[{"english": "a"}]', r"a.jsonl: found a JSON array. Allowed: one object a line"),
        ("a.parquet", "PAR1", "a.parquet: not a sound Parquet file"),
        ("a.xls", "", r"a.xls: found a name of no known format. Allowed: .tsv, .tab, .csv"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_line(name: str, text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=error):
        rows(tmp_path / name)


def test_lines_are_counted_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BLOCK", 100)
    good = '{"english": "a", "german": "b"}\n'
    (tmp_path / "a.jsonl").write_text(good * 50 + '{"english": 1}\n' + good)
    with pytest.raises(ValueError, match="a.jsonl, line 51: column 'english' holds int"):
        rows(tmp_path / "a.jsonl")


def test_other_columns_of_parquet_are_named_with_their_type(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"english": [1], "german": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet: column 'english' has type int64. Allowed: text. Name another"):
        rows(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet: no column 'nosuch'. Found: english, german. Correct `columns`"):
        rows(tmp_path / "a.parquet", columns={"en": "nosuch", "de": "german"})


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_absurd_lines_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "LONGEST_LINE", 1 << 12)
    monkeypatch.setattr(text_files, "BLOCK", 1 << 10)
    long = "x" * 10_000
    head = "english,german\n" if name == "a.csv" else "english\tgerman\n"
    (tmp_path / name).write_text(json.dumps({"english": long, "german": ""}) if "json" in name else head + long + "\n")
    with pytest.raises(ValueError, match=r"of more than 4,096 characters"):
        rows(tmp_path / name)


def test_bombs_and_broken_archives_are_refused(tmp_path: Path) -> None:
    line = b"english\tgerman\n" + b"a\tb\n" * 12_000_000
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(line, 9))
    with pytest.raises(ValueError, match=r"a.tsv.gz: unpacks .* Allowed: at most 200 times as many"):
        rows(tmp_path / "a.tsv.gz")
    for name in ("b.tsv.gz", "b.jsonl.gz"):
        made(tmp_path, name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-12])
        with pytest.raises(ValueError, match=f"{name}: not a sound archive: "):
            rows(tmp_path / name)


def test_empty_files_and_headers_alone_have_no_rows(tmp_path: Path) -> None:
    for name, text in {"a.tsv": "", "b.tsv": "english\tgerman", "c.jsonl": "\n\n", "d.csv": "\n"}.items():
        (tmp_path / name).write_text(text)
        assert rows(tmp_path / name) == []


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (
            {"src": "a", "tgt": "b"},
            "found src, tgt. Allowed: languages, such as {en: english, de: german}, or all of src, ",
        ),
        ({"en": 0, "de": 1}, "Allowed: numbers from 1. Count the first column as 1"),
        ({"en": 1, "de": "german"}, "Allowed: names alone or numbers alone"),
        ({"en": "a", "eng": "b"}, "found en, eng. Allowed: each language once"),
        ({"en": "a", "Deutsch": "b"}, "language 'Deutsch': not a known language"),
    ],
)
def test_columns_that_cannot_be_are_refused(columns: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        build("pipelines.sources", {"table": {"corpus": "a", "paths": ["x.tsv"], "columns": columns}})


def test_a_table_without_the_languages_of_any_pair_is_refused() -> None:
    source = Table.model_validate({"corpus": "a", "paths": ["x.tsv"], "columns": BY_NAME})
    source.check([Pair.parse("en-fr"), Pair.parse("en-de")])
    with pytest.raises(
        ValueError, match="source 'table', columns: found eng_Latn, deu_Latn. Needed: both languages of"
    ):
        source.check([Pair.parse("en-fr")])


def test_many_rows_come_in_batches_of_the_same_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    text.write("english\tgerman\n")
    text.writelines(f"e{i}\td{i}\n" for i in range(45_000))
    (tmp_path / "a.tsv").write_text(text.getvalue())
    source = Table.model_validate({"corpus": "a", "paths": [f"{tmp_path}/a.tsv"], "columns": BY_NAME})
    for block in (1 << 20, 1 << 12):
        monkeypatch.setattr(table, "LONGEST_LINE", block)
        batches = list(source.fetch(Pair.parse("en-de"), tmp_path))
        assert [batch.num_rows for batch in batches] == [20_000, 20_000, 5_000]
        assert pa.Table.from_batches(batches)["tgt"].to_pylist() == [f"e{i}" for i in range(45_000)]
