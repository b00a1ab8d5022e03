# pyright: strict
"""Plug-ins by name: built-in ones, those of a recipe's folders, and those of installed packages.

The name of a plug-in is the name of its file: `filters/lid.py` is the filter `lid`. A file is imported only when a
recipe names it. Users add plug-ins in two ways:

- `plugins: ./my_plugins` in a recipe: a folder with `filters/`, `sources/`, `instructions/`, `tasks/`, `evals/` or
  `objectives/` below it. Files of the folder import each other relatively (`from .._words import WORDS`).
- An installed package with entry points in the group `isogloss.filters`, `isogloss.sources` and so on: the name is the
  plug-in's name in recipes, the value is the module that defines it.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, NamedTuple, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, SerializeAsAny, ValidationError

from pipelines.errors import UserError, quoted
from pipelines.fetching.redaction import redact_all
from pipelines.validation import NestedError, PluginError, RootError, did_you_mean, messages

__all__ = [
    "KINDS",
    "NestedError",
    "Plugin",
    "Strict",
    "build",
    "load",
    "names",
    "plugin_field",
    "rebuild",
    "use_folders",
]

KINDS = ("sources", "filters", "instructions", "tasks", "evals", "objectives")
"""Subfolders of a plug-in folder, and last parts of the entry points' groups."""

FOLDER_PACKAGE = "isogloss_plugins_"
"""Start of the name under which a plug-in folder is imported; a hash of its path follows."""


class Strict(BaseModel):
    """A settings model that cannot be changed and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Plugin(Strict):
    """Base of all plug-ins: settings are its fields, `name` is the name of its file."""

    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide the result; they enter the fingerprint."""

    loads: ClassVar[tuple[str, ...]] = ()
    """Modules, or packages with all their modules, that the plug-in imports by name.

    A fingerprint covers the source of the plug-in and of all that it imports; an import by name cannot be seen in it.
    """

    _recipe_languages: tuple[str, ...] = PrivateAttr(())
    """The recipe's languages. In a prompt, the name of one includes its script where another has the same name."""

    @property
    def name(self) -> str:
        return _recipe_name(type(self).__module__)

    def files(self) -> list[Path]:
        """Model and data files whose content decides the result."""
        return []

    def settings(self) -> dict[str, Any]:
        """{name: settings} as in a recipe, defaults written out; without secrets in addresses."""
        fields = {**self.model_dump(mode="json"), **{name: p.settings() for name, p in self.nested().items()}}
        return {self.name: redact_all(fields)}

    def set_languages(self, languages: Iterable[str]) -> None:
        """Set the recipe's languages, for this plug-in and those that are settings of it."""
        self._recipe_languages = tuple(sorted(set(languages)))
        for plugin in self.nested().values():
            plugin.set_languages(languages)

    def nested(self) -> "dict[str, Plugin]":
        """Plug-ins that are settings of this one, by field, such as the source of an eval."""
        return {name: value for name, value in self if isinstance(value, Plugin)}

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a plug-in of a folder with the folder's path: another process must import it before the state."""
        module = type(self).__module__
        if (folder := folder_of(module)) is None:
            return super().__reduce_ex__(protocol)
        return _new_from_folder, (str(folder), module, type(self).__qualname__), self.__getstate__()


class _Origin(NamedTuple):
    """Where a plug-in of one name comes from."""

    module: str
    description: str
    folder: Path | None = None
    is_builtin: bool = False


_folders: ContextVar[tuple[Path, ...]] = ContextVar("plugin_folders", default=())
_mounted: dict[str, Path] = {}
"""{top-level package: plug-in folder} of this process."""
_user_classes: dict[str, dict[str, type[Plugin]]] = {}
"""{package of the kind: {module: class}} of the plug-ins of users that this process has imported."""


@contextmanager
def use_folders(folders: Iterable[str | Path]) -> Generator[None, None, None]:
    """Find plug-ins in `folders` too, in this thread and until the context ends."""
    token = _folders.set(tuple(Path(folder) for folder in folders))
    try:
        yield
    finally:
        _folders.reset(token)


