"""The `train` section of a recipe. Imports no torch, so that Dagster can check recipes quickly."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from alignment_train.models.chat import DATE
from alignment_train.objectives import Objective
from alignment_train.settings import AdapterSettings, Base, Guards, Merge, Optimiser, SeedModel
from pipelines.config import Recipe, validate
from pipelines.errors import UserError
from pipelines.registry import Strict, plugin_field, use_folders

CENTERED = ", centered"
"""Suffix of a pooling whose states have the mean of their language subtracted."""
NO_WEIGHTS = {"base", "checkpointing", "checkpoint_every", "guards", "merge", "parallel"}
"""Settings that do not affect the weights, or that have a fingerprint of their own."""


def _expand_base(value: Any) -> Any:
    """Accept `seed`, a path or a hub id instead of a mapping."""
    if isinstance(value, str):
        return {"seed": {}} if value == "seed" else {"model": value}
    return value


class TrainConfig(Strict):
    """How the base model is aligned."""

    base: Annotated[Base, BeforeValidator(_expand_base)] = Base(seed=SeedModel.model_validate({}))
    objectives: Annotated[
        list[plugin_field(Objective, "alignment_train.objectives")],  # type: ignore[valid-type]
        Field(min_length=1),
    ]
    steps: int = Field(300, gt=0)
    schedule: Literal["joint", "alternate_step", "alternate_microbatch"] = "joint"
    """Which objectives a micro-batch serves: all of them, or one at a time in the order of `objectives`, alternating
    after each step or after each micro-batch (as in mid-align's code, arXiv 2502.14830)."""
    accumulation: int = Field(1, gt=0)
    """Micro-batches per step (gradient accumulation). Those of one objective together have the gradient of one large
    batch: they are weighted by what their losses are means over (`Objective.count`: tokens or rows). A contrast is the
    exception, because its negatives are those of its micro-batch; use `contrastive.chunk` for batches larger than
    memory. With alternate_microbatch each of n objectives has 1/n of its weight in a joint step."""
    max_length: int = Field(256, ge=8)
    """Maximum number of tokens of a text; the number of truncated texts is reported."""
    chat_date: date = DATE
    """The current date for chat templates that write it (Llama 3, Mistral Small)."""
    optimiser: Optimiser = Optimiser.model_validate({})
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of activations in training, whose weights are float32, and of weights in evaluation. `auto` selects
    bfloat16 on GPUs that support it, and on CPUs if a measurement at the start shows that it is faster for a model of
    this width, which seed models never are. A resumed training keeps its precision."""
    gradients_every: int = Field(10, ge=0)
    """Steps between measurements of each objective's gradient norm and their cosines; 0 disables them. A measured step
    stores one more copy of the gradients for each objective after the first."""
    guards: Guards = Guards.model_validate({})
    checkpoint_every: int = Field(50, gt=0)
    """Steps between checkpoints. A killed run resumes from the last one and ends with the same weights."""
    parallel: Literal["data", "fsdp"] = "data"
    """What each process (torchrun) stores: the whole model, or with `fsdp` a shard of weights, gradients and optimiser
    state. The resulting weights are the same up to rounding; `fsdp` communicates more."""
    trainable: Literal["all", "blocks"] | Annotated[list[str], Field(min_length=1)] = "all"
    """Which weights of the base model are trained: all; `blocks`, all but token embeddings and output head; or globs of
    parameter names, such as `model.layers.1?.*`. Other weights need no gradient and no optimiser state. Modules that
    objectives add are always trained."""
    checkpointing: bool = False
    """Gradient checkpointing: store only the input of each block, and recompute the block in the backward pass. Needs
    far less memory and about a third more time; the gradients are the same."""
    adapter: AdapterSettings | None = None
    """The adapter to train beside the frozen base model; without it `trainable` selects the weights."""
    merge: Merge | None = None
    """The adapter with which align_model's is merged after training; without it there is no merged_model."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        self._check_adapter()
        names = [objective.name for objective in self.objectives]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"objectives: found {', '.join(repeated)} twice. Expected: each objective once. Fix: remove one."
            )
        self._check_schedule()
        self._check_checkpointing(names)
        for i, objective in enumerate(self.objectives):
            try:
                _with_layer("middle", objective).check(self.base.seed.layers if self.base.seed else None)
            except UserError as error:
                raise UserError(f"objectives[{i}].{objective.name}.{error}") from None
        if self.base.seed and self.max_length > self.base.seed.context:
            raise UserError(
                f"max_length: found {self.max_length}. Expected: at most base.seed.context = {self.base.seed.context}. "
                f"Fix: lower max_length or raise context."
            )
        return self

    def _check_adapter(self) -> None:
        if self.adapter and self.trainable != "all":
            raise UserError(
                f"trainable: found {self.trainable} with adapter, which freezes the model. Expected: one of the two. "
                f"Fix: remove trainable, or adapter."
            )
        if self.merge and not self.adapter:
            raise UserError(
                "merge: found no adapter, so align_model is a whole model. Expected: merge only with train.adapter. "
                "Fix: add adapter: {lora: {}}, or remove merge."
            )
        prefix = self.adapter.prefix if self.adapter else None
        if self.merge and prefix:
            raise UserError(
                "merge: found adapter.prefix, and prefixes cannot be added. Expected: merge only with adapter.lora. "
                "Fix: use adapter: {lora: {}}, or remove merge."
            )
        if needing := [objective.name for objective in self.objectives if objective.needs_prefix and not prefix]:
            raise UserError(
                f"objectives: found {needing[0]} without a prefix. Expected: adapter.prefix, which it trains. Fix: add "
                f"adapter: {{prefix: {{length: 16}}}}, or use contrastive and language_model, which train any weights."
            )

    def _check_schedule(self) -> None:
        count = len(self.objectives)
        if self.schedule == "joint":
            return
        if count == 1:
            raise UserError(
                f"schedule: found {self.schedule} with one objective. Expected: joint, or at least two objectives. "
                f"Fix: use joint, or add an objective."
            )
        if self.schedule == "alternate_step" and self.steps < count:
            raise UserError(
                f"steps: found {self.steps}. Expected: at least {count}, one for each objective, with schedule "
                f"alternate_step. Fix: raise steps."
            )
        if self.schedule == "alternate_microbatch" and self.accumulation % count:
            raise UserError(
                f"accumulation: found {self.accumulation}. Expected: a multiple of {count}, the number of objectives, "
                f"with schedule alternate_microbatch. Fix: set it to {-(-self.accumulation // count) * count}."
            )

    def _check_checkpointing(self, names: list[str]) -> None:
        if self.checkpointing and self.adapter and self.adapter.prefix:
            raise UserError(
                "checkpointing: found true with adapter.prefix, which blocks read from a cache that checkpointing "
                "removes. Expected: false. Fix: remove checkpointing, or use adapter: {lora: {}}."
            )
        if self.checkpointing and "meta" in names:
            raise UserError(
                "checkpointing: found true with the objective meta, which temporarily replaces the model's weights; "
                "recomputed blocks would have the wrong ones. Expected: false. Fix: remove one of the two."
            )

    @property
    def turns(self) -> list[str]:
        """Order of objectives in schedules that alternate, for the control too, which skips those that align."""
        return [objective.name for objective in self.objectives]

    @property
    def layer(self) -> int | str:
        """The layer setting of the first alignment objective; `middle` if none has one."""
        return next((o.layer for o in self.objectives if o.is_alignment and hasattr(o, "layer")), "middle")

    @property
    def needs_probe(self) -> bool:
        """Whether an objective's layer is `auto`, which layer_probe determines."""
        return any(_is_auto(objective) for objective in self.objectives)

    @property
    def poolings(self) -> list[str]:
        """The poolings for which layer_probe selects a layer: those of objectives that have one, else `mean`."""
        return sorted({pooling_key(o) for o in self.objectives if hasattr(o, "layer")}) or ["mean"]

    def with_layers(self, layers: Mapping[str, int]) -> "TrainConfig":
        """A copy with each `auto` replaced by the layer for the objective's pooling."""
        objectives = [_with_layer(layers[pooling_key(o)], o) if _is_auto(o) else o for o in self.objectives]
        return self.model_copy(update={"objectives": objectives})

    @property
    def control(self) -> list[Objective]:
        """The objectives without those that align; the control trains them on the same rows and tokens."""
        return [objective for objective in self.objectives if not objective.is_alignment]

    def settings(self, objectives: list[Objective] | None = None) -> dict[str, Any]:
        """The settings that affect the weights, with defaults, as JSON; by default for all objectives."""
        settings = self.model_dump(mode="json", exclude=NO_WEIGHTS)
        selected = self.objectives if objectives is None else objectives
        turns = {} if self.schedule == "joint" else {"turns": self.turns}
        return {**settings, **turns, "objectives": [objective.settings() for objective in selected]}

    def uses_chat(self, recipe: Recipe) -> bool:
        """Whether training, merging or an eval renders conversations."""
        return self.merge is not None or any(plugin.uses_chat for plugin in (*self.objectives, *recipe.eval))

    @classmethod
    def of(cls, recipe: Recipe) -> "TrainConfig":
        """Parse and check the `train` section of a recipe.

        Raises:
            UserError: It is invalid; one line per mistake.
        """
        with use_folders(recipe.plugins):
            config = validate(cls, recipe.train, f"recipe {recipe.name}", "train")
        for objective in config.objectives:
            objective.set_languages(recipe.corpus.languages)
        needing = [objective.name for objective in config.objectives if objective.reads == "tasks"]
        if needing and not recipe.corpus.tasks:
            raise UserError(
                f"recipe {recipe.name}:\n  train.objectives.{needing[0]}: found no tasks in the corpus. Expected: at "
                f"least one under corpus.tasks, such as slot_filling. Fix: add one, or remove the objective."
            )
        return config


def check(recipe: Recipe) -> None:
    """Raise a UserError if the `train` section of a recipe is invalid. An entry point of `pipelines.config`."""
    if recipe.train:
        TrainConfig.of(recipe)


def pooling_key(objective: Objective) -> str:
    """How an objective pools the states of a text, the key of layer_probe's results.

    A `pipelines.evals.Pooling`, followed by `, centered` if the mean of each language is subtracted.
    """
    special = "+special" if getattr(objective, "special_tokens", False) else ""
    centered = CENTERED if getattr(objective, "center", "none") != "none" else ""
    return f"{getattr(objective, 'pooling', 'mean')}{special}{centered}"


def _is_auto(objective: Objective) -> bool:
    return getattr(objective, "layer", None) == "auto"


def _with_layer(layer: int | str, objective: Objective) -> Objective:
    """The objective with `layer` in place of `auto`."""
    return objective.model_copy(update={"layer": layer}) if _is_auto(objective) else objective
