"""Recipes: one YAML file is one experiment. This reads it whole and refuses what cannot be, before work starts."""

import os
import re
from collections.abc import Collection
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipelines.engine import Engine
from pipelines.errors import UserError, quoted
from pipelines.evals import Eval
from pipelines.fetching.paths import expand
from pipelines.fetching.redaction import redact_all
from pipelines.filters import Filter
from pipelines.instructions import InstructionType
from pipelines.languages import Pair, name, pivot
from pipelines.registry import Strict, messages, plugin_field
from pipelines.sources import Source
from pipelines.tasks import Task
from pipelines.yaml_file import read_yaml

RECIPES = Path(str(files("assets"))) / "recipes"
METHODS = RECIPES / "methods"
MOST_ROWS = 1_000_000
M = TypeVar("M", bound=Strict)
SECTIONS = ("extends", "seed", "corpus", "train", "eval")
LONGEST_CHAIN = 16  # recipes that extend one another
MOST_MISTAKES = 30  # shown at once
CHECKS = "isogloss.recipe_checks"
"""Entry points by which packages above this one check a recipe as it is read: functions of a Recipe that raise
UserError. `alignment_train` checks its `train` section so, before hours of corpus work and not after them."""


def _distinct(pairs: list[Pair]) -> list[Pair]:
    if repeated := sorted({str(pair) for pair in pairs if pairs.count(pair) > 1}):
        raise UserError(f"found {', '.join(repeated)} twice. Allowed: each pair once. Remove one.")
    return pairs


PairField = Annotated[Pair, BeforeValidator(Pair.parse), PlainSerializer(str)]


class Budget(Strict):
    """How many rows and tokens the training mix may hold, and who gets them."""

    rows: int = Field(900_000, gt=0)
    """Bitext, instruction and task rows together; 1,000,000 or more is refused (AFP and mid-align both need fewer)."""
    tokens: int | None = Field(None, gt=0)
    """Tokens of these rows together, if they too are to be bounded; all shares are then shares of tokens."""
    tokenizer: str | None = None
    """What counts tokens: a SentencePiece `.model`, a `tokenizer.json`, or `characters`."""
    language_alpha: float = Field(0.3, ge=0, le=1)
    """A pair's share is proportional to its rows to this power: 1 as they are, 0 all pairs alike."""
    shares: dict[str, float] = {}
    """Share of the whole per kind: `bitext`, each instruction type, each task. Those unnamed share the rest alike."""
    caps: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Rows that a corpus (`GNOME`, or `GNOME/v1`; `*` for those not named) may give to one kind of one pair."""
    order: Literal["random", "quality"] = "random"
    """Which bitext of a pair is taken first: a random row, or the best by the filter that judges quality."""
    directions: Literal["sorted", "both"] = "sorted"
    """`both` turns half of each pair's bitext round, source for target; dev rows stay as they are."""

    @model_validator(mode="after")
    def _bounded(self) -> "Budget":
        if self.rows >= MOST_ROWS:
            raise UserError(
                f"rows: found {self.rows:,}. Allowed: fewer than {MOST_ROWS:,}. Lower it: both papers align with less."
            )
        if any(share < 0 for share in self.shares.values()) or sum(self.shares.values()) > 1 + 1e-9:
            raise UserError(
                f"shares: found {self.shares}, sum {sum(self.shares.values()):g}. Allowed: shares of at least 0 whose "
                f"sum is at most 1. Lower some."
            )
        if (self.tokens is None) != (self.tokenizer is None):
            lacking, given = ("tokenizer", "tokens") if self.tokens else ("tokens", "tokenizer")
            raise UserError(
                f"{lacking}: found none, but {given}. Allowed: tokens with what counts them: tokenizer: characters, a "
                f"SentencePiece .model or a tokenizer.json. Set both or neither."
            )
        if self.tokenizer is not None and not re.search(r"(^characters|\.model|\.json)$", self.tokenizer):
            raise UserError(
                f"tokenizer: found '{self.tokenizer}'. Allowed: characters, or the path of a SentencePiece .model or a "
                f"tokenizer.json on this machine. Correct it."
            )
        return self

    def tokenizer_file(self) -> Path | None:
        """The file that counts tokens, None where there is none; ValueError where it is not there."""
        if self.tokenizer in (None, "characters"):
            return None
        file = Path(self.tokenizer).expanduser()
        if not file.is_file():
            raise UserError(
                f"corpus.budget.tokenizer: no file {file}. Allowed: characters, or the path of a SentencePiece .model "
                f"or a tokenizer.json on this machine. Correct it."
            )
        return file

    def check_caps(self, corpora: Collection[str]) -> None:
        """ValueError where a cap names none of `corpora`. One without a version may yet have any."""
        known = {"*", *corpora, *(corpus.partition("/")[0] for corpus in corpora)}
        if unknown := [key for key in self.caps if key not in known and key.partition("/")[0] not in corpora]:
            raise UserError(
                f"budget.caps: found {', '.join(unknown)}. Allowed: * or a corpus of the recipe "
                f"({', '.join(sorted(corpora))}). Correct or remove it."
            )


