"""Recipes: one YAML file is one experiment. It is read and checked as a whole before any work starts."""

import re
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipelines.engine import Engine
from pipelines.errors import UserError
from pipelines.evals import Eval
from pipelines.fetching.paths import expand
from pipelines.fetching.redaction import redact_all
from pipelines.filters import Filter
from pipelines.instructions import InstructionType
from pipelines.languages import Pair, name, pivot
from pipelines.recipe_files import METHODS, find, overlay, read_raw
from pipelines.recipe_files import RECIPES as RECIPES
from pipelines.recipe_files import lineage as lineage
from pipelines.registry import Strict, check_folders, loaded, plugin_field, use_folders
from pipelines.results.measures import declared
from pipelines.sources import Source
from pipelines.tasks import Task
from pipelines.validation import format_place, messages, plugin_check

MOST_ROWS = 1_000_000
M = TypeVar("M", bound=Strict)
MAX_SHOWN_MISTAKES = 30
CHECKS = "isogloss.recipe_checks"
"""Entry points of functions that check a Recipe as it is read and raise UserError, from packages above this one.

`alignment_train` checks the `train` section in this way, before hours of corpus work rather than after them.
"""


def _distinct(pairs: list[Pair]) -> list[Pair]:
    if repeated := sorted({str(pair) for pair in pairs if pairs.count(pair) > 1}):
        raise UserError(f"found {', '.join(repeated)} twice. Expected: each pair once. Fix: remove one.")
    return pairs


PairField = Annotated[Pair, BeforeValidator(Pair.parse), PlainSerializer(str)]


class Budget(Strict):
    """Limits of the training mix in rows and tokens, and how they are shared among languages, kinds and corpora."""

    rows: int = Field(900_000, gt=0)
    """Bitext, instruction and task rows together; fewer than 1,000,000 (AFP and mid-align both need fewer)."""
    tokens: int | None = Field(None, gt=0)
    """Tokens of all rows together; null for no limit. With a limit, all shares are shares of tokens."""
    tokenizer: str | None = None
    """How tokens are counted: a SentencePiece `.model`, a `tokenizer.json`, or `characters`."""
    language_alpha: float = Field(0.3, ge=0, le=1)
    """Exponent of a pair's rows in its share: 1 is proportional to the rows, 0 gives every pair the same."""
    shares: dict[str, float] = {}
    """Share of the mix per kind: `bitext`, each instruction type, each task. Kinds left out divide the rest equally."""
    caps: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Most rows that a corpus (`GNOME`, or `GNOME/v1`; `*` for all others) may give to one kind of one pair."""
    order: Literal["random", "quality"] = "random"
    """Order in which bitext rows of a pair are taken: random, or best first by the filter that judges quality."""
    directions: Literal["sorted", "both"] = "sorted"
    """`both` swaps source and target in half of each pair's bitext; dev rows keep their direction."""

    @model_validator(mode="after")
    def _check_budget(self) -> "Budget":
        if self.rows >= MOST_ROWS:
            raise UserError(
                f"rows: found {self.rows:,}. Expected: fewer than {MOST_ROWS:,}. Fix: lower it; both papers align with "
                f"less."
            )
        if any(share < 0 for share in self.shares.values()) or sum(self.shares.values()) > 1 + 1e-9:
            raise UserError(
                f"shares: found {self.shares}, sum {sum(self.shares.values()):g}. Expected: shares of at least 0 whose "
                f"sum is at most 1. Fix: lower some."
            )
        if (self.tokens is None) != (self.tokenizer is None):
            lacking, present = ("tokenizer", "tokens") if self.tokens else ("tokens", "tokenizer")
            raise UserError(
                f"{lacking}: missing, but {present} is set. Expected: tokens together with a tokenizer (characters, a "
                f"SentencePiece .model or a tokenizer.json). Fix: set both or neither."
            )
        if self.tokenizer is not None and not re.search(r"(^characters|\.model|\.json)$", self.tokenizer):
            raise UserError(
                f"tokenizer: found '{self.tokenizer}'. Expected: characters, or the path of a SentencePiece .model or "
                f"a tokenizer.json on this machine. Fix: correct it."
            )
        return self

    def tokenizer_file(self) -> Path | None:
        """The file that counts tokens, None where there is none; UserError where it does not exist."""
        if self.tokenizer in (None, "characters"):
            return None
        file = Path(self.tokenizer).expanduser()
        if not file.is_file():
            raise UserError(
                f"corpus.budget.tokenizer: no file {file}. Expected: characters, or the path of a SentencePiece .model "
                f"or a tokenizer.json on this machine. Fix: correct it."
            )
        return file

    def check_caps(self, corpora: Collection[str]) -> None:
        """Raise UserError where a cap names none of `corpora`, which have versions or not."""
        known = {"*", *corpora, *(corpus.partition("/")[0] for corpus in corpora)}
        if unknown := [key for key in self.caps if key not in known and key.partition("/")[0] not in corpora]:
            raise UserError(
                f"budget.caps: found {', '.join(unknown)}. Expected: * or a corpus of the recipe "
                f"({', '.join(sorted(corpora))}). Fix: correct or remove it."
            )


