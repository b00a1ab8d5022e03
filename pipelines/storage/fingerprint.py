"""Fingerprints: SHA-256 over all that decides a dataset, the source code that made it included.

The code is found by following imports: a stage depends on every module of this project that it imports, at any depth
and wherever the import statement stands, except those of NEUTRAL. Source is hashed as its syntax tree without
docstrings, so formatting, comments and documentation change no fingerprint.
"""

import ast
import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipelines.registry import Plugin, canonical_module

FORMAT = 1
"""Of shards and manifests; a store of another format is refused."""

PROJECT = ("pipelines", "alignment_train", "assets")
"""Top-level packages whose imports are followed, beside those of the plug-ins themselves."""

NEUTRAL = frozenset(
    {
        # Read and check settings; what they read enters a fingerprint by value.
        "pipelines.config",
        "pipelines.recipe_files",
        "pipelines.registry",
        "pipelines.validation",
        "pipelines.yaml_file",
        "alignment_train.config",
        "alignment_train.settings",
        "alignment_train.models.check",
        # Keep, fetch and name files whose content is compared with its SHA-256.
        "pipelines.fetching.download",
        "pipelines.fetching",
        "pipelines.fetching.connections",
        "pipelines.fetching.transport",
        "pipelines.files",
        "pipelines.fetching.lock",
        "pipelines.fetching.ranged",
        "pipelines.storage.remote",
        "pipelines.storage.fingerprint",
        "pipelines.storage.store",
        # Answers for the machine, as the choice of a device does.
        "alignment_train.training.precision",
        # Call one step after another, with settings that enter by value.
        "alignment_train.comparison.cells",
        "alignment_train.trainer",
        "pipelines.runner",
        # Say what happens. A model card is written anew when a model is pushed: its wording must not retrain.
        "alignment_train.card",
        "alignment_train.training.progress_log",
        "alignment_train.training.writing",
        "pipelines.errors",
        "pipelines.progress",
        "pipelines.fetching.redaction",
        # Run functions of batches side by side, in order.
        "pipelines.engine",
    }
)
"""Modules that decide nothing of a dataset's content: neither hashed nor followed."""


def compute_fingerprint(
    stage: str,
    settings: Any,
    inputs: dict[str, str],
    plugins: Iterable[Plugin] = (),
    libraries: Iterable[str] = ("pyarrow",),
    modules: Iterable[str] = (),
) -> str:
    """SHA-256 over all that decides a dataset.

    Args:
        stage: The module that makes the dataset; what it imports counts too.
        settings: JSON of what the recipe says and sources pin.
        inputs: Fingerprints of the datasets read, by name.
        plugins: Their settings, source, model files and libraries count.
        libraries: Distributions whose versions count.
        modules: Further modules that make the dataset without being imported by `stage`.
    """
    plugins = [part for plugin in plugins for part in _with_nested(plugin)]
    needed = {*libraries, *(library for plugin in plugins for library in plugin.libraries)}
    whole = {
        "format": FORMAT,
        "settings": settings,
        "plugins": [plugin.settings() for plugin in plugins],
        "inputs": inputs,
        "source": source_hashes([stage, *modules, *(name for plugin in plugins for name in plugin_modules(plugin))]),
        "files": {file.name: _sha256(file) for plugin in plugins for file in plugin.files()},
        "libraries": {name: installed(name) for name in sorted(needed)},
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def plugin_modules(plugin: Plugin) -> Iterator[str]:
    """The module of a plug-in, and those that it loads by name."""
    yield type(plugin).__module__
    for name in plugin.loads:
        yield name
        file = _source_file(name)
        if file and file.name == "__init__.py":
            yield from (f"{name}.{inner.stem}" for inner in sorted(file.parent.glob("[!_]*.py")))


def source_hashes(modules: Iterable[str]) -> dict[str, str]:
    """{module: SHA-256} of these modules and all that they import of the project or of their own package."""
    digests: dict[str, list[str]] = {}
    for name in closure(modules):
        digests.setdefault(canonical_module(name), []).append(_parsed(name).digest)
    return {name: "+".join(sorted(digests[name])) for name in sorted(digests)}


def closure(modules: Iterable[str]) -> set[str]:
    """These modules and all that they import of the project or of their own package, at any depth, but NEUTRAL."""
    roots, found = list(modules), set[str]()
    packages = {*PROJECT, *(name.partition(".")[0] for name in roots)}
    while roots:
        name = roots.pop()
        if name in found or name in NEUTRAL or name.partition(".")[0] not in packages:
            continue
        found.add(name)
        roots += _parsed(name).imports
    return found


class _Module:
    """A module's digest and the modules that it imports."""

    def __init__(self, name: str, file: Path):
        tree = ast.parse(file.read_bytes(), str(file))
        digest = hashlib.sha256(file.name.encode())
        for part in _canonical(tree):
            digest.update(part.encode("utf-8", "surrogatepass"))
        self.digest = digest.hexdigest()
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self.imports = sorted({*_imports(tree, package), *_parents(name)})


@cache
def _parsed(name: str) -> _Module:
    file = _source_file(name)
    if file is None:
        raise AssertionError(f"{name} has no source file")
    return _Module(name, file)


@cache
def _source_file(name: str) -> Path | None:
    """The source file of a module, found without running it or its package: they may load torch."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *rest)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _parents(name: str) -> Iterator[str]:
    """The packages that importing a module runs first."""
    while name := name.rpartition(".")[0]:
        if _source_file(name):  # a namespace package has none
            yield name


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Modules that a syntax tree imports, also within functions, but not for the type checker alone."""
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
    """A syntax tree as text, the same in every Python version: without docstrings, positions and empty fields."""
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
    """The docstring of a module, class or function; it decides nothing but where code reads `__doc__`."""
    body = getattr(node, "body", None)
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not body:
        return None
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def _with_nested(plugin: Plugin) -> Iterator[Plugin]:
    """A plug-in and those within it, at any depth."""
    yield plugin
    for inner in plugin.nested().values():
        yield from _with_nested(inner)


@cache
def installed(distribution: str) -> str:
    """The version of a distribution; "" where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


@cache
def commit() -> str:
    """The git commit of this code, `-dirty` where files differ from it; "" where it is no checkout of this project.

    An installed package may lie inside the working tree of some other repository, whose commit says nothing.
    """
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "pipelines/storage/fingerprint.py")
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
