"""Base models that are refused when they are loaded."""

from pathlib import Path
from typing import Any

from alignment_train.models.load import examine
from alignment_train.settings import AdapterSettings, Base


def problem(model: Path | str, adapter: AdapterSettings | None = None, **base: Any) -> str:
    """Why `model` is refused: one sentence, without the place that it begins with, and without a traceback."""
    loaded, findings = examine(Base.model_validate({"model": str(model), **base}), adapter)
    assert loaded is None
    (found,) = findings.problems
    assert found.startswith(f"train.base {model}: ")
    assert ". Expected: " in found
    assert ". Fix: " in found
    assert "\n" not in found
    return found.removeprefix(f"train.base {model}: ")