def check_folders(value: Any) -> list[Path]:
    """The setting `plugins` of a recipe as absolute paths, each once; RootError where one is no plug-in folder."""
    entries = cast(list[Any], [value] if isinstance(value, str) else value)
    is_list = type(entries) in (list, tuple)
    if not is_list or not all(isinstance(entry, str) and entry for entry in entries):
        raise RootError(
            [(("plugins",), f"found {quoted(repr(value))}. Expected: the path of a folder, or a list of such. Fix: "
              f"write 'plugins: ./my_plugins'.")]
        )  # fmt: skip
    out: dict[Path, None] = {}
    for number, entry in enumerate(cast(list[str], entries)):
        folder = Path(entry).expanduser().resolve()
        kinds = ", ".join(f"{kind}/" for kind in KINDS)
        if not folder.is_dir():
            found = "is not a folder" if folder.exists() else "does not exist"
        elif not any((folder / kind).is_dir() for kind in KINDS):
            found = "has none of the subfolders of plug-ins"
        else:
            out[folder] = None
            continue
        raise RootError(
            [(("plugins", number), f"{quoted(folder, 300)} {found}. Expected: a folder with one or more of {kinds}. "
              f"Fix: correct the path, which is relative to the recipe, or the names of the subfolders.")]
        )  # fmt: skip
    return list(out)


def names(package: str) -> list[str]:
    """Names of the built-in plug-ins in `package`, e.g. `pipelines.filters`, without importing them."""
    return _modules_in(importlib.import_module(package).__path__)


def loaded(package: str) -> tuple[type[Plugin], ...]:
    """Plug-ins of users that this process has imported for `package`."""
    return tuple(cls for _, cls in sorted(_user_classes.get(package, {}).items()))


def load(package: str, name: str) -> type[Plugin]:
    """The one Plugin class of the module called `name`; UserError with the nearest name where there is none."""
    kind = package.rpartition(".")[2].removesuffix("s")
    origins = _catalog(package)
    if name not in origins:
        if moved := getattr(importlib.import_module(package), "MOVED", {}).get(name):
            raise UserError(f"no {kind} '{name}': {moved}")
        raise UserError(
            f"no {kind} '{quoted(name)}'. {did_you_mean(name, origins)}Expected: {_list_names(origins)}. Fix: correct "
            f"the name, or add the plug-in to a folder that 'plugins' names."
        )
    if len(origins[name]) > 1:
        raise _clash(package, name, origins[name])
    [origin] = origins[name]
    if not name.isidentifier():
        raise _plugins_error(
            f"found the name '{quoted(name)}' ({origin.description}). Expected: a Python identifier. Fix: rename it."
        )
    if origin.is_builtin:
        return _only_class(importlib.import_module(origin.module), Plugin)
    cls = _only_class(_import_user_module(origin), _base_class(package))
    _user_classes.setdefault(package, {})[origin.module] = cls
    return cls


def build(package: str, spec: Any) -> Plugin:
    """A plug-in from what a recipe says: `lid`, `{lid: {min: 0.5}}`, or the plug-in itself."""
    if isinstance(spec, Plugin):
        return spec
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(cast(Mapping[Any, Any], spec)) != 1:
        keys = ", ".join(map(str, cast(Mapping[Any, Any], spec))) if isinstance(spec, Mapping) else repr(spec)
        raise UserError(
            f"found {quoted(keys) or 'nothing'}. Expected: one name with its settings, such as 'lid: {{min: 0.5}}'. "
            f"Fix: write each plug-in as its own item of the list."
        )
    name, settings = next(iter(cast(Mapping[Any, Any], spec).items()))
    return _validate(load(package, str(name)), str(name), {} if settings is None else settings)


def rebuild(plugin: Plugin, settings: Any) -> Plugin:
    """A plug-in of the same class with other settings; unlike `build`, it needs no folders to find the class in."""
    return _validate(type(plugin), plugin.name, settings)


