"""Tiny models and texts that the tests of the trainer share."""

from pathlib import Path

import pyarrow as pa
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alignment_train.models.model import Model
from alignment_train.models.seed import train_tokenizer
from pipelines.schema import BITEXT

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = {
    "eng_Latn": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "deu_Latn": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
}
SHAPES = {
    "llama": {"num_attention_heads": 2, "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 32},
    "qwen2": {
        "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 3, "hidden_size": 16,
        "intermediate_size": 32,
    },
    "gemma2": {
        "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 3, "hidden_size": 16,
        "intermediate_size": 32, "head_dim": 8, "final_logit_softcapping": 0.5,
    },
    "mistral": {
        "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 3, "hidden_size": 16,
        "intermediate_size": 32,
    },
    "gpt_neox": {"num_attention_heads": 2, "num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 32},
    "gpt2": {"n_head": 2, "n_layer": 3, "n_embd": 16},
    "xglm": {"attention_heads": 2, "num_layers": 3, "d_model": 16, "ffn_dim": 32},
    "bloom": {"n_head": 2, "n_layer": 3, "hidden_size": 16},
}  # fmt: skip


def sentence(number: int, language: str) -> str:
    """`407` -> `four zero seven`."""
    return " ".join(NUMBERS[language][int(digit)] for digit in str(number))


def bitext(rows: int, first: int = 1000) -> pa.Table:
    """Numbers spelt out in German and English, digit by digit."""
    chosen = [first + 7 * i for i in range(rows)]
    columns = [
        [sentence(n, "deu_Latn") for n in chosen],
        [sentence(n, "eng_Latn") for n in chosen],
        ["deu_Latn"] * rows,
        ["eng_Latn"] * rows,
        ["numbers/v1"] * rows,
    ]
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=BITEXT)


def tiny(kind: str = "llama", seed: int = 0, **more: object) -> Model:
    """A random model of one family, three blocks of sixteen, with a tokenizer for the numbers."""
    table = bitext(200)
    tokenizer = train_tokenizer(iter(table["src"].to_pylist() + table["tgt"].to_pylist()), 320)
    config = AutoConfig.for_model(
        kind,
        **{**SHAPES[kind], **more},
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return Model(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
