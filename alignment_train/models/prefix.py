"""A prefix before every text: keys and values in each block that are trained while the model is frozen, through PEFT.

It is part of `lm` as LoRA's layers are: whatever runs the model, runs it after the prefix.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from alignment_train.config import Prefix
from pipelines.errors import UserError

if TYPE_CHECKING:
    from peft import PrefixTuningConfig

    from alignment_train.models.model import Model

NAME = "prefix"
"""Its name among the modules of `lm`: so it is moved, trained and checkpointed with it."""
TEXT = 8  # tokens of the text by which a prefix is tried


def config(model: "Model", settings: Prefix) -> "PrefixTuningConfig":
    """PEFT's settings for what this model keeps of a token; ValueError where that is not the same in all blocks."""
    from peft import PrefixTuningConfig, TaskType

    layers, heads, size = _shape(model)
    return PrefixTuningConfig(
        num_virtual_tokens=settings.length,
        num_layers=layers,
        num_attention_heads=heads,
        token_dim=heads * size,
        num_transformer_submodules=1,
        task_type=TaskType.CAUSAL_LM,
    )


def initialize(model: "Model", length: int) -> None:
    """Lay the prefix of `model.adapter` on the model, as it would be had it read `length` tokens drawn at random.

    Li & Liang 2021 (arXiv 2101.00190, section 7.4): better than random numbers, of any words. ValueError where the
    states after the prefix are not those after the tokens: then the model has no use for it.
    """
    places = model.positions
    if places and length + TEXT > places:
        raise UserError(
            f"train.adapter.prefix.length: found {length}, where {type(model.lm).__name__} has {places} places for "
            f"tokens. Allowed: at most {places - TEXT}, for a text needs some. Lower it."
        )
    tokens, text = (torch.randint(len(model.tokenizer), (1, count)).to(model.device) for count in (length, TEXT))
    kept = _kept(model, tokens)
    if [layer.keys.shape[2] for layer in kept.layers] != [length] * len(kept.layers):
        raise UserError(
            f"train.adapter.prefix.length: found {length}, of which {type(model.lm).__name__} keeps less in some "
            f"block. Allowed: less than its sliding window. Lower it."
        )
    both = torch.cat([torch.cat([layer.keys, layer.values]) for layer in kept.layers])  # [2 x layers, heads, length, D]
    (encoder,) = model.adapter.prompt_encoder.values()
    with _asking(model):
        wanted = model.body(input_ids=torch.cat([tokens, text], 1), use_cache=False).last_hidden_state[:, length:]
        encoder.embedding.weight.copy_(both.permute(2, 0, 1, 3).reshape(length, -1))
        attach(model)
        found = model.body(input_ids=text, attention_mask=torch.ones_like(text), use_cache=False).last_hidden_state
    if not (found - wanted).norm() < 1e-3 * wanted.norm():
        raise _unfit(model, "its states after a prefix are not those after the tokens that the prefix stands for")


def check(model: "Model") -> None:
    """ValueError where the prefix of `model.adapter`, not yet laid, was made for a model of another shape."""
    made = model.adapter.active_peft_config
    there = (made.num_layers, made.num_attention_heads, made.token_dim // made.num_attention_heads)
    if there != (needed := _shape(model)):
        raise UserError(f"its prefix is for (blocks, heads, size of a head) {there}, the model has {needed}.")


def attach(model: "Model") -> None:
    """Make the prefix of `model.adapter` part of the model."""
    model.lm.add_module(NAME, model.adapter.prompt_encoder)
    model.prefix = model.body.register_forward_pre_hook(partial(_before, model.adapter), with_kwargs=True)


@contextmanager
def prefix_disabled(model: "Model") -> Iterator[None]:
    """The model as it is without its prefix, where it has one."""
    if model.prefix is None:
        yield
        return
    model.prefix.remove()
    delattr(model.lm, NAME)
    try:
        yield
    finally:
        attach(model)


def _before(peft: Any, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the body is called with, after the prefix: as PeftModel.forward does, and for later steps of generation.

    The caller's mask, positions and cache know nothing of it; a cache that holds something begins with it already.
    """
    texts = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if isinstance(x, Tensor))
    length, cache = peft.active_peft_config.num_virtual_tokens, kwargs.get("past_key_values")
    changed: dict[str, Any] = {}
    if cache is None or not cache.get_seq_length():
        changed["past_key_values"] = peft.get_prompt(len(texts))
    mask = kwargs.get("attention_mask")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise UserError("attention_mask: found one that is not [N, T]. Allowed after a prefix: [N, T], or none.")
        changed["attention_mask"] = torch.cat([mask.new_ones(len(texts), length), mask], 1)
    for name in ("position_ids", "cache_position"):
        if kwargs.get(name) is not None:
            changed[name] = kwargs[name] + length
    return args, {**kwargs, **changed}


def _shape(model: "Model") -> tuple[int, int, int]:
    """(blocks, heads, size of a head) of the keys and values that the model keeps."""
    kept = _kept(model, torch.zeros(1, 1, dtype=torch.long, device=model.device))
    layers = getattr(kept, "layers", ())
    shapes = {
        tuple(getattr(layer, part).shape[1::2])
        for layer in layers
        for part in ("keys", "values")
        if isinstance(getattr(layer, part, None), Tensor)
    }
    if not isinstance(kept, DynamicCache) or len(layers) != len(model.blocks) or len(shapes) != 1:
        raise _unfit(model, "what it keeps of a token is not keys and values of one size in every block")
    heads, size = next(iter(shapes))
    return len(layers), heads, size


def _kept(model: "Model", ids: Tensor) -> Any:
    with _asking(model):
        return getattr(model.body(input_ids=ids, use_cache=True), "past_key_values", None)


@contextmanager
def _asking(model: "Model") -> Iterator[None]:
    """Without dropout, gradient and lower precision."""
    training = model.lm.training
    model.lm.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        model.lm.train(training)


def _unfit(model: "Model", why: str) -> UserError:
    return UserError(
        f"train.adapter.prefix: {type(model.lm).__name__} takes none: {why}. Allowed: models of transformers whose "
        f"blocks all attend. Take adapter: {{lora: {{}}}}."
    )