def _each_once(on: list[str]) -> list[str]:
    if len(set(on)) != len(on):
        raise UserError(f"found {', '.join(on)}. Allowed: pair, src and tgt, each once. Remove one.")
    return on


class Dedup(Strict):
    """Which rows of a pair, of whatever corpora, count as the same; the best of them stays."""

    on: Annotated[list[Literal["pair", "src", "tgt"]], Field(min_length=1), AfterValidator(_each_once)] = ["pair"]
    """What is compared, in turn: `pair` both sides together, `src` or `tgt` one side, whatever the other says."""
    near: float | None = Field(0.8, ge=0.5, le=1)
    """Jaccard similarity of character shingles from which rows count as nearly the same; null compares for equality.

    0.8 is one word in about ten. It drops 2 % of Python's documentation, GNOME's and Tatoeba, 0.01 % of Multi30k.
    """


class Decontaminate(Strict):
    """Which texts training must not hold, beside those of the recipe's evals."""

    near: float | None = Field(0.8, ge=0.5, le=1)
    """Jaccard similarity to a held-out text, or share of a long one held, from which a segment is dropped; or null."""
    lists: list[str] = []
    """Text files, UTF-8, one text a line, by path, address or glob: no segment of any language may be one of them."""

    def files(self) -> list[str]:
        """The files that `lists` names, each once; ValueError where an entry names none."""
        found: dict[str, None] = {}
        for entry in self.lists:
            try:
                found.update(dict.fromkeys(expand(entry)))
            except UserError as error:
                raise UserError(f"corpus.decontaminate.lists: {error}") from None
        return list(found)


