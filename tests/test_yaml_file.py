# ruff: noqa: E501  # a table
from pathlib import Path
from typing import Any

import pytest

from pipelines import yaml_file
from pipelines.errors import UserError, printable
from pipelines.yaml_file import read_yaml


def read(folder: Path, text: str | bytes) -> Any:
    file = folder / "mine.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("1", 1), ("-1", -1), ("1_000", 1000), ("010", 10), ("08", 8), ("0x1F", 31), ("0o17", 15), ("0b1", "0b1"),
        ("9223372036854775807", 2**63 - 1),
        ("1.5", 1.5), (".5", 0.5), ("5e-4", 5e-4), ("1e3", 1000.0), ("-2.", -2.0), ("1_000.5", 1000.5),
        ("1:30", "1:30"), ("190:20:30", "190:20:30"), ("1:30.5", "1:30.5"),
        ("2021-08-07", "2021-08-07"), ("2021-08-07T10:00:00Z", "2021-08-07T10:00:00Z"), ("v2021-08-07", "v2021-08-07"),
        ("=", "="), ("inf", "inf"), ("nan", "nan"), ("1e", "1e"), ("e5", "e5"), ("1.2.3", "1.2.3"),
        ("!!str 5", "5"), ("!!int '5'", 5), ("!!float '5'", 5.0), ("!!bool 'true'", True), ("!!null x", None),
        ("!!seq [1]", [1]), ("!!map {a: 1}", {"a": 1}),
        ("{a: [1, {b: c}]}", {"a": [1, {"b": "c"}]}),
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        ("\ufeffa: ü", {"a": "ü"}),
        ("{a: 'x', b: \"\\x1b[31m\"}", {"a": "x", "b": "\x1b[31m"}),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, text)
    assert (found, type(found)) == (value, type(value))


def _laughs(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_laughs(10, 10), "line 6, column 5: not readable as YAML: more than 100,000 values, aliases expanded"),
        (_laughs(60, 1), "line 32, column 6: not readable as YAML: nested more than 32 levels deep"),
        ("a: &a [" + "x" * 6400 + "]\nb: [" + ", ".join(["*a"] * 1000) + "]\n", "more than 100,000 values, aliases expanded"),
        ("[" + ", ".join(["0"] * 100_001) + "]", "line 1, column 1: not readable as YAML: more than 100,000 values"),
        ("a: &a [*a]", "line 1, column 8: not readable as YAML: *a holds itself"),
        ("a: &a {b: {c: *a}}", "*a holds itself"),
        ("&a {*a : 1}", "*a holds itself"),
        ("a: *b", "line 1, column 4: not readable as YAML: found undefined alias 'b'"),
        ("[" * 900 + "]" * 900, "line 1, column 33: not readable as YAML: nested more than 32 levels deep"),
        ("{a: " * 900 + "1" + "}" * 900, "nested more than 32 levels deep"),
        ("- " * 900 + "x", "nested more than 32 levels deep"),
        ("? " * 900 + "x", "nested more than 32 levels deep"),
        ("[" * 500_000, "nested more than 32 levels deep"),
        ("# " + "x" * (60 << 20), "more than 1 MiB. Expected: a recipe of a few kilobytes"),
        ("a: b: c", "line 1, column 5: not readable as YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2", "line 2, column 1: not readable as YAML"),
        ("a: [", "not readable as YAML: while parsing a flow node"),
        ("a: 1\n---\nb: 1", "line 2, column 1: not readable as YAML: expected a single document in the stream, but found another"),
        ("a: 1\nb: \x00", "line 2: not readable as YAML: found the character U+0000. Expected: text without control"),
        ("a: \x1b[31m", "line 1: not readable as YAML: found the character U+001B."),
        (b"a: 1\nb: \xff", "line 2: byte 0xff is not UTF-8. Expected: a text file in UTF-8"),
        ("a: ü".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        ("a: ü".encode("latin-1"), "line 1: byte 0xfc is not UTF-8"),
        ("a: 1\na: 2", "line 2, column 1: not readable as YAML: key 'a' is given twice or is no plain text. Keep one."),
        ("{1: a, 1: b}", "key 1 is given twice"),
        ("{[a]: 1}", "is given twice or is no plain text"),
        ("{? {a: 1} : 1}", "is given twice or is no plain text"),
        ("{null: 1}", "key None is given twice or is no plain text"),
        ("a: 1e999", "line 1, column 4: not readable as YAML: found 1e999. Expected: a finite number"),
        ("a: -.inf", "found -.inf. Expected: a finite number"),
        ("a: .nan", "found .nan. Expected: a finite number"),
        ("a: " + "9" * 5000, "9…. Expected: an integer below 2^63"),
        ("a: 9223372036854775808", "Expected: an integer below 2^63"),
        ("a: !!int ''", "Expected: an integer"), ("a: !!int x", "Expected: an integer"),
        ("a: !!float x", "Expected: a finite number"), ("a: !!bool x", "found x. Expected: true or false"),
        ("a: !!int [1]", "expected a scalar node"), ("a: !!map 5", "expected a mapping node"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: not readable as YAML: found the tag tag:yaml.org,2002:python/object/apply:os.system. Expected: values without tags"),
        ("a: !!python/name:os.system", "found the tag"), ("a: !!timestamp 2021-08-07", "found the tag"),
        ("a: !!binary aGk=", "found the tag"), ("a: !!set {a}", "found the tag"), ("a: !!omap [a: 1]", "found the tag"),
        ("a: !mine 5", "found the tag !mine"), ("a: !<tag:x> 5", "found the tag tag:x"),
        ("{<<: 5, a: 1}", "expected a mapping or list of mappings for merging"),
        ("%YAML 2.0\n--- a", "found incompatible YAML document"),
        ("@a", "found character '@' that cannot start any token"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_in_one_sentence(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    found = str(error.value)
    assert found.startswith(str(tmp_path / "mine.yaml"))
    assert message in found
    assert found == printable(found)
    assert "\n" not in found
    assert len(found) < 700


def test_a_file_at_its_bounds_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, "[" + ", ".join(["0"] * (yaml_file.MOST_VALUES - 1)) + "]")) == yaml_file.MOST_VALUES - 1
    assert str(read(tmp_path, "[" * 31 + "x" + "]" * 31)).count("[") == 31
    text = "a: 1 #".ljust(yaml_file.LARGEST, "x")
    assert read(tmp_path, text) == {"a": 1}
