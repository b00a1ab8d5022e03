"""Prefix tuning through PEFT: trained keys and values that precede every text in each block of a frozen model.

The prefix is a module of `lm`, as LoRA's layers are, so any forward pass of the model includes it.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from alignment_train.models.model import Model
from alignment_train.settings import Prefix
from pipelines.errors import UserError

if TYPE_CHECKING:
    from peft import PrefixTuningConfig

MODULE = "prefix"
"""Name of the prefix among the modules of `lm`, with which it is moved, trained and checkpointed."""
MIN_TEXT = 8
"""Tokens for which a model must have positions after the prefix; also the length of the text that `initialize` runs."""


class PrefixHook:
    """Adds the prefix of a PeftModel to the inputs of every forward pass of a model's body while attached."""

    def __init__(self, lm: nn.Module, body: nn.Module, peft: Any):
        self.lm, self.body, self.peft = lm, body, peft
        self._handle: Any = None

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return self.peft.active_peft_config.num_virtual_tokens

    def attach(self) -> None:
        """Make the prefix part of the model."""
        self.lm.add_module(MODULE, self.peft.prompt_encoder)
        self._handle = self.body.register_forward_pre_hook(self.extend_inputs, with_kwargs=True)

    def detach(self) -> None:
        """Undo `attach`."""
        self._handle.remove()
        delattr(self.lm, MODULE)

    def extend_inputs(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Inputs of the body after the prefix, as PeftModel.forward makes them, also for later steps of generation.

        Mask, positions and cache of the caller do not include the prefix; a non-empty cache already begins with it.
        """
        texts = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if isinstance(x, Tensor))
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        changed: dict[str, Any] = {}
        if cache is None or not cache.get_seq_length():
            changed["past_key_values"] = self.peft.get_prompt(len(texts))
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.ndim != 2:
                raise UserError(
                    "attention_mask: found a mask that is not [N, T]. Expected: [N, T] or None after a prefix. Fix: "
                    "use LoRA where attention masks have more dimensions."
                )
            changed["attention_mask"] = torch.cat([mask.new_ones(len(texts), self.length), mask], 1)
        for name in ("position_ids", "cache_position"):
            if kwargs.get(name) is not None:
                changed[name] = kwargs[name] + self.length
        return args, {**kwargs, **changed}


def config(model: Model, settings: Prefix) -> "PrefixTuningConfig":
    """PEFT's configuration for the shape of the model's key-value cache.

    Raises:
        UserError: The shape is not the same in all blocks.
    """
    from peft import PrefixTuningConfig, TaskType

    layers, heads, head_size = _cache_shape(model)
    return PrefixTuningConfig(
        num_virtual_tokens=settings.length,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * head_size,
        num_transformer_submodules=1,
        task_type=TaskType.CAUSAL_LM,
    )


def initialize(model: Model, prefix: PrefixHook) -> None:
    """Attach a new prefix, set to the keys and values of randomly drawn tokens.

    Source: Li & Liang 2021 (arXiv 2101.00190, section 7.4), where activations of real words outperform random numbers.

    Raises:
        UserError: The model has too few positions, a sliding window shorter than the prefix, or computes other states
            after the prefix than after the tokens.
    """
    length, positions, name = prefix.length, model.positions, type(model.lm).__name__
    setting = "train.adapter.prefix.length"
    if positions is not None and positions < MIN_TEXT:  # without the prefix
        raise UserError(
            f"{setting}: found {length}, where {name} has {positions + length} positions. Expected: at most "
            f"{positions + length - MIN_TEXT}, to leave room for text. Fix: lower it."
        )
    tokens, text = (torch.randint(len(model.tokenizer), (1, count)).to(model.device) for count in (length, MIN_TEXT))
    cache = _cache(model, tokens)
    if [layer.keys.shape[2] for layer in cache.layers] != [length] * len(cache.layers):
        raise UserError(
            f"{setting}: found {length}, of which {name} keeps fewer in some block. Expected: less than its sliding "
            f"window. Fix: lower it."
        )
    states = torch.cat([torch.cat([layer.keys, layer.values]) for layer in cache.layers])  # [2 x layers, heads, L, D]
    (encoder,) = prefix.peft.prompt_encoder.values()
    with model.measuring():
        expected = model.body(input_ids=torch.cat([tokens, text], 1), use_cache=False).last_hidden_state[:, length:]
        encoder.embedding.weight.copy_(states.permute(2, 0, 1, 3).reshape(length, -1))
        prefix.attach()
        actual = model.body(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False).last_hidden_state
    if not (actual - expected).norm() < 1e-3 * expected.norm():
        raise _unsupported(model, "its states after a prefix differ from those after the tokens that it stands for")


def check_shape(model: Model, prefix: PrefixHook) -> None:
    """Raise a UserError if the prefix, not yet attached, was made for a model of another shape."""
    made = prefix.peft.active_peft_config
    shape = (made.num_layers, made.num_attention_heads, made.token_dim // made.num_attention_heads)
    if shape != (expected := _cache_shape(model)):
        raise UserError(f"its prefix has (blocks, heads, head size) {shape}, and the model has {expected}.")


def _cache_shape(model: Model) -> tuple[int, int, int]:
    """(blocks, heads, head size) of the model's key-value cache."""
    cache = _cache(model, torch.zeros(1, 1, dtype=torch.long, device=model.device))
    layers = getattr(cache, "layers", ())
    shapes = {
        tuple(getattr(layer, part).shape[1::2])
        for layer in layers
        for part in ("keys", "values")
        if isinstance(getattr(layer, part, None), Tensor)
    }
    if not isinstance(cache, DynamicCache) or len(layers) != len(model.blocks) or len(shapes) != 1:
        raise _unsupported(model, "its cache does not have keys and values of one size in every block")
    heads, head_size = next(iter(shapes))
    return len(layers), heads, head_size


def _cache(model: Model, ids: Tensor) -> Any:
    with model.measuring():
        return getattr(model.body(input_ids=ids, use_cache=True), "past_key_values", None)


def _unsupported(model: Model, reason: str) -> UserError:
    return UserError(
        f"train.adapter.prefix: {type(model.lm).__name__} does not support a prefix: {reason}. Expected: a model of "
        f"transformers with attention in every block. Fix: use adapter: {{lora: {{}}}}."
    )
