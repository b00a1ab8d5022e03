"""Recipe files: which file a name means, what it extends, and the merged mapping that results."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, quoted
from pipelines.yaml_file import read_yaml

RECIPES = Path(str(files("assets"))) / "recipes"
METHODS = RECIPES / "methods"
SECTIONS = ("extends", "plugins", "seed", "corpus", "train", "eval")
MAX_EXTENDS = 16  # recipes that extend one another


def find(path: str | Path, folder: Path = RECIPES, what: str = "recipe") -> Path:
    """The file that `path` names: a file, or a built-in recipe of `folder` by its bare name."""
    file = Path(path)
    built_in = () if os.sep in str(path) else (folder / file.name, folder / f"{file.name}.yaml")
    for candidate in (file, *built_in):
        if candidate.is_file():
            return candidate
    found = "no such file"
    if file.is_dir():
        found = "a folder"
    elif file.exists():
        found = "no regular file"
    elif file.is_symlink():
        found = "a symbolic link that points to nothing"
    available = ", ".join(sorted(p.name for p in folder.glob("*.yaml")))
    raise UserError(
        f"{what} {quoted(path, 300)}: {found}. Expected: a path, or one of {available}. Fix: check the spelling."
    )


def lineage(path: str | Path) -> list[Path]:
    """The file of a recipe and those of the recipes that it extends, the nearest first."""
    out = [find(path)]
    read_raw(out[0])  # refuses a chain without an end
    while "extends" in (raw := read_yaml(out[-1])):
        out.append(_extended_file(out[-1], raw["extends"]))
    return out


def read_raw(file: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The mapping in `file`, laid over the recipe that it extends; paths of plug-in folders relative to their file.

    Args:
        extended_by: The files that extend this one, to find a cycle.
    """
    if file.resolve() in extended_by:
        raise UserError(f"{file}: extends itself. Expected: a chain that ends. Fix: remove one 'extends'.")
    if len(extended_by) > MAX_EXTENDS:
        raise UserError(
            f"{file}: extended through more than {MAX_EXTENDS} recipes. Expected: a shorter chain. Fix: join some of "
            f"them."
        )
    raw = read_yaml(file)
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise UserError(f"{file}: found {found}. Expected: {', '.join(SECTIONS)}. Fix: write a mapping.")
    if unknown := [key for key in raw if key not in SECTIONS]:
        raise UserError(
            f"{file}: unknown section {quoted(', '.join(map(repr, unknown)), 300)}. Expected: "
            f"{', '.join(SECTIONS)}. Fix: rename or remove it."
        )
    if "plugins" in raw:
        raw["plugins"] = _relative_to(file.parent, raw["plugins"])
    if "extends" in raw:
        base = _extended_file(file, raw.pop("extends"))
        return overlay(read_raw(base, (*extended_by, file.resolve())), raw)
    return raw


def overlay(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """A recipe over the one that it extends, whose plug-ins it may name as well as its own."""
    folders = [raw["plugins"] for raw in (base, top) if isinstance(raw.get("plugins"), list)]
    out = _merge(base, top)
    return {**out, "plugins": [*folders[0], *folders[1]]} if len(folders) == 2 else out


def _extended_file(file: Path, base: Any) -> Path:
    """The recipe that `file` extends, which is relative to it or a built-in one."""
    if not isinstance(base, str) or not base.strip():
        raise UserError(
            f"{file}, extends: found {quoted(repr(base))}. Expected: the path of one recipe, or the name of a built-in "
            f"one. Fix: correct or remove it."
        )
    near = file.parent / base
    return near if near.is_file() else find(base)


def _relative_to(folder: Path, plugins: Any) -> Any:
    """The setting `plugins` with each path relative to `folder`; anything but texts is left for validation."""
    entries = [plugins] if isinstance(plugins, str) else plugins
    if not isinstance(entries, list):
        return plugins
    return [str(folder / Path(entry).expanduser()) if isinstance(entry, str) and entry else entry for entry in entries]


def _merge(base: Any, top: Any) -> Any:
    """Mappings merge key by key; anything else, lists too, is replaced."""
    if isinstance(base, dict) and isinstance(top, dict):
        return {**base, **{key: _merge(base[key], value) if key in base else value for key, value in top.items()}}
    return top
