"""What the files of a model folder say, read before anything of their size is allocated. Needs no transformers."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from alignment_train.models import gguf as ggufs
from pipelines.errors import UserError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
SINGLE = ("model.safetensors", "pytorch_model.bin")  # in the order in which transformers looks for them
TEXT_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "generation_config.json",
)  # fmt: skip
TOKENIZERS = (
    "tokenizer.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken", "tekken.json", "tokenization_*.py",
)  # fmt: skip
"""Files of which a tokenizer is made; without any, transformers makes an empty one."""
JSON_BYTES = 1 << 28  # the largest tokenizer.json on the hub has a quarter of it
MODULES = 10_000  # layers, experts: more than any model has, few enough to be built on no device
NUMBERS = 1 << 48  # more than a number that decides a size can be
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
POSITIVE = (*LAYERS, "hidden_size", "n_embd", "d_model", "vocab_size", "num_attention_heads", "n_head", "n_heads")
COUNT = re.compile(r"^(num|n)_([a-z_]*_)?(layers?|blocks?|experts?)$|_layers$|(^|_)depth$")
SIZE = re.compile(r"(size|dim|heads?|embd|d_model|ctx|positions|embeddings|rank)$")
FLOATS = ("F64", "F32", "F16", "BF16")
FOREIGN = {
    ".gguf": "Name the file: base: {model: folder/name.gguf}.",
    ".pth": "Convert it with the conversion script of its family in transformers.",
    ".pt": "Convert it with the conversion script of its family in transformers.",
    ".h5": "Load it with an older transformers (4.x, from_tf=True) and save_pretrained.",
    ".msgpack": "Load it with an older transformers (4.x, from_flax=True) and save_pretrained.",
    ".onnx": "Name the checkpoint that it was exported from.",
}
"""Weight files that transformers does not read as they are, and what to do about them."""


@dataclass(frozen=True)
class Folder:
    """A model folder whose files are all there and can be read."""

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]
    """The weight files."""
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """Type (`F32`, `BF16`, ...) and shape of every tensor; empty for pytorch_model.bin."""
    gguf: str | None = None
    """The GGUF file that configuration, tokenizer and weights are read from, in place of all others."""

    @property
    def gguf_file(self) -> dict[str, str]:
        """The argument of `from_pretrained`, where there is one."""
        return {"gguf_file": self.gguf} if self.gguf else {}

    @property
    def bytes(self) -> int:
        """Of all weight files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def elements(self) -> int:
        """Numbers that the weight files hold; of pytorch_model.bin, the most that they could."""
        return sum(prod(shape) for _, shape in self.tensors.values()) or self.bytes

    @property
    def dtypes(self) -> list[str]:
        """Types of the tensors, that of most numbers first."""
        counts: dict[str, int] = {}
        for dtype, shape in self.tensors.values():
            counts[dtype] = counts.get(dtype, 0) + prod(shape)
        return sorted(counts, key=lambda dtype: -counts[dtype])

    @property
    def quantization(self) -> str | None:
        """How the weights are quantised (`bitsandbytes`, `gptq`, `fp8`, ...), None where they are plain floats, or
        become these as they are read (GGUF)."""
        if self.gguf:
            return None
        for config in (self.config, self.config.get("text_config") or {}):
            settings = config.get("quantization_config", config.get("compression_config"))
            if isinstance(settings, Mapping):
                bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
                return str(settings.get("quant_method") or ("bitsandbytes" if bits else "an unnamed method"))
        for name, (dtype, shape) in self.tensors.items():
            if name.endswith(("weight", "qweight", "weight_packed")) and len(shape) > 1 and dtype not in FLOATS:
                return f"an unnamed method ({name} is {dtype})"
        return None


def inspect(path: Path, place: str, gguf: str | None = None) -> Folder:
    """The folder, where it can be a model: UserError names what is missing, damaged or absurd, and the cure.

    Args:
        path: A folder, or a GGUF file.
        place: Where the recipe names it, for messages.
        gguf: The GGUF file of the folder that is to be read.
    """
    if gguf or (path.suffix == ggufs.SUFFIX and path.is_file()):
        return _inspect_gguf(path / gguf if gguf else path, place)
    if not path.is_dir():
        raise UserError(
            f"{place}: found a file. Expected: the folder of a model, with {CONFIG} and weights. Fix: "
            f"{FOREIGN.get(path.suffix, 'name the folder that it lies in.')}"
        )
    if (path / ADAPTER).is_file():
        raise UserError(
            f"{place}: found an adapter. Expected: a whole model. Fix: merge the adapter into its base with PEFT's "
            f"merge_and_unload, save that, and name its folder."
        )
    if not (path / CONFIG).is_file():
        if (files := sorted(path.glob(f"*{ggufs.SUFFIX}"))) and len(files) == 1:
            return _inspect_gguf(files[0], place)
        if files:
            raise UserError(
                f"{place}: found {len(files)} GGUF files in the folder: {', '.join(file.name for file in files[:8])}. "
                f"Expected: one model. Fix: name the file, such as {files[0]}."
            )
        there = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise UserError(
            f"{place}: found no {CONFIG} in the folder, but {there}. Expected: what save_pretrained writes. Fix: name "
            f"the folder that has {CONFIG}."
        )
    config = read_json(path / CONFIG, place)
    for name in TEXT_FILES:
        if (path / name).is_file():
            read_json(path / name, place)
    if not any(next(path.glob(pattern), None) for pattern in TOKENIZERS):
        raise UserError(
            f"{place}: found no tokenizer. Expected: its files beside the weights, such as tokenizer.json. Fix: copy "
            f"them into the folder."
        )
    files = _weight_files(path, place)
    tensors = {name: entry for file in files if file.suffix == ".safetensors" for name, entry in _header(file, place)}
    _check_numbers(config, tensors, place)
    return Folder(path, config, files, tensors)


