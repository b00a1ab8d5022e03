import re
from pathlib import Path
from typing import Any

import pytest

from pipelines import registry
from pipelines.registry import Plugin
from pipelines.sources import Source

TESTS = Path(__file__).parent
PACKAGES = ("pipelines.sources", "pipelines.filters", "pipelines.instructions", "pipelines.evals", "pipelines.tasks")
TRAINING = "alignment_train.objectives"
ALL = [(package, name) for package in (*PACKAGES, TRAINING) for name in registry.names(package)]
CITED = re.compile(r"Sources?:|Measured|arXiv|doi|percentile|\d %")  # a paper, or the measurement a default rests on


def source_of(plugin: type[Plugin]) -> str:
    return Path(__import__(plugin.__module__, fromlist=["_"]).__file__ or "").read_text(encoding="utf-8")


def test_every_kind_of_plug_in_is_there() -> None:
    found: dict[str, Any] = {package: registry.names(package) for package in (*PACKAGES, TRAINING)}
    assert {"sample", "opus"} <= set(found["pipelines.sources"])
    assert {"char_length", "identical", "length_ratio", "lid", "markup", "script"} <= set(found["pipelines.filters"])
    assert {"translate", "answer_across"} <= set(found["pipelines.instructions"])
    assert {"retrieval", "loss"} <= set(found["pipelines.evals"])
    assert {"messages", "slot_filling", "json_extraction", "translation"} <= set(found["pipelines.tasks"])
    assert {"contrastive", "instruction", "language_model", "task"} <= set(found[TRAINING])


@pytest.mark.parametrize(("package", "name"), ALL)
def test_a_plug_in_loads_has_a_docstring_and_cites(package: str, name: str) -> None:
    plugin = registry.load(package, name)
    assert plugin.__doc__, f"{package}.{name}: the class has no docstring"
    if issubclass(plugin, Source):
        assert plugin.citation, f"{package}.{name}: no citation"
    elif package != "pipelines.filters":  # the measurements behind their bounds are in the docs
        assert CITED.search(source_of(plugin)), f"{package}.{name}: neither a source nor a measurement is named"


@pytest.mark.parametrize(("package", "name"), ALL)
def test_a_plug_in_has_a_test_file(package: str, name: str) -> None:
    own = TESTS / f"test_{name}.py"
    if package == TRAINING and not own.exists():  # objectives are tested together, on one model
        others = (path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py") if path != Path(__file__))
        assert any(re.search(rf"\b{name}\b", text) for text in others), f"{package}.{name}: in no test"
    else:
        assert "def test_" in own.read_text(encoding="utf-8")


@pytest.mark.parametrize(("package", "name"), ALL)
def test_a_plug_in_is_frozen_and_refuses_unknown_settings(package: str, name: str) -> None:
    config = registry.load(package, name).model_config
    assert config.get("frozen") is True
    assert config.get("extra") == "forbid"