def _each_once(on: list[str]) -> list[str]:
    if len(set(on)) != len(on):
        raise UserError(f"found {', '.join(on)}. Expected: pair, src and tgt, each once. Fix: remove one.")
    return on


class Dedup(Strict):
    """Which rows of a pair count as duplicates, across all corpora; the best of them is kept."""

    on: Annotated[list[Literal["pair", "src", "tgt"]], Field(min_length=1), AfterValidator(_each_once)] = ["pair"]
    """What is compared, in this order: `pair` both sides together, `src` or `tgt` one side alone."""
    near: float | None = Field(0.8, ge=0.5, le=1)
    """Jaccard similarity of character shingles from which rows count as near duplicates; null for exact ones only.

    0.8 is a difference of about one word in ten.
    """


class Decontaminate(Strict):
    """Which texts are kept out of training, besides those of the recipe's evals."""

    near: float | None = Field(0.8, ge=0.5, le=1)
    """Jaccard similarity to a held-out text, or share of a long one contained, from which a segment is dropped; null
    for exact matches only."""
    lists: list[str] = []
    """Text files in UTF-8, one text a line, by path, address or glob: segments of any language equal to one of these
    texts are dropped."""

    def files(self) -> list[str]:
        """The files that `lists` names, each once; UserError where an entry names none."""
        out: dict[str, None] = {}
        for number, entry in enumerate(self.lists):
            try:
                out.update(dict.fromkeys(expand(entry)))
            except UserError as error:
                raise UserError(f"corpus.decontaminate.lists[{number}]: {error}") from None
        return list(out)


def _corpora(plugins: Iterable[Source | Task]) -> list[str] | None:
    """The corpora that sources and tasks name beforehand; None where one of them names none."""
    named = [plugin.corpora_named for plugin in plugins]
    return None if None in named else [corpus for corpora in named for corpus in corpora or ()]


