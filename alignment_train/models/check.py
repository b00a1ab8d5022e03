"""Whether a model suits a recipe, and what `python -m alignment_train check` prints of it."""

import sys
from pathlib import Path

from alignment_train.config import TrainConfig
from alignment_train.models import adapter as adapters
from alignment_train.models import prefix as prefixes
from alignment_train.models.load import Findings, check_quantization, examine
from alignment_train.models.model import Model
from alignment_train.settings import Base
from alignment_train.training.trainable import find_frozen
from pipelines.config import Recipe, read_recipe, validate
from pipelines.errors import UserError, printable

RECIPES = (".yaml", ".yml")
INDENT = 16


def check(
    name: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
    gguf: str | None = None,
) -> int:
    """Check a model (a folder, GGUF file or hub id), or the one that a recipe names; 0, or 1 where it cannot be used.

    Args:
        gguf: The GGUF file to take of a folder or hub id.
        quiet: Print problems alone.
    """
    if Path(name).suffix in RECIPES and not Path(name).is_dir():
        recipe = read_recipe(name)
        config = TrainConfig.of(recipe)
        base, adapter = config.base, config.adapter
        if base.model is None:
            if not quiet:
                print("base: a seed model, which is made from the corpus. Nothing to check.")
            return 0
    else:
        recipe = config = adapter = None
        settings = {"model": name, "gguf": gguf, "revision": revision, "trust_remote_code": trust_remote_code}
        base = validate(Base, settings, "check")
    model, findings = examine(base, adapter)
    if model and recipe and config:
        model.chat_date = config.chat_date
        with findings.collecting():
            check_recipe(model, recipe, config)
    if not quiet:
        print(printable("\n".join(lines(base.model or "", findings))))
    for problem in findings.problems if quiet else ():
        print(printable(problem), file=sys.stderr)
    return 1 if findings.problems else 0


def check_recipe(model: Model, recipe: Recipe, config: TrainConfig) -> None:
    """UserError, a line for each setting that this model cannot have: lengths, layers, adapters, conversations."""
    findings, limit = Findings(), model.positions
    name = type(model.lm).__name__
    if limit:
        length = config.adapter.prefix.length if config.adapter and config.adapter.prefix else 0
        room, less = limit - length, f" less adapter.prefix.length {length}" if length else ""
        if config.max_length > room:
            findings.problems.append(
                f"train.max_length: found {config.max_length}. Expected: at most {room}, the positions of {name}{less}."
                f" Fix: lower max_length, or take a base model with more positions."
            )
        for i, item in enumerate(recipe.eval):
            tokens = getattr(item, "max_new_tokens", 0)
            if tokens >= room:
                findings.problems.append(
                    f"eval[{i}].{item.name}.max_new_tokens: found {tokens}. Expected: less than {room}, the positions "
                    f"of {name}{less}. Fix: lower it."
                )
    middle = dict.fromkeys(config.poolings, len(model.blocks) // 2)  # in place of `auto`
    for i, objective in enumerate(config.with_layers(middle).objectives):
        try:
            objective.check(len(model.blocks))
        except UserError as error:
            findings.problems.append(f"train.objectives[{i}].{objective.name}.{error}")
    with findings.collecting():
        if getattr(model.lm, "is_quantized", False):
            check_quantization("bitsandbytes", config.adapter, f"train.base {config.base.model}")
    with findings.collecting():
        if config.adapter and config.adapter.lora:
            adapters.lora_targets(model, config.adapter.lora)
        if config.adapter and config.adapter.prefix:
            prefixes.config(model, config.adapter.prefix)
    with findings.collecting():
        find_frozen(model, config.trainable)
    with findings.collecting():
        _ = model.chat if config.uses_chat(recipe) else None
    if findings.problems:
        raise UserError("\n".join(findings.problems))


def lines(name: str, findings: Findings) -> list[str]:
    """The findings as a list, one property a line."""
    out = [f"{name}: {'cannot' if findings.problems else 'can'} be aligned"]
    rows = [*findings.facts.items(), *(("note", note) for note in findings.notes)]
    rows += [("problem", line) for problem in findings.problems for line in problem.splitlines()]
    return out + [f"  {title:<{INDENT}}{text}" for title, text in rows]
