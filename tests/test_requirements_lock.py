"""The careful install: each file of core, train and graph by its SHA-256, in the versions of constraints.txt."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENTRY = re.compile(
    r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)( ; [^\\]+)?\s*((?:\\\n\s+--hash=sha256:[0-9a-f]{64}\s*)+)", re.MULTILINE
)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


LOCK = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8")
FOUND = {_normal(name): (version, marker) for name, version, marker, _ in ENTRY.findall(LOCK)}


def test_every_line_is_a_version_with_its_hashes() -> None:
    rest = ENTRY.sub("", LOCK)
    assert [line for line in rest.splitlines() if line.strip() and not line.startswith("#")] == []
    assert len(FOUND) == LOCK.count("==") - sum(marker.count("==") for _, marker in FOUND.values())
    assert len(FOUND) > 100


def test_versions_are_those_of_the_constraints() -> None:
    pinned = re.findall(r"^([A-Za-z0-9][\w.-]*)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    constraints = {_normal(name): version for name, version in pinned}
    assert {name: version for name, (version, _) in FOUND.items() if constraints.get(name, version) != version} == {}
    # what is not installed where the constraints were written is for other systems, or comes with torch for GPUs
    others = {name for name in FOUND if name not in constraints}
    assert {name for name in others if not FOUND[name][1]} == set()


def test_core_train_and_graph_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["graph"], *extras["train"]]
    wanted = {_normal(re.split(r"[\[<>=~! ]", line)[0]) for line in lines}
    assert wanted - set(FOUND) == set()
    assert "setuptools" in FOUND  # builds this package without an isolated, unchecked environment
