"""Adapters on a model, through PEFT: added, saved without the base's weights, and laid on a base again."""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from alignment_train.config import Base, Lora, Prefix
from alignment_train.models import prefix
from pipelines.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig

    from alignment_train.models.model import Model

NAME = "default"
STATE_SPACE = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
PEFT_REFUSES = ("out_proj", "conv1d")  # in models of these types
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def add(model: "Model", settings: Lora | Prefix, base: Base, seed: int) -> None:
    """Freeze `model` and lay a new adapter on it. LoRA's B is 0: until it is trained, the model answers as before.

    base: what adapter_config.json names, by hub id, else as `base_model`, which lies beside it in a store.
    """
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model.lm, "is_quantized", False):  # QLoRA: Dettmers et al. 2023 (arXiv 2305.14314)
        prepare_model_for_kbit_training(model.lm, use_gradient_checkpointing=False)
    config = prefix.config(model, settings) if isinstance(settings, Prefix) else _lora(model, settings)
    torch.manual_seed(seed)
    with _without_warnings():
        model.adapter = get_peft_model(model.lm, config, adapter_name=NAME)
    if isinstance(settings, Prefix):
        prefix.initialize(model, settings.length)
    config.base_model_name_or_path = base.hub or "base_model"
    config.revision = base.revision if base.hub else None


def targets(model: "Model", settings: Lora) -> list[str]:
    """Names of the linear layers that LoRA adapts; UserError where the recipe names others than there are."""
    layers = linear_layers(model)
    if settings.targets == "blocks":
        return sorted(layers)
    if unknown := [name for name in settings.targets if name not in layers]:
        raise UserError(
            f"train.adapter.lora.targets: found {', '.join(unknown)}. Allowed for {type(model.lm).__name__}: "
            f"{', '.join(sorted(layers)) or 'none'}, or 'blocks' for all of them. Choose some."
        )
    return settings.targets


def _lora(model: "Model", settings: Lora) -> "LoraConfig":
    from peft import LoraConfig, TaskType

    layers, names = linear_layers(model), targets(model, settings)
    within = {f"{prefix}.{name}" for prefix, block in _named_blocks(model) for name, _ in block.named_modules()}
    outside = [name for name, _ in model.lm.named_modules() if name not in within and _matches(name, names)]
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float does
        lora_dropout=settings.dropout,
        target_modules=names,
        exclude_modules=outside or None,
        fan_in_fan_out=any(issubclass(layers[name], Conv1D) for name in names),
        task_type=TaskType.CAUSAL_LM,
    )


def save(adapter: Any, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json of the adapter NAME of a PeftModel."""
    # save_embedding_layers="auto" would ask the hub for the base's config
    adapter.save_pretrained(folder, selected_adapters=[NAME], save_embedding_layers=False)
    (folder / "README.md").unlink()  # PEFT's empty card
    says = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if "target_modules" in says:
        says["target_modules"] = sorted(says["target_modules"])  # a set, whose order is another in each process
    (folder / CONFIG).write_text(json.dumps(says, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def load(model: "Model", folder: Path, name: str = NAME) -> None:
    """Lay the adapter in `folder` on `model`, for use and not for training; ValueError where it does not fit."""
    from peft import PeftModel

    try:
        with _without_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            if model.adapter is None:
                model.adapter = PeftModel.from_pretrained(model.lm, folder, adapter_name=name)
                if model.adapter.active_peft_config.is_prompt_learning:
                    prefix.check(model)
                    prefix.attach(model)
            else:
                model.adapter.load_adapter(folder, adapter_name=name)
    except (OSError, ValueError, RuntimeError, UserWarning) as error:
        said = re.sub(r"\s+", " ", str(error))[:300]
        raise UserError(
            f"adapter {folder}: does not fit {type(model.lm).__name__} of {len(model.blocks)} blocks: {said} Needed: "
            f"an adapter trained on this very base model. Train it again on it, or name the base it was trained on."
        ) from None
    model.lm.eval()


def made_for(folder: Path) -> str | None:
    """The base model that the adapter in `folder` names."""
    return json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")


def without_frozen(models: list[nn.Module], states: list[dict[str, Any]], _: str) -> None:
    """Take what is not trained out of the states that a checkpoint is about to hold: an adapter's base is at hand."""
    for module, state in zip(models, states, strict=False):  # FSDP writes its own states and hands none over
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                state.pop(name, None)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PEFT asks transformers for a name that it is about to lose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def linear_layers(model: "Model") -> dict[str, type[nn.Module]]:
    """{name: class} of the linear layers within blocks that LoRA can adapt, whatever their family calls them.

    A name is the last part of a module's path, with the part before it where it is a number. PEFT refuses what fused
    kernels of state-space models read the weights of.
    """
    refused = PEFT_REFUSES if model.lm.config.model_type in STATE_SPACE else ()
    found = {
        _short(name): type(module)
        for name, module in model.blocks.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    return {name: kind for name, kind in sorted(found.items()) if name not in refused}


def _short(path: str) -> str:
    """`0.mlp.up_proj` -> `up_proj`, `0.ffn.2` -> `ffn.2`."""
    parts = path.split(".")
    first = next((i for i in range(len(parts) - 1, -1, -1) if not parts[i].isdigit()), 0)
    return ".".join(parts[first:])


def _matches(path: str, names: list[str]) -> bool:
    """As PEFT does: the path is a name, or ends with one."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def _named_blocks(model: "Model") -> Iterator[tuple[str, nn.Module]]:
    mine = {id(block) for block in model.blocks}
    return ((name, module) for name, module in model.lm.named_modules() if id(module) in mine)
