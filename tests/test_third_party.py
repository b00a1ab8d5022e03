import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def _name(requirement: str) -> str:
    return re.split(r"[[<>=]", requirement)[0]


def test_every_dependency_stands_in_the_list_of_licences() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    listed = re.findall(r"^\| ([\w.-]+) \| [\d.]+ \| \S", (ROOT / "THIRD_PARTY.md").read_text(), re.MULTILINE)
    assert sorted(listed, key=str.lower) == sorted({_name(line) for line in wanted} - {"isogloss"}, key=str.lower)


def test_models_and_the_one_strong_copyleft_licence_are_named() -> None:
    text = (ROOT / "THIRD_PARTY.md").read_text()
    assert re.search(r"heliport .* \| GPL-3.0 \| only with the extra", text)
    assert re.search(r"lid.176.ftz .* \| CC-BY-SA-3.0 \|", text)


def test_our_own_licence_is_there_in_full() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
