"""Texts -> numbers by a transformers model: what the neural filters share."""

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

CHARACTERS = 64  # of a text, a token that the model reads: the rest is not even tokenized. Text has 2 to 5 a token


class Neural(Filter):
    """A filter by a model that is loaded by hub id or from a folder; code that a model brings along is never run."""

    is_expensive: ClassVar[bool] = True

    model: str
    """A hub id such as `sentence-transformers/LaBSE`, or a folder that `save_pretrained` wrote."""
    revision: str | None = None
    """Commit of a hub id. Without one the scores change with the model, unnoticed."""
    batch_size: int = Field(default=128, ge=1)
    """Rows at once; rows of like length go together."""
    max_tokens: int = Field(default=256, ge=8)
    """Tokens of a text after which it is cut, if the model does not end before."""
    device: str = "auto"
    """`auto` is the GPU where there is one; `cuda`, `cuda:1` and so on fail without; `cpu`. On a GPU the model runs in
    half precision."""

    libraries = ("torch", "transformers")

    def files(self) -> list[Path]:
        return sorted(path for path in Path(self.model).glob("*") if path.is_file())

    def whole(self, batch: pa.RecordBatch, scores: np.ndarray) -> pa.Array:
        """`scores`, but NaN where a side is empty: what a model says of nothing means nothing."""
        empty = pc.or_(*(pc.equal(pc.utf8_trim_whitespace(batch[side]), "") for side in ("src", "tgt")))
        return pa.array(np.where(np.asarray(empty), np.nan, scores.astype(np.float64)))

    def notes(self, pairs: list[Pair]) -> list[str]:
        found = _device(self.device, self.name)
        if Path(self.model).is_dir() or self.revision:
            return []
        return [
            f"{self.name}: {self.model} has no revision, so its scores change when the model does; running on {found}."
        ]


class Network:
    """A model with its tokenizer; `head` is the class of transformers that loads it. Pickled as what it was made of."""

    def __init__(
        self, name: str, head: str, model: str, revision: str | None, device: str, needless: str | None = None
    ):
        """`needless` begins the names of weights that the model's files may lack."""
        self._made_of = (name, head, model, revision, device, needless)
        self._name = name
        self.device = _device(device, name)
        torch, transformers = _imported("torch", name), _imported("transformers", name)
        half = not self.device.startswith("cpu")
        where = {"revision": revision, "trust_remote_code": False}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model, **where)
            self.model, found = getattr(transformers, head).from_pretrained(
                model, **where, dtype=torch.float16 if half else torch.float32, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name}.model: {model} cannot be loaded ({str(error).splitlines()[0]}). Allowed: the id of a "
                f"transformers model on the hub, or a folder that holds one. Correct it."
            ) from error
        missing = sorted(key for key in found["missing_keys"] if not (needless and key.startswith(needless)))
        if missing:
            raise UserError(
                f"{name}.model: {model} has no weights for {', '.join(missing[:3])}, which would be random. Allowed: a "
                f"model trained for this. Choose another one."
            )
        self.model = self.model.to(self.device).eval()
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if getattr(self.model.config, "pad_token_id", None) is None:
            self.model.config.pad_token_id = self._tokenizer.pad_token_id
        self._lock = Lock()  # tokenizers of transformers refuse two threads, and a GPU gains nothing from them

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of

    def run(
        self, texts: tuple[list[str], ...], batch_size: int, max_tokens: int, read: Callable[[Any, Any], Any]
    ) -> np.ndarray:
        """float32 [N, H]: what `read` takes from the model's output and the mask [B, T]; NaN for a text without tokens.

        texts: one list of N, or two, whose rows the model reads together.
        """
        torch = _imported("torch", self._name)
        if not texts[0]:
            return np.empty((0, 1), np.float32)
        with self._lock, torch.inference_mode():
            longest = min(max_tokens, self._tokenizer.model_max_length, self._positions())
            some = ([text[: CHARACTERS * longest] for text in side] for side in texts)
            tokens = self._tokenizer(*some, truncation=True, max_length=longest)
            lengths = np.array([len(ids) for ids in tokens["input_ids"]])
            order = np.argsort(-lengths, kind="stable")  # longest first: memory runs out at once or never
            order = order[lengths[order] > 0]
            found = []
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = self._tokenizer.pad(
                    {key: [values[row] for row in rows] for key, values in tokens.items()}, return_tensors="pt"
                ).to(self.device)
                found.append(read(self.model(**batch), batch["attention_mask"]).float().cpu().numpy())
        if not found:
            return np.full((len(lengths), 1), np.nan, np.float32)
        numbers = np.concatenate(found)
        if not np.isfinite(numbers).all():
            raise UserError(
                f"{self._name}: the model gives numbers that are not finite on {self.device}. Allowed: finite ones; "
                f"some models overflow in half precision. Set device: cpu, or choose another model."
            )
        scores = np.full((len(lengths), numbers.shape[1]), np.nan, np.float32)
        scores[order] = numbers
        return scores

    def _positions(self) -> int:
        """Tokens that the model has positions for. RoBERTa and its kin number them from the padding token's id on."""
        config = self.model.config
        positions = getattr(config, "max_position_embeddings", None) or 1_000_000
        return positions - config.pad_token_id - 1 if "roberta" in config.model_type else positions


def _device(wanted: str, name: str) -> str:
    torch = _imported("torch", name)
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise UserError(f"{name}.device: found '{wanted}'. Allowed: auto, cpu, cuda, cuda:1 and so on. Correct it.")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= there:
        raise UserError(
            f"{name}.device: found '{wanted}', but torch sees {there} GPUs here. Allowed: a GPU that is there, cpu or "
            f"auto. Mend the driver, or set device: auto, which is slow without a GPU."
        )
    return wanted


def _imported(library: str, name: str) -> Any:
    """By name, as `pipelines` must load without torch: only who asks for a neural filter needs it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"{name}: {library} is not installed. Install it, or leave this filter out.") from error
