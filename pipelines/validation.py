"""Error messages for the settings of a recipe: the place of each mistake, what was found, expected, and the fix."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from pipelines.errors import UserError, quoted

Place = tuple[str | int, ...]
"""Keys and indices from the root of a recipe, such as `("corpus", "filters", 0, "lid", "min")`."""

EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "int_parsing_size": "an integer below 2^63",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "iterable_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "none_required": "null",
    "date_type": "a date such as 2024-01-31",
    "date_parsing": "a date such as 2024-01-31",
    "date_from_datetime_parsing": "a date such as 2024-01-31",
    "path_type": "a path",
}
"""What is expected, by pydantic's type of error; the braces are values of its context."""

_LEADING_PLACE = re.compile(r"([A-Za-z_]\w*(?:\.\w+|\[\d+\])*): (?=\S)")
_PART = re.compile(r"\[(\d+)\]|(\w+)")


class NestedError(UserError):
    """Mistakes below one key, each with its place relative to that key."""

    def __init__(self, errors: Sequence[tuple[Place, str]]):
        self.errors = errors
        super().__init__("; ".join(f"{format_place(place)}: {text}" for place, text in errors))


class RootError(NestedError):
    """Mistakes whose places count from the root of the recipe, wherever they are noticed."""


class PluginError(Exception):
    """An unexpected ValueError or AssertionError of a plug-in's code, which is its `__cause__`.

    pydantic takes these two for mistakes in the input. This exception is neither, so the traceback is kept.
    """


def format_place(place: Iterable[str | int]) -> str:
    """A place in the one format of all messages, such as `corpus.filters[0].lid.min`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{quoted(part)}" for part in place).removeprefix(".")


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`Did you mean 'lid'? ` with the candidate nearest to `name`, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f"Did you mean '{near[0]}'? " if near else ""


def messages(error: ValidationError, prefix: str, model: type[BaseModel], raw: Any) -> list[tuple[Place, str]]:
    """Translate pydantic's errors into places and sentences.

    Args:
        error: What validating `raw` as a `model` raised.
        prefix: The key above `raw`, or "".
    """
    above: Place = (prefix,) if prefix else ()
    out: dict[Place, dict[str, list[str]]] = {}  # {place: {sentence: what is expected, of which it says nothing yet}}
    for item in error.errors(include_url=False):
        kind, context = item["type"], item.get("ctx", {})
        below = _without_tags(item["loc"], raw, keep_last=kind == "missing")
        place, found = (*above, *below), f"found {quoted(repr(item['input']))}."
        cause = context.get("error")
        if isinstance(cause, NestedError):
            base = () if isinstance(cause, RootError) else place
            for inner, text in cause.errors:
                out.setdefault((*base, *inner), {})[text] = []
        elif cause is not None:
            inner, text = split_place(str(cause), _field_names(model, below))
            out.setdefault((*place, *inner), {})[text or f"{found} Expected: what its check allows."] = []
        elif kind == "extra_forbidden":
            out.setdefault(place, {})[_unknown_key(below, model)] = []
        elif kind == "missing":
            out.setdefault(place, {})["missing. Expected: a value. Fix: add this key."] = []
        else:  # one value of a union has an error for each type: they become one sentence
            out.setdefault(place, {}).setdefault(found, []).append(_expectation(kind, context, item["msg"]))
    return [(place, _sentence(text, types)) for place, texts in out.items() for text, types in texts.items()]


def split_place(text: str, fields: Iterable[str], owner: str = "") -> tuple[Place, str]:
    """Split a message that begins with the name of one of `fields` (`noise.shares: found ...`) into place and rest.

    owner: the plug-in that raised it, whose name may precede the field (`eval.transfer.test: found ...`).
    """
    start = re.match(rf"(?:[\w.]+\.|\w+ ')?{re.escape(owner)}'?[.:,] ?", text) if owner else None
    rest = text[start.end() :] if start else text
    match = _LEADING_PLACE.match(rest)
    parts: Place = ()
    if match:
        parts = tuple(int(number) if number else word for number, word in _PART.findall(match[1]))
    if match and parts and parts[0] in set(fields):
        return parts, rest[match.end() :]
    return (), rest if start else text


@contextmanager
def plugin_check(place: Place, name: str, model: type[BaseModel]) -> Iterator[None]:
    """Run a plug-in's own check: a UserError gets `place`, an unexpected ValueError keeps its traceback."""
    try:
        yield
    except NestedError as error:
        if isinstance(error, RootError):
            raise
        raise NestedError([((*place, name, *inner), text) for inner, text in error.errors]) from None
    except UserError as error:
        inner, text = split_place(str(error), model.model_fields, name)
        raise NestedError([((*place, name, *inner), text)]) from None
    except (ValueError, AssertionError) as error:
        raise PluginError(f"{format_place((*place, name))}: {type(error).__name__}: {error}") from error


def _without_tags(location: Place, raw: Any, keep_last: bool) -> Place:
    """The parts of pydantic's location that are keys and indices of `raw`: others name a branch of a union."""
    parts: list[str | int] = []
    value = raw
    for number, part in enumerate(location):
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        ):
            value = cast(Any, value)[part]
        elif isinstance(value, BaseModel) and part in type(value).model_fields:
            value = getattr(value, str(part))
        elif not (keep_last and number == len(location) - 1):
            continue
        parts.append(part)
    return tuple(parts)


def _sentence(text: str, expected: list[str]) -> str:
    return f"{text} Expected: {' or '.join(dict.fromkeys(expected))}. Fix: change the value." if expected else text


def _expectation(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in EXPECTED:
        return EXPECTED[kind].format_map(context)
    return message.removeprefix("Input should be ").rstrip(".")  # a type that only a plug-in of a user has


def _unknown_key(place: Place, model: type[BaseModel]) -> str:
    fields = sorted(_field_names(model, place[:-1]))
    hint = did_you_mean(str(place[-1]), fields)
    return f"unknown key. {hint}Expected: {', '.join(fields) or 'no settings'}. Fix: rename or remove it."


def _field_names(model: type[BaseModel], place: Place) -> list[str]:
    """Field names of the settings at `place` below `model`."""
    for part in place:
        if isinstance(part, str) and (field := model.model_fields.get(part)):
            model = next(_models(field.annotation), model)
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings models within a type such as `Adapter | None` or `list[Column]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
