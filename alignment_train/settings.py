"""Sections of a recipe's `train` settings, apart from its objectives. Imports no torch."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.errors import UserError
from pipelines.registry import Strict

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


class Optimiser(Strict):
    """AdamW and its learning-rate schedule."""

    learning_rate: float = Field(5e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1)
    """Fraction of the steps during which the learning rate rises linearly from 0."""
    weight_decay: float = Field(0.01, ge=0)
    """Applied to matrices; vectors (norms, biases) do not decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)


class SeedModel(Strict):
    """A tokenizer and a small Llama decoder trained on the corpus, for machines without access to a model hub."""

    vocab_size: int = Field(8000, ge=300)
    """Upper bound; a small corpus yields fewer pieces."""
    hidden_size: int = Field(256, ge=8)
    layers: int = Field(6, ge=1)
    heads: int = Field(4, ge=1)
    context: int = Field(512, ge=16)
    """Maximum number of tokens in a text."""
    steps: int = Field(1500, gt=0)
    rows: int = Field(64, gt=0)
    """Batch size in texts."""
    optimiser: Optimiser = Optimiser.model_validate({"learning_rate": 2e-3})

    @model_validator(mode="after")
    def _check_head_size(self) -> "SeedModel":
        multiple = 2 * self.heads
        if self.hidden_size % multiple:
            raise UserError(
                f"hidden_size: found {self.hidden_size}. Expected: a multiple of 2 x heads = {multiple}, because "
                f"rotary position embeddings need an even head size. Fix: change hidden_size or heads."
            )
        return self


class Base(Strict):
    """The model to align: `seed`, `{seed: {...}}`, a hub id, a local path, or `{model: id, revision: hash}`."""

    seed: SeedModel | None = None
    model: str | None = None
    """A hub id, a model folder, or a GGUF file, which is dequantised once."""
    gguf: Annotated[str, Field(pattern=r"\.gguf$")] | None = None
    """The GGUF file to read from a hub repository or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Only a commit guarantees the same model in every run."""
    trust_remote_code: bool = False
    """Whether to run code stored beside the weights, with all rights of the user. Few models need it."""

    @property
    def hub(self) -> str | None:
        """The hub id; None for a seed model or a local path."""
        return None if self.is_local else self.model

    @property
    def is_local(self) -> bool:
        """Whether `model` is a path, existing or not, rather than a hub id."""
        if self.model is None:
            return False
        return Path(self.model).exists() or self.model.endswith(".gguf") or not HUB_ID.fullmatch(self.model)

    @property
    def gguf_file(self) -> Path | None:
        """The local GGUF file to read, existing or not: named, or the only one in a folder without config.json."""
        path = Path(self.model or "")
        if self.model is None or not self.is_local:
            return None
        if self.gguf:
            return path / self.gguf
        if path.suffix == ".gguf":
            return path
        candidates = [] if (path / "config.json").exists() else list(path.glob("*.gguf"))
        return candidates[0] if len(candidates) == 1 else None

    @property
    def files(self) -> list[Path]:
        """The local files that determine the model; empty for a seed model or a hub id."""
        if self.model is None:
            return []
        candidates = [self.gguf_file] if self.gguf_file else sorted(Path(self.model).glob("*"))
        return [file for file in candidates if file.is_file()]

    @model_validator(mode="after")
    def _check_exactly_one(self) -> "Base":
        if (self.seed is None) == (self.model is None):
            raise UserError(
                "found both or neither of seed and model. Expected: exactly one. Fix: remove or add one of them."
            )
        if self.gguf and (self.model is None or self.model.endswith(".gguf")):
            raise UserError(
                f"gguf: found {self.gguf!r} with {self.model or 'seed'}. Expected: gguf only where model is a hub id "
                f"or a folder. Fix: remove gguf, or correct model."
            )
        return self


class Lora(Strict):
    """LoRA: the update of each frozen matrix is alpha / r times B A, of rank `r`; only A and B are trained.

    Source: Hu et al. 2021 (arXiv 2106.09685). The defaults are those of mid-align (arXiv 2502.14830).
    """

    r: int = Field(8, gt=0)
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: Literal["blocks"] | Annotated[list[str], Field(min_length=1)] = "blocks"
    """Names of linear layers, such as `q_proj`; `blocks` selects every linear layer of every block."""


class Prefix(Strict):
    """Prefix tuning: `length` trained keys and values precede every text in each block; all else is frozen.

    The prefix is initialised with the keys and values of `length` random tokens, so an untrained prefix already changes
    the output. The maximum text length decreases by `length`.

    Source: Li and Liang 2021 (arXiv 2101.00190). XSGD (arXiv 2304.01295) uses lengths 16 and 32.
    """

    length: int = Field(16, gt=0)


class AdapterSettings(Strict):
    """The adapter to train instead of the base model's weights. align_model then contains only the adapter."""

    lora: Lora | None = None
    prefix: Prefix | None = None

    @property
    def method(self) -> Lora | Prefix:
        """The settings of whichever adapter is selected."""
        method = self.lora or self.prefix
        assert method
        return method

    @model_validator(mode="after")
    def _check_exactly_one(self) -> "AdapterSettings":
        if (self.lora is None) == (self.prefix is None):
            raise UserError(
                "found both or neither of lora and prefix. Expected: exactly one. Fix: remove or add one of them."
            )
        return self


class Merge(Strict):
    """Merges align_model's adapter with a separately trained one into merged_model.

    With coefficient c the adapters have weights c and 1 - c: 0 is the other adapter alone, 1 is align_model alone. The
    best of `coefficients` is selected on dev text, as mid-align tunes its average (arXiv 2502.14830).
    """

    adapter: str
    """A folder with a PEFT adapter, or the store of a recipe that trained one on the same base model: its path or
    address, or its name if it lies beside this recipe's store."""
    method: Literal[
        "cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"
    ] = "cat"
    """A method of PEFT's `add_weighted_adapter`. `cat` is the weighted sum of both updates, its rank the sum of
    theirs; `svd` approximates it at the larger rank. `linear` averages A and B separately, a rough approximation, as do
    `ties` (arXiv 2306.01708) and `dare_*` (arXiv 2311.03099); `_svd` variants operate on the updates themselves."""
    density: float = Field(0.5, gt=0, le=1)
    """Fraction of an adapter's weights that `ties` and `dare` keep."""
    coefficients: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] = [0, 0.25, 0.5, 0.75, 1]
    choose: Literal["loss", "recall@1"] = "loss"
    """Selection criterion on dev text: nats per token of the responses to the recipe's instructions (without
    instructions, of the target given the source), or recall@1 of translations at the trained layer. Ties go to the
    first coefficient."""
    rows: int = Field(500, gt=0)
    """Maximum number of dev pairs."""


class Guards(Strict):
    """Conditions that abort a training; the last checkpoint is kept. Null disables a guard.

    A loss or gradient that is not finite always aborts.
    """

    divergence: float | None = Field(1.0, gt=0)
    """Maximum rise of an objective's loss: the mean of its last 20 values minus that of its first 20, relative to the
    latter, or in nats if the latter is below 1 (`retain` starts at 0). Averaging over 20 batches removes most noise."""
    collapse: float | None = Field(0.25, gt=0, lt=1)
    """Minimum effective rank (Roy & Vetterli 2007; `losses.effective_rank`) of pooled states as a fraction of its
    initial value, for each alignment objective, at the layer that it trains, on at most 128 fixed rows."""
    every: int = Field(25, gt=0)
    """Steps between measurements of the effective rank; it is also measured before each checkpoint."""
