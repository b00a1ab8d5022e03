"""The `train` section of a recipe. Imports no torch, so that the graph can check it."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from alignment_train.models.chat import DATE
from alignment_train.objectives import Objective
from alignment_train.settings import AdapterSettings, Base, Guards, Merge, Optimiser, SeedModel
from pipelines.config import Recipe, validate
from pipelines.errors import UserError
from pipelines.registry import Strict, plugin_field

CENTERED = ", centered"
"""After a pooling: less the mean of each language."""
NO_WEIGHTS = {"base", "checkpointing", "checkpoint_every", "guards", "merge", "parallel"}
"""Settings that decide no weights, or have a fingerprint of their own."""


def _expand_base(spec: Any) -> Any:
    """Accept `seed`, a path or a hub id in place of a mapping."""
    if isinstance(spec, str):
        return {"seed": {}} if spec == "seed" else {"model": spec}
    return spec


class TrainConfig(Strict):
    """How the base model is aligned."""

    base: Annotated[Base, BeforeValidator(_expand_base)] = Base(seed=SeedModel.model_validate({}))
    objectives: Annotated[
        list[plugin_field(Objective, "alignment_train.objectives")],  # type: ignore[valid-type]
        Field(min_length=1),
    ]
    steps: int = Field(300, gt=0)
    schedule: Literal["joint", "alternate_step", "alternate_microbatch"] = "joint"
    """Which objectives a micro-batch serves: all of them, or one, the turn passing on, in the order of `objectives`,
    after each step or after each micro-batch (as mid-align's released code does, arXiv 2502.14830)."""
    accumulation: int = Field(1, gt=0)
    """Micro-batches a step. Those of one objective have the gradient of one batch of them all: they are weighted by
    what their losses are means over (`Objective.count`: tokens, or rows). Not so a contrast, whose negatives are those
    of its micro-batch: `contrastive.chunk` is what makes its batch larger than memory. With alternate_microbatch each
    of n objectives has 1/n of the weight that it has in a joint step."""
    max_length: int = Field(256, ge=8)
    """Tokens after which a text is cut; how many were is counted and shown."""
    chat_date: date = DATE
    """The date that conversations show where the model's chat template writes today's (Llama 3, Mistral Small)."""
    optimiser: Optimiser = Optimiser.model_validate({})
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations in training, whose weights are float32, and of weights in evaluation. `auto`: bfloat16 on GPUs
    that have it, and on processors where a measurement at the start finds it faster for models as wide as this one;
    seed models are too narrow for it. A resumed training keeps the precision that it began with."""
    gradients_every: int = Field(10, ge=0)
    """Steps between measurements of each objective's gradient norm and of the cosines between them; 0: never. Such a
    step holds one copy of the gradients more for each objective after the first."""
    guards: Guards = Guards.model_validate({})
    checkpoint_every: int = Field(50, gt=0)
    """Steps between checkpoints; a killed run resumes from the last one and ends with the same weights."""
    parallel: Literal["data", "fsdp"] = "data"
    """What each of several processes (torchrun) holds: the whole model, or with `fsdp` its part of the weights, their
    gradients and the optimiser's state. The weights are the same up to rounding; `fsdp` communicates more."""
    trainable: Literal["all", "blocks"] | Annotated[list[str], Field(min_length=1)] = "all"
    """Which weights of the base model are trained: all; `blocks`, all but token embeddings and output head, which with
    a large vocabulary are most of a small model's; or globs of parameter names, such as `model.layers.1?.*`. Others
    have no gradient and no optimiser state. Parts that objectives add are always trained."""
    checkpointing: bool = False
    """Gradient checkpointing: of each block its input alone is kept, and the block is run again in the backward pass.
    Takes far less memory and about a third more time; the gradients are the same."""
    adapter: AdapterSettings | None = None
    """What is trained beside the frozen base model; without it `trainable` decides."""
    merge: Merge | None = None
    """With which other adapter align_model's is merged once it is trained; without it there is no merged_model."""

    @model_validator(mode="after")
    def _coherent(self) -> "TrainConfig":
        self._check_adapter()
        names = [objective.name for objective in self.objectives]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"objectives: found {', '.join(repeated)} twice. Allowed: each once. Remove one.")
        self._check_turns()
        if self.checkpointing and self.adapter and self.adapter.prefix:
            raise UserError(
                "checkpointing: found true beside adapter.prefix, which blocks read from a cache that checkpointing "
                "takes away. Expected: false. Fix: remove checkpointing, or take adapter: {lora: {}}."
            )
        if self.checkpointing and "meta" in names:
            raise UserError(
                "checkpointing: found true with the objective meta, which runs the model with other weights than its "
                "own; blocks that are run again would have the wrong ones. Expected: false. Fix: remove one of the two."
            )
        for i, objective in enumerate(self.objectives):
            try:
                _at("middle", objective).check(self.base.seed.layers if self.base.seed else None)
            except UserError as error:
                raise UserError(f"objectives[{i}].{objective.name}.{error}") from None
        if self.base.seed and self.max_length > self.base.seed.context:
            raise UserError(
                f"max_length: found {self.max_length}. Allowed: at most base.seed.context = {self.base.seed.context}. "
                f"Lower max_length or raise context."
            )
        return self

    def _check_adapter(self) -> None:
        if self.adapter and self.trainable != "all":
            raise UserError(
                f"trainable: found {self.trainable} beside adapter, which alone is trained. Expected: one of the two. "
                f"Fix: remove trainable, or adapter."
            )
        if self.merge and not self.adapter:
            raise UserError(
                "merge: found no adapter beside it, so align_model has all weights. Allowed: merge where train.adapter "
                "is set. Add adapter: {lora: {}}, or remove merge."
            )
        if self.merge and self.adapter and self.adapter.prefix:
            raise UserError(
                "merge: found adapter.prefix beside it. Allowed: merge where the adapter is lora, for two prefixes "
                "have no sum. Take adapter: {lora: {}}, or remove merge."
            )
        prefix = self.adapter and self.adapter.prefix
        if needing := [objective.name for objective in self.objectives if objective.needs_prefix and not prefix]:
            raise UserError(
                f"objectives: found {needing[0]} without the prefix that it is to train. Needed: adapter.prefix. Add "
                f"adapter: {{prefix: {{length: 16}}}}, or take contrastive and language_model, which train any weights."
            )

    def _check_turns(self) -> None:
        count = len(self.objectives)
        if self.schedule == "joint":
            return
        if count == 1:
            raise UserError(
                f"schedule: found {self.schedule} with one objective. Allowed: joint, or two objectives or more. Take "
                f"joint, or add an objective."
            )
        if self.schedule == "alternate_step" and self.steps < count:
            raise UserError(
                f"steps: found {self.steps}. Allowed: at least {count}, a turn for each objective, where schedule is "
                f"alternate_step. Raise steps."
            )
        if self.schedule == "alternate_microbatch" and self.accumulation % count:
            raise UserError(
                f"accumulation: found {self.accumulation}. Allowed: a multiple of {count}, the number of objectives, "
                f"where schedule is alternate_microbatch. Take {-(-self.accumulation // count) * count}."
            )

    @property
    def turns(self) -> list[str]:
        """Who takes turns where objectives alternate; of the control too, which leaves those that align empty."""
        return [objective.name for objective in self.objectives]

    @property
    def layer(self) -> int | str:
        """The layer that the first aligning objective trains, as named; `middle` where none does."""
        return next((o.layer for o in self.objectives if o.is_alignment and hasattr(o, "layer")), "middle")

    @property
    def asks_probe(self) -> bool:
        """Whether an objective's layer is `auto`: then training waits for layer_probe."""
        return any(_is_auto(objective) for objective in self.objectives)

    @property
    def poolings(self) -> list[str]:
        """By which layer_probe measures: those of the objectives that have a layer; mean where none has."""
        return sorted({pooled_as(o) for o in self.objectives if hasattr(o, "layer")}) or ["mean"]

    def at(self, layers: Mapping[str, int]) -> "TrainConfig":
        """The same with each `auto` replaced by what `layers` has for the objective's pooling."""
        objectives = [_at(layers[pooled_as(o)], o) if _is_auto(o) else o for o in self.objectives]
        return self.model_copy(update={"objectives": objectives})

    @property
    def control(self) -> list[Objective]:
        """The objectives without those that align: the same rows and tokens of everything else."""
        return [objective for objective in self.objectives if not objective.is_alignment]

    def settings(self, objectives: list[Objective] | None = None) -> dict[str, Any]:
        """All but `base` and `merge`, defaults written out, as JSON: what decides the weights beside the data."""
        out = self.model_dump(mode="json", exclude=NO_WEIGHTS)
        chosen = self.objectives if objectives is None else objectives
        turns = {} if self.schedule == "joint" else {"turns": self.turns}
        return {**out, **turns, "objectives": [objective.settings() for objective in chosen]}

    def uses_chat(self, recipe: Recipe) -> bool:
        """Whether conversations are rendered somewhere: in training, merging or an eval."""
        return self.merge is not None or any(plugin.uses_chat for plugin in (*self.objectives, *recipe.eval))

    @classmethod
    def of(cls, recipe: Recipe) -> "TrainConfig":
        """The checked `train` section of a recipe; ValueError with one line per mistake."""
        config = validate(cls, recipe.train, f"recipe {recipe.name}", "train")
        for objective in config.objectives:
            objective.set_languages(recipe.corpus.languages)
        asking = [objective.name for objective in config.objectives if objective.reads == "tasks"]
        if asking and not recipe.corpus.tasks:
            raise UserError(
                f"recipe {recipe.name}:\n  train.objectives.{asking[0]}: found no tasks in the corpus. Needed: at "
                f"least one under corpus.tasks, such as slot_filling. Add it, or remove the objective."
            )
        return config


def check(recipe: Recipe) -> None:
    """Raise UserError where the `train` section of a recipe cannot be; `pipelines.config` calls this by name."""
    if recipe.train:
        TrainConfig.of(recipe)


def _is_auto(objective: Objective) -> bool:
    return getattr(objective, "layer", None) == "auto"


def _at(layer: int | str, objective: Objective) -> Objective:
    """The objective with `layer` in place of `auto`."""
    return objective.model_copy(update={"layer": layer}) if _is_auto(objective) else objective


def pooled_as(objective: Objective) -> str:
    """How an objective makes one vector of a text's states, by which layer_probe asks for it.

    A `pipelines.evals.Pooling`, followed by `, centered` where the mean of each language is subtracted.
    """
    special = "+special" if getattr(objective, "special_tokens", False) else ""
    centered = CENTERED if getattr(objective, "center", "none") != "none" else ""
    return f"{getattr(objective, 'pooling', 'mean')}{special}{centered}"