class CorpusConfig(Strict):
    """The `corpus` section: from which sources, through which filters, under which budget."""

    pairs: Annotated[list[PairField], Field(min_length=1), AfterValidator(_distinct)]
    sources: Annotated[list[plugin_field(Source, "pipelines.sources")], Field(min_length=1)]  # type: ignore[valid-type]
    licences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Globs such as `CC-BY-[0-9]*` or `CC0-*`: corpora with another licence give no row. Unset allows all of them."""
    filters: list[plugin_field(Filter, "pipelines.filters")] = []  # type: ignore[valid-type]
    instructions: list[plugin_field(InstructionType, "pipelines.instructions")] = []  # type: ignore[valid-type]
    tasks: list[plugin_field(Task, "pipelines.tasks")] = []  # type: ignore[valid-type]
    """What the model is taught beside alignment: data with a prompt and an answer, for the objective `task`."""
    dedup: Dedup = Dedup.model_validate({})
    decontaminate: Decontaminate = Decontaminate.model_validate({})
    budget: Budget = Budget.model_validate({})
    dev_rows: int = Field(500, ge=0)
    """Rows a pair set aside by hash for choosing layers, weights and stopping; at most a tenth of the pair."""
    engine: Engine = "local"
    """Where filters score: on this machine's cores, or on Ray Data, on an existing cluster. The rows are the same."""
    allow_empty: bool = False
    """Whether a pair may end without a row; else that is an error."""

    @model_validator(mode="after")
    def _served(self) -> "CorpusConfig":
        for plugin in (*self.sources, *self.filters, *self.instructions):
            plugin.check(self.pairs)
        found_in = [source.corpora_named for source in self.sources]
        corpora = None if None in found_in else [name for names in found_in for name in names or ()]
        for item in self.filters:
            item.check_per(self.pairs, corpora)
        for task in self.tasks:
            task.check()
        for what, items in (("filters", self.filters), ("instructions", self.instructions), ("tasks", self.tasks)):
            found = [item.name for item in items]
            if repeated := sorted({name for name in found if found.count(name) > 1}):
                raise UserError(f"{what}: found {', '.join(repeated)} twice. Allowed: each once. Remove one.")
        if unknown := sorted(set(self.budget.shares) - set(self.kinds)):
            raise UserError(
                f"budget.shares: found {', '.join(unknown)}. Allowed: {', '.join(self.kinds)}. Add the instruction "
                f"type or the task, or remove its share."
            )
        for plugin in (*self.instructions, *self.tasks):
            plugin.set_languages(self.languages)
        own = [part for item in self.instructions for part in item.nested().values() if isinstance(part, Source)]
        named = [source.corpora_named for source in (*self.sources, *own, *self.tasks)]
        if None not in named:
            self.budget.check_caps({name for names in named for name in names or ()})
        if self.budget.order == "quality" and self.quality_column is None:
            raise UserError(
                f"budget.order: found quality, but no filter that judges it in {[item.name for item in self.filters]}. "
                f"Allowed: random, or quality with a filter such as translation_score. Add one or change the order."
            )
        return self

    @property
    def languages(self) -> list[str]:
        """Those of the pairs and of the tasks."""
        in_tasks = {code for cell in self.task_cells for code in cell.split("-")}
        return sorted({code for pair in self.pairs for code in pair} | in_tasks)

    @property
    def kinds(self) -> list[str]:
        """What the budget is shared among: bitext, each instruction type, each task."""
        return ["bitext", *(item.name for item in (*self.instructions, *self.tasks))]

    @property
    def task_cells(self) -> list[str]:
        """The languages and pairs of all tasks."""
        return sorted({cell for task in self.tasks for cell in task.cells})

    @property
    def quality_column(self) -> str | None:
        """The score column that ranks rows, the higher the better: of the last filter that judges quality."""
        judges = [f"score_{item.name}" for item in self.filters if item.judges_quality]
        return judges[-1] if judges else None

    def notes(self) -> list[str]:
        """What to tell the user before work starts; ValueError where this machine lacks what a part needs."""
        self.budget.tokenizer_file()
        self.decontaminate.files()
        return [*self._unsorted_scripts(), *(note for item in self.filters for note in item.notes(self.pairs))]

    def _unsorted_scripts(self) -> list[str]:
        """Notes of sources that may give rows in another script, where no filter drops them."""
        if any(item.name == "script" for item in self.filters):
            return []
        langs = sorted({lang for pair in self.pairs for lang in pair})
        found = [(source.name, lang, source.other_scripts(lang)) for source in self.sources for lang in langs]
        return [
            f"{source}: packages of {name(lang)} ({lang}) may hold {', '.join(others)} as well, under one code. "
            f"Without the filter script their rows stay under {lang}. Add script to corpus.filters."
            for source, lang, others in found
            if others
        ]

    @property
    def pivot(self) -> str:
        """As `languages.pivot` has it."""
        return pivot(self.pairs)


