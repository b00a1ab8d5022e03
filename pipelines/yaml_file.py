"""YAML files of people, read within bounds: each mistake is one sentence with file and line."""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import UserError, quoted

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 32  # mappings and lists within each other, aliases expanded
MOST_VALUES = 100_000  # aliases expanded; a long text counts as several values
TEXT_OF_A_VALUE = 64  # characters
LARGEST_NUMBER = 2**63 - 1
PREFIX = "tag:yaml.org,2002:"


def read_yaml(file: Path) -> Any:
    """What `file` says in YAML 1.2, plus `1_000`: dates are texts, and so is `no`; tags of types are refused."""
    with file.open("rb") as stream:
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise UserError(
            f"{file}: more than {LARGEST >> 20} MiB. Expected: a recipe of a few kilobytes. Fix: name data files by "
            f"their path instead of writing data into it."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8. Expected: a text file in UTF-8. Fix: "
            f"save it as UTF-8."
        ) from None
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise UserError(
            f"{file}, line {line}: not readable as YAML: found the character U+{code:04X}. Expected: text without "
            f"control characters. Fix: remove it."
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(file)
        what = ", ".join(filter(None, [error.context, error.problem]))
        raise UserError(f"{where}: not readable as YAML: {quoted(what, 300)}") from None


def _mistake(problem: str, node: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (`no` is a text, `5e-4` a number) of no type but JSON's; a key given twice is an error."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}
        """By the id of each composed node: its values and levels with aliases expanded."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._extents:
                raise _mistake(f"*{event.anchor} holds itself. Fix: remove it.", event)
            return node
        self._depth += 1
        self._check(0, self._depth, event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        parts = [self._extents[id(part)] for part in _parts(node)]
        extra = len(node.value) // TEXT_OF_A_VALUE if isinstance(node, yaml.ScalarNode) else 0
        values, levels = (1 + extra + sum(v for v, _ in parts), 1 + max((n for _, n in parts), default=0))
        self._check(values, levels, event)
        self._extents[id(node)] = (values, levels)
        return node

    def _check(self, values: int, levels: int, event: Any) -> None:
        if levels > DEEPEST:
            raise _mistake(f"nested more than {DEEPEST} levels deep. Fix: write it flat.", event)
        if values > MOST_VALUES:
            raise _mistake(f"more than {MOST_VALUES:,} values, aliases expanded. Fix: write less.", event)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == f"{PREFIX}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool) or key in seen:
                raise _mistake(f"key {quoted(repr(key))} is given twice or is no plain text. Keep one.", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_bool(self, node: Any) -> bool:
        text = str(self.construct_scalar(node)).lower()
        if text not in ("true", "false"):
            raise _mistake(f"found {quoted(text)}. Expected: true or false.", node)
        return text == "true"

    def construct_yaml_int(self, node: Any) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        base = {"0x": 16, "0o": 8}.get(text[:2].lower(), 10)
        try:
            number = int(text, base)
        except ValueError:  # no number, or of more digits than Python reads
            number = None
        if number is None or abs(number) > LARGEST_NUMBER:
            raise _mistake(f"found {quoted(text, 40)}. Expected: an integer below 2^63.", node)
        return number

    def construct_yaml_float(self, node: Any) -> float:
        text = str(self.construct_scalar(node)).replace("_", "")
        try:
            number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise _mistake(f"found {quoted(text, 40)}. Expected: a finite number.", node)
        return number

    def construct_undefined(self, node: Any) -> Any:
        raise _mistake(f"found the tag {quoted(node.tag)}. Expected: values without tags. Fix: remove it.", node)


def _parts(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


_Loader.yaml_constructors = {
    f"{PREFIX}null": _Loader.construct_yaml_null,
    f"{PREFIX}bool": _Loader.construct_yaml_bool,
    f"{PREFIX}int": _Loader.construct_yaml_int,
    f"{PREFIX}float": _Loader.construct_yaml_float,
    f"{PREFIX}str": _Loader.construct_yaml_str,
    f"{PREFIX}seq": _Loader.construct_yaml_seq,
    f"{PREFIX}map": _Loader.construct_yaml_map,
    None: _Loader.construct_undefined,
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in (f"{PREFIX}null", f"{PREFIX}merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{PREFIX}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    f"{PREFIX}int", re.compile(r"^[-+]?[0-9][0-9_]*$|^0x[0-9a-fA-F_]+$|^0o[0-7_]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    f"{PREFIX}float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