def _inspect_gguf(file: Path, place: str) -> Folder:
    if not file.is_file():
        there = ", ".join(sorted(other.name for other in file.parent.glob(f"*{ggufs.SUFFIX}"))[:8]) or "none"
        raise UserError(
            f"{place}: found no file {file.name} in {file.parent}. Expected: one of its GGUF files ({there}). Fix: "
            f"correct the name."
        )
    header = ggufs.read(file, place)
    return Folder(file.parent, {}, (file,), header.tensors, file.name)


def read_json(file: Path, place: str) -> dict[str, Any]:
    """The object in a JSON file; UserError where there is none."""
    expected = "Fix: download or copy the file again."
    if file.stat().st_size > JSON_BYTES:
        raise UserError(
            f"{place}: {file.name} has {file.stat().st_size:,} bytes. Expected: at most {JSON_BYTES:,}. {expected}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: {file.name} is damaged: {error}. Expected: JSON. {expected}") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{place}: {file.name} is damaged: found {type(content).__name__}. Expected: an object. {expected}"
        )
    return content


def _weight_files(path: Path, place: str) -> tuple[Path, ...]:
    for name in SINGLE:
        if (path / name).is_file():
            return (path / name,)
        if (path / f"{name}.index.json").is_file():
            return _shards(path, f"{name}.index.json", place)
    foreign = [file for file in sorted(path.iterdir()) if file.suffix in (*FOREIGN, ".safetensors", ".bin")]
    cure = FOREIGN.get(foreign[0].suffix, "") if foreign else ""
    there = ", ".join(file.name for file in foreign[:4]) or "none"
    raise UserError(
        f"{place}: found no weights that transformers reads ({there}). Expected: {' or '.join(SINGLE)}, or the index "
        f"of their shards. Fix: {cure or 'download the whole model, or name another folder.'}"
    )


def _shards(path: Path, index: str, place: str) -> tuple[Path, ...]:
    names = read_json(path / index, place).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(
            f"{place}: {index} is damaged: found no weight_map. Expected: the file of each weight. Fix: download or "
            f"copy the file again."
        )
    shards = sorted(set(names.values()))
    if strange := [name for name in shards if name != Path(name).name or name in (".", "..")]:
        raise UserError(
            f"{place}: {index} names {strange[0]!r}. Expected: files of the same folder. Fix: download the model again."
        )
    if missing := [name for name in shards if not (path / name).is_file()]:
        raise UserError(
            f"{place}: found {len(shards) - len(missing)} of the {len(shards)} weight files that {index} names; "
            f"missing: {', '.join(missing[:4])}. Expected: all of them. Fix: download or copy the missing ones."
        )
    return tuple(path / name for name in shards)


def _header(file: Path, place: str) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    try:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # it is no mapping
                entry = tensors.get_slice(name)
                yield name, (entry.get_dtype(), tuple(entry.get_shape()))
    except SafetensorError as error:
        raise UserError(
            f"{place}: {file.name} is damaged: {error}. Expected: a whole safetensors file. Fix: download or copy it "
            f"again."
        ) from None


def _check_numbers(config: Mapping[str, Any], tensors: Mapping[str, Any], place: str) -> None:
    """UserError for numbers of a configuration of which no model can be built, or none in the memory of a machine.

    transformers makes lists of so many entries while it reads a configuration, so this comes before.
    """

    def refuse(name: str, found: Any, expected: str) -> UserError:
        return UserError(
            f"{place}: {CONFIG}: {name}: found {found!r}. Expected: {expected}. Fix: copy {CONFIG} again from where "
            f"the weights come from."
        )

    text = config.get("text_config") or {}
    for name, value in _numbers(config):
        key = name.rpartition(".")[2]
        if key in POSITIVE and name in (key, f"text_config.{key}") and (not isinstance(value, int) or value < 1):
            raise refuse(name, value, "a whole number from 1")
        if COUNT.search(key) and value > MODULES:
            raise refuse(name, value, f"at most {MODULES:,}")
        if SIZE.search(key) and value > NUMBERS:
            raise refuse(name, value, f"at most {NUMBERS:,}")
    for name in LAYERS:
        layers = text.get(name) or config.get(name)
        if tensors and isinstance(layers, int) and layers > len(tensors):
            raise refuse(name, layers, f"at most {len(tensors):,}, the number of tensors in the files")


def _numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """(name, number) of a configuration, those of `text_config` and its like as `text_config.name`."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value