class Recipe(Strict):
    """A whole recipe. `train` stays as written: `alignment_train.config.TrainConfig.of(recipe)` reads it."""

    name: str
    seed: int = Field(0, ge=0)
    corpus: CorpusConfig
    train: dict[str, Any] = {}
    eval: list[plugin_field(Eval, "pipelines.evals")] = []  # type: ignore[valid-type]

    @field_validator("eval")
    @classmethod
    def _of_tasks(cls, evals: list[Eval], info: ValidationInfo) -> list[Eval]:
        corpus = info.data.get("corpus")  # not there where it is wrong itself
        return [item.of(corpus.tasks) for item in evals] if corpus else evals

    @model_validator(mode="after")
    def _evaluable(self) -> "Recipe":
        for item in self.eval:
            item.check(self.corpus.pairs)
            item.set_languages(self.corpus.languages)
        return self

    def notes(self) -> list[str]:
        """What to tell the user before work starts; ValueError where this machine lacks what a plug-in needs."""
        return [*self.corpus.notes(), *(note for item in self.eval for note in item.notes(self.corpus.pairs))]

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, as JSON; without secrets in addresses."""
        out = self.model_dump(mode="json")
        for key in ("sources", "filters", "instructions", "tasks"):
            out["corpus"][key] = [plugin.settings() for plugin in getattr(self.corpus, key)]
        return redact_all({**out, "eval": [item.settings() for item in self.eval]})


def read_recipe(path: str | Path, over: str | Path | None = None) -> Recipe:
    """The recipe at `path`, or of that name among the built-in ones; its name is the file's.

    over: a recipe over which the one at `path`, or that method, is laid, as if it extended that.
    Raises ValueError with one line per mistake: place, what was found, what is allowed, what to do.
    """
    file = find(path) if over is None else find(path, METHODS, "method")
    raw = _read(file, ())
    if over is not None:
        raw = _over(_read(find(over), ()), raw)
    recipe = validate(Recipe, {**raw, "name": file.stem}, str(file))
    for check in sorted(entry_points(group=CHECKS), key=lambda point: point.name):
        check.load()(recipe)
    return recipe


def lineage(path: str | Path) -> list[Path]:
    """The file of a recipe and those of the recipes that it extends, the nearest first."""
    found = [find(path)]
    _read(found[0], ())  # refuses a chain without an end
    while "extends" in (raw := read_yaml(found[-1])):
        found.append(_extended(found[-1], raw["extends"]))
    return found


def validate(model: type[M], raw: dict[str, Any], where: str, prefix: str = "") -> M:
    """`raw` as a `model`; mistakes become one ValueError that names `where` and each place below `prefix`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {_place(place) or 'recipe'}: {text}" for place, text in messages(error, prefix, model)]
        more = [f"  and {len(lines) - MOST_MISTAKES:,} mistakes more"] if len(lines) > MOST_MISTAKES else []
        raise UserError("\n".join([f"{where}:", *lines[:MOST_MISTAKES], *more])) from None


def find(path: str | Path, folder: Path = RECIPES, what: str = "recipe") -> Path:
    """The file that `path` names: a file, else a built-in recipe of `folder`, by its bare name."""
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
    raise UserError(f"{what} {quoted(path, 300)}: {found}. Allowed: a path, or one of {available}. Check the spelling.")


def _extended(file: Path, base: Any) -> Path:
    if not isinstance(base, str) or not base.strip():
        raise UserError(
            f"{file}, extends: found {quoted(repr(base))}. Allowed: the path of one recipe, or the name of a built-in "
            f"one. Correct or remove it."
        )
    near = file.parent / base
    return near if near.is_file() else find(base)


def _place(parts: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{quoted(p)}" for p in parts).removeprefix(".")


def _read(file: Path, extended_by: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping in `file`, laid over the recipe it extends."""
    if file.resolve() in extended_by:
        raise UserError(f"{file}: extends itself. Allowed: a chain that ends. Remove one 'extends'.")
    if len(extended_by) > LONGEST_CHAIN:
        raise UserError(
            f"{file}: extended through more than {LONGEST_CHAIN} recipes. Allowed: a shorter chain. Join some of them."
        )
    raw = read_yaml(file)
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else type(raw).__name__
        raise UserError(f"{file}: found {found}. Allowed: {', '.join(SECTIONS)}. Write a mapping.")
    if unknown := [key for key in raw if key not in SECTIONS]:
        raise UserError(
            f"{file}: unknown section {quoted(', '.join(map(repr, unknown)), 300)}. Allowed: "
            f"{', '.join(SECTIONS)}. Rename or remove it."
        )
    if "extends" in raw:
        base = _extended(file, raw.pop("extends"))
        return _over(_read(base, (*extended_by, file.resolve())), raw)
    return raw


def _over(base: Any, top: Any) -> Any:
    """Mappings merge key by key; anything else, lists too, is replaced."""
    if isinstance(base, dict) and isinstance(top, dict):
        return {**base, **{key: _over(base[key], value) if key in base else value for key, value in top.items()}}
    return top
