"""The import graph of the three packages has no cycles, imports within functions and for type checkers included."""

from pathlib import Path

import grimp
import pytest

PACKAGES = ("pipelines", "alignment_train", "assets")

Graph = dict[str, set[str]]


def import_graph(*packages: str) -> Graph:
    """{module: modules that it imports}, for the modules of `packages`."""
    graph = grimp.build_graph(*packages, exclude_type_checking_imports=False, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def find_cycle(graph: Graph) -> list[str]:
    """A shortest path from the first module on a cycle back to itself; empty without cycles."""
    remaining = {module: set(imported) for module, imported in graph.items()}
    while leaves := [module for module, imported in remaining.items() if not imported & remaining.keys()]:
        for module in leaves:
            del remaining[module]
    for start in sorted(remaining):
        paths, seen = [[start]], set[str]()
        for path in paths:
            for module in sorted(remaining[path[-1]] & remaining.keys()):
                if module == start:
                    return [*path, start]
                if module not in seen:
                    seen.add(module)
                    paths.append([*path, module])
    return []


def test_no_import_cycles() -> None:
    graph = import_graph(*PACKAGES)
    assert "alignment_train.config" in graph["alignment_train.trainer"], "the graph has edges"
    assert find_cycle(graph) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_find_cycle(graph: Graph, expected: list[str]) -> None:
    assert find_cycle(graph) == expected


def test_type_checking_and_local_imports_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "isogloss_cyclic"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import two\n")
    (package / "two.py").write_text("def f():\n    import isogloss_cyclic.one\n")
    monkeypatch.syspath_prepend(tmp_path)
    cycle = find_cycle(import_graph("isogloss_cyclic"))
    assert cycle == ["isogloss_cyclic.one", "isogloss_cyclic.two", "isogloss_cyclic.one"]
