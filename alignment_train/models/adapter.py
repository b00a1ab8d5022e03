"""Adapters trained in place of a model's weights, through PEFT: created, saved, loaded and combined."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from alignment_train.models import prefix
from alignment_train.models.model import Model
from alignment_train.models.prefix import PrefixHook
from alignment_train.settings import Base, Lora, Prefix
from pipelines.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "default"
"""The adapter that is trained, saved and active."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
STATE_SPACE = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
UNSUPPORTED_LAYERS = ("out_proj", "conv1d")
"""Layers of STATE_SPACE models that PEFT refuses: their fused kernels read the weights directly."""


class Adapter:
    """The adapters attached to one model, which `Model.adapter` refers to; usually a single one, called NAME."""

    def __init__(self, model: Model, peft: Any):
        """Attach `peft`, the PeftModel around `model.lm`."""
        self.peft = peft
        self._lm = model.lm
        self._prefix = PrefixHook(model.lm, model.body, peft) if peft.active_peft_config.is_prompt_learning else None
        model.adapter = self

    @classmethod
    def create(cls, model: Model, settings: Lora | Prefix, base: Base, seed: int) -> "Adapter":
        """Freeze `model` and attach a new adapter; with LoRA its output stays the same until training (B is 0).

        Args:
            base: The base model that adapter_config.json names: its hub id, else `base_model`, which lies beside the
                adapter in a store.
        """
        from peft import get_peft_model, prepare_model_for_kbit_training

        if getattr(model.lm, "is_quantized", False):  # QLoRA: Dettmers et al. 2023 (arXiv 2305.14314)
            prepare_model_for_kbit_training(model.lm, use_gradient_checkpointing=False)
        config = prefix.config(model, settings) if isinstance(settings, Prefix) else _lora_config(model, settings)
        torch.manual_seed(seed)
        with _ignoring_deprecation():
            adapter = cls(model, get_peft_model(model.lm, config, adapter_name=NAME))
        if adapter._prefix:
            prefix.initialize(model, adapter._prefix)
        config.base_model_name_or_path = base.hub or "base_model"
        config.revision = base.revision if base.hub else None
        return adapter

    @classmethod
    def load(cls, model: Model, folder: Path, name: str = NAME) -> "Adapter":
        """Attach the adapter in `folder` for inference.

        Raises:
            UserError: It was trained for another model.
        """
        from peft import PeftModel

        with _explaining_mismatch(model, folder):
            adapter = cls(model, PeftModel.from_pretrained(model.lm, folder, adapter_name=name))
            if adapter._prefix:
                prefix.check_shape(model, adapter._prefix)
                adapter._prefix.attach()
        model.lm.eval()
        return adapter

    def add(self, model: Model, folder: Path, name: str) -> None:
        """Load a further adapter, which stays inactive until `combine`."""
        with _explaining_mismatch(model, folder):
            self.peft.load_adapter(folder, adapter_name=name)
        model.lm.eval()

    def combine(self, weights: Mapping[str, float], method: str, density: float | None = None) -> None:
        """Activate the weighted combination of loaded adapters as NAME, replacing an earlier one.

        Args:
            weights: The weight of each adapter, by name.
            method: `combination_type` of PEFT's `add_weighted_adapter`.
            density: The fraction of weights kept, for methods that prune.

        Raises:
            ValueError: PEFT cannot combine these adapters with this method.
        """
        if NAME in self.peft.peft_config:
            self.peft.set_adapter(next(iter(weights)))  # deleting the active adapter would warn
            self.peft.delete_adapter(NAME)
        names = list(weights)
        self.peft.add_weighted_adapter(
            names, [weights[name] for name in names], NAME, combination_type=method, density=density
        )
        self.peft.set_adapter(NAME)

    def save(self, folder: Path) -> None:
        """Write adapter_model.safetensors and adapter_config.json of the adapter NAME."""
        # save_embedding_layers="auto" would request the base model's config from the hub
        self.peft.save_pretrained(folder, selected_adapters=[NAME], save_embedding_layers=False)
        (folder / "README.md").unlink()  # PEFT's empty model card
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "target_modules" in config:
            config["target_modules"] = sorted(config["target_modules"])  # a set, ordered differently in each process
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Context in which the base model runs without the adapter."""
        if self._prefix:
            self._prefix.detach()
            try:
                yield
            finally:
                self._prefix.attach()
            return
        trained = [parameter for parameter in self._lm.parameters() if parameter.requires_grad]
        try:
            with self.peft.disable_adapter():
                yield
        finally:
            self._lm.requires_grad_(False)  # PEFT makes every adapter trainable when it is enabled again
            for parameter in trained:
                parameter.requires_grad_(True)

    @property
    def num_virtual_tokens(self) -> int:
        """Positions that a prefix occupies before every text; 0 for LoRA."""
        return self._prefix.length if self._prefix else 0


def is_adapter(folder: Path) -> bool:
    """Whether a folder contains an adapter instead of a whole model."""
    return (folder / CONFIG).is_file()


def base_model_name(folder: Path) -> str | None:
    """The base model that the adapter in `folder` names."""
    return json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")


def lora_targets(model: Model, settings: Lora) -> list[str]:
    """Names of the linear layers that LoRA adapts.

    Raises:
        UserError: The settings name a layer that the model's blocks do not contain.
    """
    layers = linear_layers(model)
    if settings.targets == "blocks":
        return sorted(layers)
    if unknown := [name for name in settings.targets if name not in layers]:
        raise UserError(
            f"train.adapter.lora.targets: found {', '.join(unknown)}. Expected: linear layers of "
            f"{type(model.lm).__name__}: {', '.join(sorted(layers)) or 'none'}. Fix: name some of them, or write "
            f"'blocks' for all."
        )
    return settings.targets


def linear_layers(model: Model) -> dict[str, type[nn.Module]]:
    """The linear layers within blocks that LoRA can adapt, {name: class}, for any model family.

    A name is the last component of a module's path, preceded by the component before it if it is a number.
    """
    unsupported = UNSUPPORTED_LAYERS if model.lm.config.model_type in STATE_SPACE else ()
    layers = {
        _layer_name(path): type(module)
        for path, module in model.blocks.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return {name: kind for name, kind in sorted(layers.items()) if name not in unsupported}


def _lora_config(model: Model, settings: Lora) -> "LoraConfig":
    from peft import LoraConfig, TaskType

    layers, names = linear_layers(model), lora_targets(model, settings)
    inside = {f"{path}.{name}" for path, block in _named_blocks(model) for name, _ in block.named_modules()}
    outside = [path for path, _ in model.lm.named_modules() if path not in inside and _is_target(path, names)]
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float is accepted
        lora_dropout=settings.dropout,
        target_modules=names,
        exclude_modules=outside or None,
        fan_in_fan_out=any(issubclass(layers[name], Conv1D) for name in names),
        task_type=TaskType.CAUSAL_LM,
    )


@contextmanager
def _explaining_mismatch(model: Model, folder: Path) -> Iterator[None]:
    """Raise a UserError if loading the adapter in `folder` fails."""
    try:
        with _ignoring_deprecation():
            warnings.filterwarnings("error", "Found missing adapter keys")
            yield
    except (OSError, ValueError, RuntimeError, UserWarning) as error:
        reason = re.sub(r"\s+", " ", str(error))[:300]
        raise UserError(
            f"adapter {folder}: does not fit {type(model.lm).__name__} with {len(model.blocks)} blocks: {reason} "
            f"Expected: an adapter trained on this base model. Fix: train it again, or name the base model it was "
            f"trained on."
        ) from None


@contextmanager
def _ignoring_deprecation() -> Iterator[None]:
    """PEFT uses a name that transformers is about to remove."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _layer_name(path: str) -> str:
    """`0.mlp.up_proj` -> `up_proj`, `0.ffn.2` -> `ffn.2`."""
    parts = path.split(".")
    first = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdigit()), 0)
    return ".".join(parts[first:])


def _is_target(path: str, names: list[str]) -> bool:
    """Whether PEFT would adapt the module: its path is a name, or ends with one."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def _named_blocks(model: Model) -> Iterator[tuple[str, nn.Module]]:
    blocks = {id(block) for block in model.blocks}
    return ((path, module) for path, module in model.lm.named_modules() if id(module) in blocks)
