# pyright: strict
"""The content of metrics.json: figures by model and baseline, and what was computed from them.

The layout of the file is flat: each model and each baseline is a key beside `pivot`, `means`, ... Files of all formats
are read; those before format 3 have no paired differences, means, gaps, groups or contamination, and may lack `format`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from pipelines.errors import UserError
from pipelines.evals import Metric
from pipelines.results.metric_key import MetricKey

FORMAT = 3
FILE = "metrics.json"
MODELS = ("base", "control", "aligned")
MERGED = "merged"
"""The model of recipes that merge adapters: shown beside the others; the verdict is about `aligned`."""
DEV = "dev"
"""Recall by layer on dev text, in the cells of a comparison."""


def _keep_int(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    return value if type(value) is int else validate(value)


def _as_is(value: Any) -> Any:
    return value


Number = Annotated[float, WrapValidator(_keep_int), PlainSerializer(_as_is)] | None
"""A number that stays an integer in the file where it is one."""
Figures = dict[str, dict[str, Number]]
"""{key: figure}; a number is None where it was NaN or infinite."""


class FiguresByModel(BaseModel):
    """{model, baseline or difference: figures}, as extra fields."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Figures] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    def figures(self, name: str) -> Figures:
        """All figures of a model, a baseline or `chance`; empty where there are none."""
        return (self.__pydantic_extra__ or {}).get(name, {})

    def figure(self, name: str, key: str) -> Metric | None:
        """{value, low, high, n, ...} of one figure; None where it is missing or its value is not a number."""
        return clean(self.figures(name).get(key))


class TextCounts(BaseModel):
    """How many texts of an eval the training mix contains."""

    texts: int
    exact: int
    near: int


class Example(BaseModel):
    """A text of an eval that the training mix contains."""

    eval: str
    language: str
    text: str
    kind: Literal["exact", "near"]


class CleanFigures(FiguresByModel):
    """Figures without the items whose texts are in the training mix."""

    left_out: dict[str, int] = {}
    """{key: number of items left out}."""


class Contamination(BaseModel):
    """Which eval texts the training mix contains."""

    near: float = 0.0
    """The similarity from which a text counts as nearly contained."""
    evals: dict[str, TextCounts]
    examples: list[Example] = []
    without: CleanFigures


class EvaluationResult(FiguresByModel):
    """What metrics.json holds; the figures of models and baselines are extra fields."""

    format: int = 0
    """0 in files that do not say."""
    pivot: str = "eng_Latn"
    trained_layer: int | None = None
    chance: dict[str, Number] = {}
    signatures: dict[str, str] = {}
    """{key: how the figure was computed, in the words of the library that computed it}."""
    samples: dict[str, list[dict[str, str]]] = {}
    """{task/subject: items with prompt, reference and the output of each model}."""
    groups: dict[str, list[str]] = {}
    """{seen, unseen, high, low: languages}."""
    task_groups: dict[str, dict[str, list[str]]] = {}
    """{task: {source, transfer: languages}}."""
    mix_rows: dict[str, int] = {}
    """Rows of the training mix by language."""
    differences: dict[str, Figures] = {}
    """{aligned-base, aligned-control: paired differences}."""
    means: dict[str, Figures] = {}
    """{model: means over groups of languages}; the subject of a key is the group."""
    gaps: dict[str, Figures] = {}
    """{model or difference: how far each language lies behind the pivot, as a share of the pivot's figure}."""
    contamination: Contamination | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format > FORMAT:
            raise UserError(f"has format {self.format}. Expected: at most {FORMAT}. Fix: update Isogloss.")
        for name in self.__pydantic_extra__ or {}:
            for key in self.figures(name):
                MetricKey.parse(key)
        return self

    def figures(self, name: str) -> Figures:
        if name == "chance":
            return {key: {"value": value} for key, value in self.chance.items()}
        return super().figures(name)

    @property
    def models(self) -> list[str]:
        """The models that were evaluated, in the order in which they are shown."""
        return [name for name in (*MODELS, MERGED) if name in (self.__pydantic_extra__ or {})]

    @property
    def baselines(self) -> list[str]:
        """What was measured beside the models, without chance."""
        return [name for name in self.__pydantic_extra__ or {} if name not in (*MODELS, MERGED, DEV)]

    def to_json(self) -> dict[str, Any]:
        """The content of the file, without what was never set."""
        return self.model_dump(mode="json", exclude_unset=True)


def clean(figure: Mapping[str, float | None] | None) -> Metric | None:
    """A figure without the numbers that were not finite; None where its value was not."""
    numbers = {part: number for part, number in (figure or {}).items() if number is not None and math.isfinite(number)}
    return numbers if "value" in numbers else None


def read_result(folder: str | Path) -> EvaluationResult:
    """The result in the metrics.json of a folder."""
    return EvaluationResult.model_validate_json((Path(folder) / FILE).read_bytes())


def write_result(result: EvaluationResult, folder: Path) -> None:
    """Write metrics.json: sorted keys, one figure per line."""
    (folder / FILE).write_text(f"{_text(result.to_json())}\n", encoding="utf-8")


def _text(item: Any, indent: str = "") -> str:
    if not isinstance(item, Mapping) or "value" in item:
        return json.dumps(item, sort_keys=True, ensure_ascii=False, allow_nan=False)
    content = cast(Mapping[str, Any], item)
    lines = (f"{indent} {json.dumps(key)}: {_text(content[key], indent + ' ')}" for key in sorted(content))
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
