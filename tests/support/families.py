"""Folders of tiny random models of many families, as `save_pretrained` writes them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.models import tiny

BLOCKS, WIDTH = 2, 16
LLAMA = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
GROUPED = {**LLAMA, "num_key_value_heads": 2}
GPT = {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 2, "n_positions": 64}
STATES = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "state_size": 4}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
DECODERS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "gpt2": GPT,
    "gpt_neo": {
        "hidden_size": WIDTH, "num_layers": BLOCKS, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 64,
    },
    "gpt_neox": LLAMA,
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_bigcode": GPT,
    "opt": {
        "hidden_size": WIDTH, "ffn_dim": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 2,
        "word_embed_proj_dim": 8, "max_position_embeddings": 64,
    },
    "bloom": {"hidden_size": WIDTH, "n_layer": BLOCKS, "n_head": 2},
    "xglm": {
        "d_model": WIDTH, "ffn_dim": 32, "num_layers": BLOCKS, "attention_heads": 2, "max_position_embeddings": 64,
    },
    "mamba": STATES,
    "mamba2": {**STATES, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "rwkv": {
        "hidden_size": WIDTH, "attention_hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "context_length": 64,
        "rescale_every": 1,
    },
    "falcon": {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2, "alibi": True},
    "mpt": {"d_model": WIDTH, "n_layers": BLOCKS, "n_heads": 2, "max_seq_len": 64},
    "dbrx": {
        "d_model": WIDTH, "n_layers": BLOCKS, "n_heads": 2, "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 2, "moe_top_k": 1},
    },
    "phi": LLAMA,
    "phi3": GROUPED,
    "cohere": GROUPED,
    "gemma3_text": {**GROUPED, "head_dim": 8},
    "qwen3_moe": {**GROUPED, "head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16},
    "jamba": {
        **GROUPED, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 4, "use_mamba_kernels": False,
    },
    "ctrl": {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 2, "dff": 32, "n_positions": 64},
    "roberta": {**LLAMA, "is_decoder": True, "max_position_embeddings": 68},
    "electra": {**LLAMA, "is_decoder": True, "embedding_size": 8},
}  # fmt: skip
"""Causal decoders, each with two blocks."""

VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN_VISION = {
    "depth": 1, "hidden_size": 16, "out_hidden_size": WIDTH, "intermediate_size": 16, "num_heads": 2, "patch_size": 14,
}  # fmt: skip
WRAPPERS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM", {**GROUPED, "head_dim": 8}, VISION),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration", "Qwen2ForCausalLM", {**GROUPED, **MROPE},
        {"depth": 1, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14},
    ),
    "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2ForCausalLM", {**GROUPED, **MROPE}, QWEN_VISION),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration", "Qwen3ForCausalLM", {**GROUPED, **MROPE, "head_dim": 8},
        {**QWEN_VISION, "deepstack_visual_indexes": [0]},
    ),
    "llava": (
        "LlavaForConditionalGeneration", "LlamaForCausalLM", {**GROUPED, "model_type": "llama"},
        {**VISION, "model_type": "clip_vision_model"},
    ),
    "mistral3": (
        "Mistral3ForConditionalGeneration", "MistralForCausalLM", {**GROUPED, "model_type": "mistral", "head_dim": 8},
        {**VISION, "model_type": "pixtral", "head_dim": 8},
    ),
    "llama4": (
        "Llama4ForConditionalGeneration", "Llama4ForCausalLM",
        {
            **GROUPED, "head_dim": 8, "intermediate_size_mlp": 32, "num_local_experts": 2, "num_experts_per_tok": 1,
            "attention_chunk_size": 32,
        },
        {**VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    ),
}  # fmt: skip
"""Models of images and text: class, class of the language model inside, text and vision settings."""
T5 = {"d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 8}
BART = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
}  # fmt: skip
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "BertForMaskedLM", LLAMA),
    "bert without a head": ("bert", "BertModel", LLAMA),
    "xlm-roberta": ("xlm-roberta", "XLMRobertaForMaskedLM", {**LLAMA, "max_position_embeddings": 68}),
    "xlm-roberta without a head": ("xlm-roberta", "XLMRobertaModel", {**LLAMA, "max_position_embeddings": 68}),
    "electra": ("electra", "ElectraForMaskedLM", {**LLAMA, "embedding_size": 8}),
    "xlnet": ("xlnet", "XLNetLMHeadModel", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 16}),
    "modernbert": ("modernbert", "ModernBertForMaskedLM", LLAMA),
    "deberta-v2": ("deberta-v2", "DebertaV2ForMaskedLM", LLAMA),
    "t5": ("t5", "T5ForConditionalGeneration", T5),
    "mt5": ("mt5", "MT5ForConditionalGeneration", T5),
    "mbart": ("mbart", "MBartForConditionalGeneration", BART),
    "bart": ("bart", "BartForConditionalGeneration", BART),
    "a gemma that reads in both directions": (
        "gemma3_text", "Gemma3ForCausalLM", {**GROUPED, "head_dim": 8, "use_bidirectional_attention": True},
    ),
}  # fmt: skip
"""Models in which tokens see later ones: model type, class, settings."""


def tokens() -> tuple[Any, dict[str, int]]:
    """The tokenizer of the numbers, and what a configuration says of it."""
    tokenizer = tiny().tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return tokenizer, {"vocab_size": len(tokenizer), **ids}


def save(folder: Path, lm: Any, tokenizer: Any) -> Path:
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def decoder(folder: Path, kind: str, **more: Any) -> Path:
    """A folder with a causal decoder of that type."""
    tokenizer, ids = tokens()
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**DECODERS[kind], **ids, **more})
    return save(folder, AutoModelForCausalLM.from_config(config), tokenizer)


def wrapper(folder: Path, kind: str) -> Path:
    """A folder with a model of images and text."""
    tokenizer, ids = tokens()
    name, _, text, vision = WRAPPERS[kind]
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    config = cls.config_class(text_config={**text, **ids, "max_position_embeddings": 64}, vision_config=vision)
    return save(folder, cls(config), tokenizer)


def encoder(folder: Path, name: str) -> Path:
    """A folder with a model that is not causal."""
    tokenizer, ids = tokens()
    kind, cls, settings = ENCODERS[name]
    torch.manual_seed(0)
    return save(folder, getattr(transformers, cls)(AutoConfig.for_model(kind, **{**settings, **ids})), tokenizer)


def edit(folder: Path, name: str = "config.json", **changes: Any) -> Path:
    """The folder, after changes to one of its JSON files; None removes an entry."""
    content = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return folder
