"""The `train` section of a recipe. Imports no torch, so that the graph can check it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from alignment_train.objectives import Objective
from pipelines.config import Recipe, validate
from pipelines.registry import Strict, plugin_field


class Optimiser(Strict):
    """AdamW and its schedule."""

    learning_rate: float = Field(5e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Of matrices; vectors (norms, biases) do not decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


class SeedModel(Strict):
    """A tokenizer and a small Llama-shaped decoder made from the corpus itself, where no hub can be reached."""

    vocab_size: int = Field(8000, ge=300)
    """At most; a small corpus gives fewer pieces."""
    hidden_size: int = Field(256, ge=8)
    layers: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    context: int = Field(512, ge=16)
    """Most tokens a text may have."""
    steps: int = Field(1500, gt=0)
    rows: int = Field(64, gt=0)
    """Texts a step."""
    optimiser: Optimiser = Optimiser.model_validate({"learning_rate": 2e-3})

    @model_validator(mode="after")
    def _divisible(self) -> "SeedModel":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size: found {self.hidden_size}. Allowed: a multiple of 2 x heads = {2 * self.heads} (rotary "
                f"positions need an even head size). Change hidden_size or heads."
            )
        return self


def _base(spec: Any) -> Any:
    if isinstance(spec, str):
        return {"seed": {}} if spec == "seed" else {"model": spec}
    return spec


class Base(Strict):
    """What is aligned: `seed`, `{seed: {...}}`, a hub id or a local path, or `{model: id, revision: hash}`."""

    seed: SeedModel | None = None
    model: str | None = None
    revision: str | None = None
    """Branch, tag or commit on the hub; name a commit to have the same model tomorrow."""

    @model_validator(mode="after")
    def _one(self) -> "Base":
        if (self.seed is None) == (self.model is None):
            raise ValueError("found both or neither of seed and model. Allowed: one of them. Remove or add one.")
        return self


class Guards(Strict):
    """What stops a training with a plain reason; the last checkpoint before it stays. Null is never checked.

    Losses and gradients that are not finite stop it always.
    """

    divergence: float | None = Field(1.0, gt=0)
    """How far an objective's loss may rise: the mean of its last 20 values over that of its first 20, by so many times
    that mean, or so many nats where it is less than 1 (a `retain` starts at 0). Twenty batches are no noise, and a
    loss that has doubled since the untrained start is of no use; a slow rise beside a falling one stays below it."""
    collapse: float | None = Field(0.25, gt=0, lt=1)
    """Least effective rank of pooled states, as a share of that at the start: for each objective that aligns, of the
    same 128 rows at most, in the layer that it trains (Roy & Vetterli 2007; `losses.effective_rank`). The sample's
    contrast has 0.5 at its least, after 25 steps, and 0.9 at the end."""
    every: int = Field(25, gt=0)
    """Steps between looks at the effective rank; there is one before each checkpoint too."""


class TrainConfig(Strict):
    """How the base model is aligned."""

    base: Annotated[Base, BeforeValidator(_base)] = Base(seed=SeedModel.model_validate({}))
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
    optimiser: Optimiser = Optimiser.model_validate({})
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of activations; weights are trained in float32. `auto`: bfloat16 where the hardware is built for it."""
    gradients_every: int = Field(10, ge=0)
    """Steps between measurements of each objective's gradient norm and of the cosines between them; 0: never. Such a
    step holds one copy of the gradients more for each objective after the first."""
    guards: Guards = Guards.model_validate({})
    checkpoint_every: int = Field(50, gt=0)
    """Steps between checkpoints; a killed run resumes from the last one and ends with the same weights."""

    @model_validator(mode="after")
    def _coherent(self) -> "TrainConfig":
        names = [objective.name for objective in self.objectives]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"objectives: found {', '.join(repeated)} twice. Allowed: each once. Remove one.")
        self._check_turns()
        for i, objective in enumerate(self.objectives):
            try:
                objective.check(self.base.seed.layers if self.base.seed else None)
            except ValueError as error:
                raise ValueError(f"objectives[{i}].{objective.name}.{error}") from None
        if self.base.seed and self.max_length > self.base.seed.context:
            raise ValueError(
                f"max_length: found {self.max_length}. Allowed: at most base.seed.context = {self.base.seed.context}. "
                f"Lower max_length or raise context."
            )
        return self

    def _check_turns(self) -> None:
        count = len(self.objectives)
        if self.schedule == "joint":
            return
        if count == 1:
            raise ValueError(
                f"schedule: found {self.schedule} with one objective. Allowed: joint, or two objectives or more. Take "
                f"joint, or add an objective."
            )
        if self.schedule == "alternate_step" and self.steps < count:
            raise ValueError(
                f"steps: found {self.steps}. Allowed: at least {count}, a turn for each objective, where schedule is "
                f"alternate_step. Raise steps."
            )
        if self.schedule == "alternate_microbatch" and self.accumulation % count:
            raise ValueError(
                f"accumulation: found {self.accumulation}. Allowed: a multiple of {count}, the number of objectives, "
                f"where schedule is alternate_microbatch. Take {-(-self.accumulation // count) * count}."
            )

    @property
    def turns(self) -> list[str]:
        """Who takes turns where objectives alternate; of the control too, which leaves those that align empty."""
        return [objective.name for objective in self.objectives]

    @property
    def layer(self) -> int | str:
        """The layer that the first aligning objective trains, as the recipe names it; `middle` where none does."""
        return next((o.layer for o in self.objectives if o.aligns and hasattr(o, "layer")), "middle")

    @property
    def control(self) -> list[Objective]:
        """The objectives without those that align: the same rows and tokens of everything else."""
        return [objective for objective in self.objectives if not objective.aligns]

    def settings(self, objectives: list[Objective] | None = None) -> dict[str, Any]:
        """Everything but `base`, defaults written out, as JSON: what decides the weights beside the data."""
        out = self.model_dump(mode="json", exclude={"base", "checkpoint_every", "guards"})
        chosen = self.objectives if objectives is None else objectives
        turns = {} if self.schedule == "joint" else {"turns": self.turns}
        return {**out, **turns, "objectives": [objective.settings() for objective in chosen]}

    @classmethod
    def of(cls, recipe: Recipe) -> "TrainConfig":
        """The checked `train` section of a recipe; ValueError with one line per mistake."""
        return validate(cls, recipe.train, f"recipe {recipe.name}", "train")


def layer_index(layer: int | str, blocks: int) -> int:
    """Index of `layer` in `hidden_states`: 0 the embeddings, `middle` half the blocks, -1 the normed last.

    blocks: number of blocks of the model. ValueError where there is no such layer.
    """
    if layer == "middle":
        return blocks // 2
    if isinstance(layer, int) and -blocks - 1 <= layer <= blocks:
        return layer % (blocks + 1)
    raise ValueError(
        f"layer: found {layer!r}. Allowed: 'middle', or {-blocks - 1} to {blocks} for a model of {blocks} blocks "
        f"(0 is the embeddings, -1 the last). Choose one of them."
    )
