"""Base of the neural filters: batched inference with a transformers model."""

import importlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipelines.errors import UserError
from pipelines.filters import Filter
from pipelines.languages import Pair

CHARACTERS_PER_TOKEN = 64
"""Texts are cut to this many characters per token that the model reads, before tokenization. Text has 2 to 5."""


class Neural(Filter):
    """A filter that scores with a transformers model. Code that a model repository contains is never executed."""

    is_expensive: ClassVar[bool] = True

    model: str
    """A hub id such as `sentence-transformers/LaBSE`, or a folder written by `save_pretrained`."""
    revision: str | None = None
    """Commit of a hub id. Without one, scores change silently when the model does."""
    batch_size: int = Field(default=128, ge=1)
    """Rows per batch; rows are sorted by length."""
    max_tokens: int = Field(default=256, ge=8)
    """Texts are truncated to this many tokens, or to the model's own maximum if that is smaller."""
    device: str = "auto"
    """`auto` uses a GPU if there is one; `cuda`, `cuda:1`, ... require it; or `cpu`. GPUs run in half precision."""

    libraries = ("torch", "transformers")

    def files(self) -> list[Path]:
        return sorted(path for path in Path(self.model).glob("*") if path.is_file())

    def mask_empty(self, batch: pa.RecordBatch, scores: np.ndarray) -> pa.Array:
        """Return `scores` with NaN where a side is empty, as a model's output is meaningless there."""
        is_empty = pc.or_(*(pc.equal(pc.utf8_trim_whitespace(batch[side]), "") for side in ("src", "tgt")))
        return pa.array(np.where(np.asarray(is_empty), np.nan, scores.astype(np.float64)))

    def notes(self, pairs: list[Pair]) -> list[str]:
        device = _resolve_device(self.device, self.name)
        if Path(self.model).is_dir() or self.revision:
            return []
        return [
            f"{self.name}: {self.model} has no revision, so its scores change when the model does; running on {device}."
        ]


class Network:
    """A model with its tokenizer on a device. Pickles as its constructor's arguments."""

    def __init__(
        self, name: str, head: str, model: str, revision: str | None, device: str, optional_weights: str | None = None
    ):
        """Load the model.

        Args:
            name: Name of the filter, for messages.
            head: Class of transformers that loads the model, e.g. `AutoModel`.
            model: Hub id or folder.
            revision: Commit of a hub id.
            device: As in `Neural.device`.
            optional_weights: Prefix of the weights that the checkpoint may lack.
        """
        self._arguments = (name, head, model, revision, device, optional_weights)
        self._name = name
        self.device = _resolve_device(device, name)
        torch, transformers = _import_library("torch", name), _import_library("transformers", name)
        dtype = torch.float32 if self.device.startswith("cpu") else torch.float16
        options = {"revision": revision, "trust_remote_code": False}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model, **options)
            self.model, loading_info = getattr(transformers, head).from_pretrained(
                model, **options, dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name}.model: {model} cannot be loaded ({str(error).splitlines()[0]}). Expected: the id of a "
                f"transformers model on the hub, or a folder that contains one. Fix: correct it."
            ) from error
        optional = (optional_weights,) if optional_weights else ()
        missing = sorted(key for key in loading_info["missing_keys"] if not key.startswith(optional))
        if missing:
            raise UserError(
                f"{name}.model: {model} has no weights for {', '.join(missing[:3])}, which would be random. Expected: "
                f"a model trained for this. Fix: choose another model."
            )
        self.model = self.model.to(self.device).eval()
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if getattr(self.model.config, "pad_token_id", None) is None:
            self.model.config.pad_token_id = self._tokenizer.pad_token_id
        self._lock = Lock()  # fast tokenizers are not thread-safe, and a GPU gains nothing from threads

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def run(
        self, texts: tuple[list[str], ...], batch_size: int, max_tokens: int, read: Callable[[Any, Any], Any]
    ) -> np.ndarray:
        """Run the model over N texts, or N pairs of texts.

        Args:
            texts: One list of N, or two that the model reads together.
            batch_size: Rows per forward pass.
            max_tokens: Length at which rows are truncated.
            read: Maps the model's output and the attention mask [B, T] to [B, H].

        Returns:
            float32 [N, H]; NaN for a row without tokens.
        """
        torch = _import_library("torch", self._name)
        if not texts[0]:
            return np.empty((0, 1), np.float32)
        with self._lock, torch.inference_mode():
            max_length = min(max_tokens, self._tokenizer.model_max_length, self._max_positions())
            cut = ([text[: CHARACTERS_PER_TOKEN * max_length] for text in side] for side in texts)
            tokens = self._tokenizer(*cut, truncation=True, max_length=max_length)
            lengths = np.array([len(ids) for ids in tokens["input_ids"]])
            order = np.argsort(-lengths, kind="stable")  # longest first: an out-of-memory error occurs at once or never
            order = order[lengths[order] > 0]
            parts = []
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = self._tokenizer.pad(
                    {key: [values[row] for row in rows] for key, values in tokens.items()}, return_tensors="pt"
                ).to(self.device)
                parts.append(read(self.model(**batch), batch["attention_mask"]).float().cpu().numpy())
        if not parts:
            return np.full((len(lengths), 1), np.nan, np.float32)
        outputs = np.concatenate(parts)
        if not np.isfinite(outputs).all():
            raise UserError(
                f"{self._name}: the model's output is not finite on {self.device}; some models overflow in half "
                f"precision. Expected: finite numbers. Fix: set device: cpu, or choose another model."
            )
        scores = np.full((len(lengths), outputs.shape[1]), np.nan, np.float32)
        scores[order] = outputs
        return scores

    def _max_positions(self) -> int:
        """Return the longest input in tokens. RoBERTa models number positions from the padding token's id on."""
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None) or 1_000_000
        return positions - config.pad_token_id - 1 if "roberta" in config.model_type else positions


def _resolve_device(device: str, name: str) -> str:
    torch = _import_library("torch", name)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"{name}.device: found '{device}'. Expected: auto, cpu, cuda, cuda:1, ... Fix: correct it.")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= available:
        raise UserError(
            f"{name}.device: found '{device}', but torch sees {available} GPUs. Expected: an available GPU, cpu or "
            f"auto. Fix: repair the driver, or set device: auto, which is slow without a GPU."
        )
    return device


def _import_library(library: str, name: str) -> Any:
    """Import at run time, as `pipelines` must load without torch."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(
            f"{name}: {library} is not installed. Expected: an installed {library}. Fix: install it, or remove this "
            f"filter from the recipe."
        ) from error