def _validate(cls: type[Plugin], name: str, settings: Any) -> Plugin:
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        raise NestedError(messages(error, name, cls, settings)) from error


def plugin_field(base: type, package: str) -> Any:
    """The field type of a plug-in of `package`: checked on reading, written out whole."""
    check = BeforeValidator(lambda spec: build(package, spec))
    return cast(Any, SerializeAsAny[Annotated[base, check]])


def folder_of(module: str) -> Path | None:
    """The plug-in folder of which `module` was imported; None for modules of packages."""
    return _mounted.get(module.partition(".")[0])


def canonical_module(module: str) -> str:
    """`module` without what depends on the path of its plug-in folder: what a fingerprint may contain."""
    top, _, rest = module.partition(".")
    return f"plugins.{rest}" if top in _mounted else module


def _modules_in(path: Iterable[str]) -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def _catalog(package: str) -> dict[str, list[_Origin]]:
    """Where each name of a kind comes from. A name in a folder of the recipe must be the only one."""
    kind = package.rpartition(".")[2]
    out = {name: [_Origin(f"{package}.{name}", "built in", is_builtin=True)] for name in names(package)}
    for name, module, distribution in _entry_points(kind):
        out.setdefault(name, []).append(_Origin(module, f"package {distribution}"))
    for folder in _folders.get():
        for name in _modules_in([str(folder / kind)]):
            out.setdefault(name, []).append(_Origin(f"{_package_of(folder)}.{kind}.{name}", str(folder), folder))
    for name, origins in out.items():
        if len(origins) > 1 and any(origin.folder for origin in origins):
            raise _clash(package, name, origins)
    return out


@cache
def _all_entry_points() -> EntryPoints:
    return entry_points()  # pyright: ignore[reportReturnType]: SelectableGroups is that of Python 3.9


@cache
def _entry_points(kind: str) -> list[tuple[str, str, str]]:
    """(name, module, distribution) of the plug-ins of installed packages, each once."""
    points = _all_entry_points().select(group=f"isogloss.{kind}")
    return sorted({(point.name, point.module, point.dist.name if point.dist else "?") for point in points})


@cache
def _recipe_name(module: str) -> str:
    """The name in recipes of the plug-in that `module` defines: an entry point's name, else the file's."""
    named = [name for kind in KINDS for name, target, _ in _entry_points(kind) if target == module]
    return named[0] if named else module.rpartition(".")[2]


def _list_names(origins: Mapping[str, list[_Origin]]) -> str:
    """All names of a kind, grouped by where they come from where that is not the project itself."""
    groups: dict[str, list[str]] = {}
    for name in sorted(origins):
        for origin in origins[name]:
            groups.setdefault("" if origin.is_builtin else f" ({quoted(origin.description)})", []).append(name)
    return "; ".join(f"{', '.join(groups[where])}{where}" for where in sorted(groups))


def _plugins_error(text: str) -> RootError:
    return RootError([(("plugins",), text)])


def _clash(package: str, name: str, origins: list[_Origin]) -> RootError:
    where = " and ".join(_location(package, name, origin) for origin in origins)
    return _plugins_error(
        f"found the {package.rpartition('.')[2].removesuffix('s')} '{name}' more than once: {where}. Expected: one "
        f"plug-in of a name, and none with the name of a built-in one. Fix: rename the file or the entry point."
    )


def _location(package: str, name: str, origin: _Origin) -> str:
    """The file of a plug-in, found without importing it; of an installed package, its name and module."""
    if not (origin.folder or origin.is_builtin):
        return f"{origin.description} ({origin.module})"
    path = [origin.folder / package.rpartition(".")[2]] if origin.folder else importlib.import_module(package).__path__
    candidates = [Path(folder, file) for folder in path for file in (f"{name}.py", f"{name}/__init__.py")]
    return str(next((file for file in candidates if file.is_file()), origin.description))


