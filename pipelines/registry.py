"""Plug-ins by file name: `filters/lid.py` is the filter `lid`. A file is imported only when a recipe names it."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, SerializeAsAny, ValidationError

from pipelines.errors import UserError, quoted
from pipelines.fetching.redaction import redact_all


class Strict(BaseModel):
    """A settings model that cannot be changed and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Plugin(Strict):
    """Base of all plug-ins: settings are its fields, `name` is the name of its file."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide the result; they enter the fingerprint."""

    loads: ClassVar[tuple[str, ...]] = ()
    """Modules, or packages with all their modules, that the plug-in loads by name.

    A fingerprint holds the source of the plug-in and of all that it imports; an import by name cannot be seen in it.
    """

    _recipe_languages: tuple[str, ...] = PrivateAttr(())
    """The recipe's languages: the name of one in a prompt says its script where another one has the same name."""

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def files(self) -> list[Path]:
        """Model files whose content decides the result."""
        return []

    def settings(self) -> dict[str, Any]:
        """{name: settings} as a recipe would say it, defaults written out; without secrets in addresses."""
        own = {**self.model_dump(mode="json"), **{name: p.settings() for name, p in self.nested().items()}}
        return {self.name: redact_all(own)}

    def set_languages(self, languages: Iterable[str]) -> None:
        """Set the recipe's languages, for this plug-in and those that are settings of it."""
        self._recipe_languages = tuple(sorted(set(languages)))
        for plugin in self.nested().values():
            plugin.set_languages(languages)

    def nested(self) -> "dict[str, Plugin]":
        """Plug-ins that are settings of this one, by field: the source of an eval, say."""
        return {name: value for name, value in self if isinstance(value, Plugin)}


class NestedError(UserError):
    """Errors below one plug-in, each with its place relative to the plug-in's own key."""

    def __init__(self, errors: list[tuple[tuple[str | int, ...], str]]):
        self.errors = errors
        super().__init__("; ".join(message for _, message in errors))


def names(package: str) -> list[str]:
    """Names of all plug-ins in `package`, e.g. `pipelines.filters`, without importing them."""
    path = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))


def load(package: str, name: str) -> type[Plugin]:
    """The one Plugin class that `package/name.py` defines; ValueError with the nearest name if there is none."""
    available = names(package)
    if name not in available:
        kind = package.rpartition(".")[2].removesuffix("s")
        if moved := getattr(importlib.import_module(package), "MOVED", {}).get(name):
            raise UserError(f"no {kind} '{name}': {moved}")
        near = difflib.get_close_matches(name, available, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise UserError(f"no {kind} '{name}'. {hint}Available: {', '.join(available)}.")
    module = importlib.import_module(f"{package}.{name}")
    found = [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, Plugin) and cls.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise UserError(f"{module.__name__} defines {len(found)} plug-in classes; exactly one is allowed.")
    return found[0]


def build(package: str, spec: Any) -> Plugin:
    """A plug-in from what a recipe says: `lid`, `{lid: {min: 0.5}}`, or the plug-in itself."""
    if isinstance(spec, Plugin):
        return spec
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        found = quoted(", ".join(map(str, spec)) if isinstance(spec, Mapping) else repr(spec))
        raise UserError(
            f"found {found or 'nothing'}; allowed is one name with its settings, such as 'lid: {{min: 0.5}}'."
        )
    name, settings = next(iter(spec.items()))
    cls = load(package, str(name))
    try:
        return cls.model_validate({} if settings is None else settings)
    except ValidationError as error:
        raise NestedError(messages(error, str(name), cls)) from error


def in_package(package: str) -> BeforeValidator:
    """Annotate a field with this to read it as a plug-in of `package`."""
    return BeforeValidator(lambda spec: build(package, spec))


def plugin_field(base: type, package: str) -> Any:
    """The field type of a plug-in of `package`: checked on reading, written out whole."""
    return SerializeAsAny[Annotated[base, in_package(package)]]  # type: ignore[valid-type]


def messages(error: ValidationError, prefix: str, model: type[BaseModel]) -> list[tuple[tuple[str | int, ...], str]]:
    """pydantic's errors as (place, sentence): what was found, what is allowed, what to do."""
    out: list[tuple[tuple[str | int, ...], str]] = []
    for item in error.errors():
        place = tuple(part for part in (prefix, *item["loc"]) if part != "")
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, NestedError):
            out += [((*place, *inner), text) for inner, text in cause.errors]
        elif item["type"] == "extra_forbidden":
            allowed = sorted(_fields_at(model, item["loc"][:-1]))
            near = difflib.get_close_matches(str(item["loc"][-1]), allowed, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            out.append((place, f"unknown key. {hint}Allowed: {', '.join(allowed) or 'no settings'}."))
        elif item["type"] == "missing":
            out.append((place, "missing. Give it a value."))
        elif cause is not None:
            out.append((place, str(cause)))
        else:
            out.append((place, f"found {quoted(repr(item['input']))}. {item['msg']}. Change the value."))
    return out


def _fields_at(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """Field names of the settings model that sits at `place` below `model`."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)
