"""A tiny Qwen2 with a byte-level tokenizer for the numbers, and the same as a GGUF file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from alignment_train.models.model import Model
from tests.support.models import bitext

BLOCKS, WIDTH = 3, 32
END = "<|endoftext|>"


def qwen(seed: int = 0) -> Model:
    """Widths are multiples of 32, the numbers of a block of Q8_0."""
    tokenizer = byte_level()
    config = AutoConfig.for_model(
        "qwen2", hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=BLOCKS, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=len(tokenizer), max_position_embeddings=128, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4}, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    return Model(AutoModelForCausalLM.from_config(config).eval(), tokenizer)


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    table = bitext(200)
    tokenizer.train_from_iterator(table["src"].to_pylist() + table["tgt"].to_pylist(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def write(file: Path, model: Model, kind: str = "F32", settings: Mapping[str, Any] | None = None) -> Path:
    """The model as a GGUF file, as llama.cpp converts it: matrices of type `kind`, vectors in float32.

    settings: in place of what the model has, such as `{"general.architecture": "bert"}`.
    """
    import gguf

    more = dict(settings or {})
    config, backend = model.lm.config, model.tokenizer.backend_tokenizer
    writer = gguf.GGUFWriter(file, more.pop("general.architecture", "qwen2"))
    writer.add_name("tiny")
    writer.add_block_count(more.pop("block_count", BLOCKS))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e4)
    vocabulary = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token == END else 1 for token, _ in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]])
    writer.add_eos_token_id(model.tokenizer.eos_token_id)
    for name, value in more.items():
        writer.add_uint32(name, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, BLOCKS)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, weight in model.lm.state_dict().items():
        own = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        numbers = weight.float().numpy()
        if numbers.ndim == 1:
            writer.add_tensor(own, numbers)
        else:
            writer.add_tensor(own, gguf.quantize(numbers, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
