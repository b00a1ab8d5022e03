"""A base model from a local folder or a hub."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from alignment_train.config import Base
from alignment_train.model import Model
from pipelines.errors import UserError


def load(where: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Model:
    """The model at a local path or of a hub id, in float32.

    Code that lies beside its weights is run where `trust_remote_code` says so, else only transformers' own. ValueError
    where it cannot be had, with the reason.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
        lm = AutoModelForCausalLM.from_pretrained(
            where, revision=revision, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise UserError(
                f"train.base {where}: found code of its own beside the weights, which was not run. Allowed: models of "
                f"transformers, or trust_remote_code: true. Read the code, and where you trust it write base: "
                f"{{model: {where}, trust_remote_code: true}}."
            ) from None
        raise UserError(
            f"train.base {where}: cannot be loaded: {str(error).splitlines()[0]} Allowed: 'seed', a local folder, or "
            f"a hub id that this machine can reach. Download it, name its folder, or take 'seed'."
        ) from None
    if getattr(lm, "_hf_peft_config_loaded", False):
        raise UserError(
            f"train.base {where}: found an adapter. Allowed: a whole model. Merge the adapter into its base with "
            f"PEFT's merge_and_unload, save that, and name its folder."
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer {type(tokenizer).__name__}: has no offsets. Allowed: a fast tokenizer. "
            f"Convert it to tokenizer.json."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Model(lm, tokenizer)


def untrained(where: str | Path, seed: int) -> Model:
    """A model of the shape and with the tokenizer of the one at `where`, its weights random, by `seed`."""
    config, tokenizer = AutoConfig.from_pretrained(where), AutoTokenizer.from_pretrained(where)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(AutoModelForCausalLM.from_config(config, dtype=torch.float32), tokenizer)


def load_base(base: Base) -> Model:
    """The model that a recipe names by path or hub id."""
    if base.model is None:
        raise AssertionError("a seed model is made, not loaded")
    return load(base.model, base.revision, base.trust_remote_code)