def _package_of(folder: Path) -> str:
    return f"{FOLDER_PACKAGE}{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def _mount(folder: Path) -> None:
    """Make a plug-in folder importable, under a name that no other package has."""
    name = _package_of(folder)
    if name in sys.modules:
        return
    importlib.invalidate_caches()
    init = folder / "__init__.py"
    spec = None
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    if spec is None:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    module = importlib.util.module_from_spec(spec)
    _mounted[name], sys.modules[name] = folder, module
    if spec.loader:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del _mounted[name], sys.modules[name]
            raise


def _new_from_folder(folder: str, module: str, class_name: str) -> Plugin:
    """An empty plug-in of a folder, in the process that unpickles it; the state follows."""
    if not Path(folder).is_dir():
        raise _plugins_error(
            f"{folder} is not on this machine, which runs part of the work. Expected: the folder at the same path on "
            f"every node. Fix: put it on a shared file system, or install the plug-ins as a package on each node."
        )
    _mount(Path(folder))
    cls = getattr(importlib.import_module(module), class_name)
    return cls.__new__(cls)


def _import_user_module(origin: _Origin) -> ModuleType:
    """The module of a user's plug-in; what prevents its import is shown as what it is, with file and line."""
    try:
        if origin.folder:
            _mount(origin.folder)
        return importlib.import_module(origin.module)
    except UserError:
        raise
    except SyntaxError as error:
        raise _plugins_error(
            f"{error.filename}, line {error.lineno}: found a syntax error: {error.msg}. Expected: Python "
            f"{sys.version_info.major}.{sys.version_info.minor}. Fix: correct the line."
        ) from error
    except ImportError as error:
        raise _plugins_error(
            f"{_user_line(error, origin)}: found an import that fails: {error}. Expected: modules that are installed, "
            f"or files of the plug-in folder, imported relatively (from . import ...). Fix: install the module, or "
            f"correct the import."
        ) from error
    except (ValueError, AssertionError) as error:
        raise PluginError(f"plugins: importing {origin.module} ({origin.description}) failed") from error
    except Exception as error:
        error.add_note(f"plugins: while importing {origin.module} ({origin.description})")
        raise


def _user_line(error: ImportError, origin: _Origin) -> str:
    """The last line of the user's own code before an import failed; the plug-in where there is none."""
    top = origin.module.partition(".")[0]
    spec = importlib.util.find_spec(top) if top in sys.modules or not origin.folder else None
    roots = [str(origin.folder)] if origin.folder else list((spec and spec.submodule_search_locations) or ())
    lines = [
        f"{frame.filename}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if any(frame.filename.startswith(root) for root in roots)
    ]
    return lines[-1] if lines else f"{origin.module} ({origin.description})"


def _base_class(package: str) -> type[Plugin]:
    """The base class of a kind, which its package defines: Filter in `pipelines.filters`."""
    bases = _plugin_classes(importlib.import_module(package), Plugin)
    return bases[0] if len(bases) == 1 else Plugin


def _plugin_classes(module: ModuleType, base: type[Plugin]) -> list[type[Plugin]]:
    classes = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    return [cls for cls in classes if issubclass(cls, base)]


def _only_class(module: ModuleType, base: type[Plugin]) -> type[Plugin]:
    """The one subclass of `base` that a module defines; RootError where it has none, several or an unfinished one."""
    classes = _plugin_classes(module, base)
    if len(classes) != 1:
        raise _plugins_error(
            f"{module.__file__} defines {len(classes)} subclasses of {base.__name__}. Expected: one. Fix: write each "
            f"plug-in into its own file of the folder of its kind; files whose names begin with _ are helpers."
        )
    if inspect.isabstract(classes[0]):
        methods = ", ".join(sorted(classes[0].__abstractmethods__))
        raise _plugins_error(
            f"{module.__file__}: the class {classes[0].__name__} lacks {methods}. Expected: every abstract method of "
            f"{base.__name__}. Fix: define them."
        )
    return classes[0]
