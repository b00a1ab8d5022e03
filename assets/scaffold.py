"""`isogloss new KIND NAME`: a commented skeleton of a recipe or a plug-in, and a test that passes."""

import keyword
import re
from importlib.resources import files
from pathlib import Path

from pipelines.errors import UserError
from pipelines.files import write_atomically

FOLDERS = {
    "filter": "filters",
    "source": "sources",
    "objective": "objectives",
    "eval": "evals",
    "task": "tasks",
    "instruction": "instructions",
}
"""The folder of each kind of plug-in below `plugins/`."""


def write_skeleton(kind: str, name: str, into: Path) -> list[Path]:
    """Write the file and its test; the paths of both, the test last. UserError where one exists already.

    Args:
        kind: `recipe`, or a kind of FOLDERS.
        name: Its name in recipes.
        into: The folder below which `plugins/KINDS/NAME.py` (or `NAME.yaml`) and `tests/test_NAME.py` are written.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"isogloss new: found the name '{name}'. Expected: lower-case letters, digits and underscores, a letter "
            f"first. Fix: choose such a name, as it is the name of a Python module."
        )
    is_recipe = kind == "recipe"
    main = into / f"{name}.yaml" if is_recipe else into / "plugins" / FOLDERS[kind] / f"{name}.py"
    test = into / "tests" / f"test_{name}.py"
    if existing := [file for file in (main, test) if file.exists()]:
        raise UserError(
            f"{existing[0]}: found a file. Expected: none. Fix: choose another name or folder, or remove the file."
        )
    contents = {
        main: _read("recipe.yaml" if is_recipe else f"{kind}.py"),
        test: _read("recipe_test.py") if is_recipe else _with_loader(_read(f"{kind}_test.py")),
    }
    for file, text in contents.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, _filled(text, kind, name))
    return [main, test]


def _read(name: str) -> str:
    return files("assets").joinpath("skeletons", f"{name}.txt").read_text(encoding="utf-8")


def _with_loader(test: str) -> str:
    """A test with `load`, which imports the plug-in from its file, after the import statements of both."""
    standard, _, definitions = _read("load").partition("\n\n")
    lines = test.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith(("import ", "from ")))
    imports, rest = "\n".join(lines[: last + 1]), "\n".join(lines[last + 1 :])
    return f"{standard}\n\n{imports}\n\n{definitions.rstrip()}\n\n\n{rest.strip()}\n"


def _filled(text: str, kind: str, name: str) -> str:
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return text.replace("NAME", name).replace("CLASS", class_name).replace("KINDS", FOLDERS.get(kind, ""))
