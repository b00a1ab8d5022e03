"""Fingerprints: SHA-256 over everything that determines a dataset, including the source code that made it.

A stage depends on every module of this project that it imports, directly or indirectly and wherever the import
statement stands, except for the modules in NEUTRAL. Source code is hashed as a syntax tree without docstrings, so
formatting, comments and documentation do not change a fingerprint.
"""

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.files import sha256
from pipelines.registry import Plugin, canonical_module
from pipelines.storage.provenance import installed

FORMAT = 1
"""Version of the format of shards and manifests; a store of another format is refused."""

PROJECT = ("pipelines", "alignment_train", "assets")
"""Top-level packages whose imports are followed, in addition to those of the plug-ins."""

NEUTRAL = frozenset(
    {
        # Read and check settings, which enter a fingerprint by value.
        "pipelines.config",
        "pipelines.recipe_files",
        "pipelines.registry",
        "pipelines.validation",
        "pipelines.yaml_file",
        "alignment_train.config",
        "alignment_train.settings",
        "alignment_train.models.check",
        # Store, fetch and name files whose content is checked against its SHA-256.
        "pipelines.fetching.download",
        "pipelines.fetching",
        "pipelines.fetching.connections",
        "pipelines.fetching.transport",
        "pipelines.files",
        "pipelines.fetching.lock",
        "pipelines.fetching.ranged",
        "pipelines.storage.errors",
        "pipelines.storage.fingerprint",
        "pipelines.storage.manifest",
        "pipelines.storage.meter",
        "pipelines.storage.provenance",
        "pipelines.storage.remote",
        "pipelines.storage.store",
        "pipelines.storage.writer",
        "pipelines.storage.writer_lock",
        # Depends on the machine, as the choice of a device does.
        "alignment_train.training.precision",
        # Call the steps in order, with settings that enter by value.
        "alignment_train.comparison.cells",
        "alignment_train.trainer",
        "pipelines.runner",
        # Report what happens. A model card is rewritten on every push: its wording must not cause retraining.
        "alignment_train.card",
        "alignment_train.training.progress_log",
        "alignment_train.training.writing",
        "pipelines.errors",
        "pipelines.progress",
        "pipelines.fetching.redaction",
        # Runs functions of batches in parallel, in order.
        "pipelines.engine",
    }
)
"""Modules that do not affect the content of a dataset: neither hashed nor followed."""


def compute_fingerprint(
    stage: str,
    settings: Any,
    inputs: dict[str, str],
    plugins: Iterable[Plugin] = (),
    libraries: Iterable[str] = ("pyarrow",),
    modules: Iterable[str] = (),
) -> str:
    """Return the SHA-256 over everything that determines a dataset.

    Args:
        stage: The module that makes the dataset; its imports are included.
        settings: JSON of the recipe's settings and of what sources pin.
        inputs: Fingerprints of the input datasets by name.
        plugins: Plug-ins whose settings, source, model files and libraries are included.
        libraries: Distributions whose versions are included.
        modules: Further modules that take part without being imported by `stage`.
    """
    plugins = [part for plugin in plugins for part in _with_nested(plugin)]
    distributions = {*libraries, *(library for plugin in plugins for library in plugin.libraries)}
    content = {
        "format": FORMAT,
        "settings": settings,
        "plugins": [plugin.settings() for plugin in plugins],
        "inputs": inputs,
        "source": source_hashes([stage, *modules, *(name for plugin in plugins for name in plugin_modules(plugin))]),
        "files": {file.name: sha256(file) for plugin in plugins for file in plugin.files()},
        "libraries": {name: installed(name) for name in sorted(distributions)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def plugin_modules(plugin: Plugin) -> Iterator[str]:
    """Yield the module of a plug-in and the modules that it loads by name."""
    yield type(plugin).__module__
    for name in plugin.loads:
        yield name
        file = _source_file(name)
        if file and file.name == "__init__.py":
            yield from (f"{name}.{inner.stem}" for inner in sorted(file.parent.glob("[!_]*.py")))


def source_hashes(modules: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of each module in the closure of `modules`."""
    digests: dict[str, list[str]] = {}
    for name in closure(modules):
        digests.setdefault(canonical_module(name), []).append(_parse_module(name).digest)
    return {name: "+".join(sorted(digests[name])) for name in sorted(digests)}


def closure(modules: Iterable[str]) -> set[str]:
    """Return `modules` and everything they import from the project or their own package, except NEUTRAL."""
    pending, visited = list(modules), set[str]()
    packages = {*PROJECT, *(name.partition(".")[0] for name in pending)}
    while pending:
        name = pending.pop()
        if name in visited or name in NEUTRAL or name.partition(".")[0] not in packages:
            continue
        visited.add(name)
        pending += _parse_module(name).imports
    return visited


class _ParsedModule:
    """The digest of a module's source and the names of the modules that it imports."""

    def __init__(self, name: str, file: Path):
        tree = ast.parse(file.read_bytes(), str(file))
        digest = hashlib.sha256(file.name.encode())
        for part in _canonical(tree):
            digest.update(part.encode("utf-8", "surrogatepass"))
        self.digest = digest.hexdigest()
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self.imports = sorted({*_imports(tree, package), *_parents(name)})


@cache
def _parse_module(name: str) -> _ParsedModule:
    file = _source_file(name)
    if file is None:
        raise AssertionError(f"{name} has no source file")
    return _ParsedModule(name, file)


@cache
def _source_file(name: str) -> Path | None:
    """Return the source file of a module without importing it or its package, which may load torch."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _parents(name: str) -> Iterator[str]:
    """Yield the packages that are imported before a module."""
    while name := name.rpartition(".")[0]:
        if _source_file(name):  # a namespace package has none
            yield name


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the modules that a syntax tree imports, also within functions, but not for type checking only."""
    nodes = list(ast.iter_child_nodes(tree))
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            nodes += node.orelse
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield base
            if base.partition(".")[0] in (*PROJECT, package.partition(".")[0]):
                yield from (full for alias in node.names if _source_file(full := f"{base}.{alias.name}"))


def _canonical(node: ast.AST) -> Iterator[str]:
    """Yield a syntax tree as text that is the same in every Python version: no docstrings, positions, empty fields."""
    yield f"({type(node).__name__}"
    docstring = _docstring(node)
    for name, value in ast.iter_fields(node):
        if value in (None, []) or name in ("ctx", "kind", "type_comment"):
            continue
        yield f" {name}="
        for item in value if isinstance(value, list) else [value]:
            if item is docstring and docstring is not None:
                continue
            if isinstance(item, ast.AST):
                yield from _canonical(item)
            else:
                yield f"{type(item).__name__}:{item!r},"
    yield ")"


def _docstring(node: ast.AST) -> ast.Expr | None:
    """Return the docstring of a module, class or function, which has no effect unless code reads `__doc__`."""
    body = getattr(node, "body", None)
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not body:
        return None
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def _with_nested(plugin: Plugin) -> Iterator[Plugin]:
    """Yield a plug-in and all plug-ins nested in it."""
    yield plugin
    for inner in plugin.nested().values():
        yield from _with_nested(inner)