class CorpusConfig(Strict):
    """The `corpus` section: sources, filters, conversations and the budget of the training mix."""

    pairs: Annotated[list[PairField], Field(min_length=1), AfterValidator(_distinct)]
    """Language pairs such as `en-de`, or [en, zh-Hant] where a code holds a hyphen."""
    sources: Annotated[list[plugin_field(Source, "pipelines.sources")], Field(min_length=1)]  # type: ignore[valid-type]
    """Where bitext comes from."""
    licences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Globs such as `CC-BY-[0-9]*` or `CC0-*`: corpora with another licence give no row. Null allows all of them."""
    filters: list[plugin_field(Filter, "pipelines.filters")] = []  # type: ignore[valid-type]
    """Which rows are kept; each filter scores them."""
    instructions: list[plugin_field(InstructionType, "pipelines.instructions")] = []  # type: ignore[valid-type]
    """Conversations that are made from bitext."""
    tasks: list[plugin_field(Task, "pipelines.tasks")] = []  # type: ignore[valid-type]
    """Data with a prompt and an answer, for the objective `task`."""
    dedup: Dedup = Dedup.model_validate({})
    decontaminate: Decontaminate = Decontaminate.model_validate({})
    budget: Budget = Budget.model_validate({})
    dev_rows: int = Field(500, ge=0)
    """Rows a pair set aside by hash for choosing layers, weights and stopping; at most a tenth of the pair."""
    engine: Engine = "local"
    """Where filters run: on this machine's cores, or on Ray Data on an existing cluster. The rows are the same."""
    allow_empty: bool = False
    """Whether a pair may end without a row; otherwise that is an error."""

    @model_validator(mode="after")
    def _check_corpus(self) -> "CorpusConfig":
        self._check_plugins()
        if unknown := sorted(set(self.budget.shares) - set(self.kinds)):
            raise UserError(
                f"budget.shares: found {', '.join(unknown)}. Expected: {', '.join(self.kinds)}. Fix: add the "
                f"instruction type or the task, or remove its share."
            )
        for plugin in (*self.instructions, *self.tasks):
            plugin.set_languages(self.languages)
        nested = [part for item in self.instructions for part in item.nested().values() if isinstance(part, Source)]
        corpora = _corpora([*self.sources, *nested, *self.tasks])
        if corpora is not None:
            self.budget.check_caps(set(corpora))
        if self.budget.order == "quality" and self.quality_column is None:
            raise UserError(
                f"budget.order: found quality, but no filter that judges it in {[item.name for item in self.filters]}. "
                f"Expected: random, or quality with a filter such as translation_score. Fix: add one or change the "
                f"order."
            )
        return self

    def _check_plugins(self) -> None:
        for key in ("sources", "filters", "instructions", "tasks"):
            for number, plugin in enumerate(getattr(self, key)):
                with plugin_check((key, number), plugin.name, type(plugin)):
                    plugin.check() if key == "tasks" else plugin.check(self.pairs)
        corpora = _corpora(self.sources)
        for number, item in enumerate(self.filters):
            with plugin_check(("filters", number), item.name, type(item)):
                item.check_per(self.pairs, corpora)
        for key, items in (("filters", self.filters), ("instructions", self.instructions), ("tasks", self.tasks)):
            found = [item.name for item in items]
            if repeated := sorted({name for name in found if found.count(name) > 1}):
                raise UserError(f"{key}: found {', '.join(repeated)} twice. Expected: each once. Fix: remove one.")

    @property
    def languages(self) -> list[str]:
        """The languages of the pairs and of the tasks."""
        in_tasks = {code for cell in self.task_cells for code in cell.split("-")}
        return sorted({code for pair in self.pairs for code in pair} | in_tasks)

    @property
    def kinds(self) -> list[str]:
        """What the budget is divided among: bitext, each instruction type, each task."""
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
        """Sentences to show before work starts; UserError where this machine lacks what a part needs."""
        self.budget.tokenizer_file()
        self.decontaminate.files()
        return [*self._script_notes(), *(note for item in self.filters for note in item.notes(self.pairs))]

    def _script_notes(self) -> list[str]:
        """Notes on sources that may yield rows in another script, where no filter drops them."""
        if any(item.name == "script" for item in self.filters):
            return []
        langs = sorted({lang for pair in self.pairs for lang in pair})
        found = [(source.name, lang, source.other_scripts(lang)) for source in self.sources for lang in langs]
        return [
            f"{source}: packages of {name(lang)} ({lang}) may contain {', '.join(others)} as well, under one code. "
            f"Without the filter script, those rows stay under {lang}. Add script to corpus.filters."
            for source, lang, others in found
            if others
        ]

    @property
    def pivot(self) -> str:
        """The language that most pairs share (see `languages.pivot`)."""
        return pivot(self.pairs)


class Recipe(Strict):
    """A whole recipe. `train` stays as written: `alignment_train.config.TrainConfig.of(recipe)` reads it."""

    name: str
    plugins: list[str] = []
    """Folders with plug-ins of the user, relative to the recipe; those of extended recipes are searched too."""
    seed: int = Field(0, ge=0)
    """Seed of every random draw."""
    corpus: CorpusConfig
    train: dict[str, Any] = {}
    eval: list[plugin_field(Eval, "pipelines.evals")] = []  # type: ignore[valid-type]
    """How the models are evaluated."""

    @model_validator(mode="wrap")
    @classmethod
    def _find_plugins(cls, raw: Any, handler: ModelWrapValidatorHandler["Recipe"]) -> "Recipe":
        """Make the plug-ins of the recipe's folders known while the recipe is validated."""
        if not isinstance(raw, Mapping):
            return handler(raw)
        folders = check_folders(raw.get("plugins", []))
        with use_folders(folders):
            return handler({**raw, "plugins": [str(folder) for folder in folders]})

    @field_validator("eval")
    @classmethod
    def _attach_tasks(cls, evals: list[Eval], info: ValidationInfo) -> list[Eval]:
        corpus = info.data.get("corpus")
        if not corpus:  # it has mistakes itself
            return evals
        out = []
        for number, item in enumerate(evals):
            with plugin_check((number,), item.name, type(item)):
                out.append(item.of(corpus.tasks))
        return out

    @model_validator(mode="after")
    def _check_evals(self) -> "Recipe":
        for number, item in enumerate(self.eval):
            with plugin_check(("eval", number), item.name, type(item)):
                item.check(self.corpus.pairs)
                if type(item) in loaded("pipelines.evals"):  # a clash of metrics is to be seen before the report
                    declared()
            item.set_languages(self.corpus.languages)
        return self

    def notes(self) -> list[str]:
        """Sentences to show before work starts; UserError where this machine lacks what a plug-in needs."""
        return [*self.corpus.notes(), *(note for item in self.eval for note in item.notes(self.corpus.pairs))]

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default written out, as JSON; without secrets in addresses."""
        out = self.model_dump(mode="json")
        for key in ("sources", "filters", "instructions", "tasks"):
            out["corpus"][key] = [plugin.settings() for plugin in getattr(self.corpus, key)]
        return redact_all({**out, "eval": [item.settings() for item in self.eval]})


def read_recipe(path: str | Path, over: str | Path | None = None) -> Recipe:
    """Read and check the recipe at `path`, or the built-in one of that name; its name is the file's.

    Args:
        path: A recipe; with `over` also the name of a built-in method.
        over: A recipe that the one at `path` is laid over, as if it extended that one.

    Raises:
        UserError: One line per mistake: place, what was found, what is expected, how to fix it.
    """
    file = find(path) if over is None else find(path, METHODS, "method")
    raw = read_raw(file)
    if over is not None:
        raw = overlay(read_raw(find(over)), raw)
    recipe = validate(Recipe, {**raw, "name": file.stem}, str(file))
    for check in sorted(entry_points(group=CHECKS), key=lambda point: point.name):
        check.load()(recipe)
    return recipe


def validate(model: type[M], raw: dict[str, Any], where: str, prefix: str = "") -> M:
    """Validate `raw` as a `model`; all mistakes become one UserError, a line each, headed by `where`.

    Args:
        prefix: The key of `raw` in the recipe, with which places begin.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {format_place(place) or 'recipe'}: {text}" for place, text in messages(error, prefix, model, raw)]
        more = [f"  and {len(lines) - MAX_SHOWN_MISTAKES:,} more mistakes"] if len(lines) > MAX_SHOWN_MISTAKES else []
        raise UserError("\n".join([f"{where}:", *lines[:MAX_SHOWN_MISTAKES], *more])) from None
