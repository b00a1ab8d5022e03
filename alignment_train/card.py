"""A model card in the hub's format: what the store knows of a model and its data -> README.md. Text only, no torch.

Source: the card's keys, https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

from alignment_train.config import TrainConfig
from pipelines import languages
from pipelines.config import Recipe
from pipelines.errors import quoted
from pipelines.report.data_card import cell, fenced, front_matter, public, sources, table
from pipelines.report.format import plain
from pipelines.results.measures import label, measure_of
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import Metrics, models, summary
from pipelines.results.verdict import verdict
from pipelines.storage.store import Store

FILE = "README.md"
WAYS = {
    "align_model": "The base model after the objectives of the recipe below.",
    "control_model": "The base model after the same rows as its aligned sister, without the objectives that align: a "
    "control, not meant for use.",
    "merged_model": "The base model with two adapters made one: that of the recipe below and one trained apart, at the "
    "weights that were best on dev text.",
}


def card(
    recipe: Recipe,
    store: Store,
    asset: str,
    numbers: Mapping[str, Any],
    name: str | None = None,
    metrics: Metrics | None = None,
) -> str:
    """The card of a model that was trained or merged.

    numbers: those of its manifest; name: its id on the hub, where it is to be loaded from, instead of its folder in
    the store; metrics: of the evaluation, where the model was evaluated.
    """
    config, numbers = TrainConfig.of(recipe), public(numbers)
    own, apart = data(store), numbers.get("data_of_adapter", [])
    parts = [
        front_matter(_metadata(recipe, config, [*own, *apart])),
        f"# {cell(name or f'{asset} of {recipe.name}')}",
        f"{WAYS[asset]} Made by Isogloss to treat its languages as one: "
        f"{', '.join(map(languages.name, recipe.corpus.languages))}.",
        *_dequantised(config),
        "## How to load it",
        _loading(config, name, asset),
        "## Data",
        "The licences are those that the corpora state; which of them bind the model is for its users to judge. "
        "Rows are those of the training mix.",
        table(own) if own else "The training mix names no corpus.",
        *(["The adapter trained apart:", table(apart)] if apart else []),
        "## Training",
        table({"figure": key, "value": value} for key, value in numbers.items() if not isinstance(value, list)),
    ]
    if candidates := numbers.get("candidates"):
        parts += [f"Candidates, of which {numbers['chosen_by']} chose one:", table(candidates)]
    parts += [
        "<details><summary>The recipe, with all defaults</summary>",
        fenced(public(recipe.resolved())),
        "</details>",
        "## Evaluation",
        _evaluation(recipe, metrics) if metrics else "Not part of this card.",
    ]
    return "\n\n".join(parts) + "\n"


def data(store: Store) -> list[dict[str, Any]]:
    """{corpus, version, licence, rows, url, citation} of every corpus in the training mix of a store."""
    mix = store.require("training_mix")
    return public(sources(mix.corpora, mix.numbers))


def _metadata(recipe: Recipe, config: TrainConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The YAML in front. The licence is `other`: those of data and base model decide, and they are many."""
    adapter, base = config.adapter, config.base.hub
    kind = [] if adapter is None else ["lora" if adapter.lora else "prefix-tuning"]
    based = {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"} if base else {}
    return {
        "language": sorted({languages.alpha2(code) for code in recipe.corpus.languages}),
        **based,
        "license": "other",
        "data_licences": sorted({row["licence"] for row in rows}),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["isogloss", "cross-lingual-alignment", *kind],
    }


def _dequantised(config: TrainConfig) -> list[str]:
    """Which GGUF file the base model is, where it is one: by its name, for paths of this machine stay here."""
    file = config.base.gguf or (config.base.gguf_file.name if config.base.gguf_file else None)
    if file is None:
        return []
    of = f" of {cell(config.base.hub)}" if config.base.hub else ""
    return [f"The base model is the GGUF file {cell(file)}{of}, dequantised to float32."]


def _loading(config: TrainConfig, name: str | None, asset: str) -> str:
    """Python that loads the model."""
    where, trust = name or asset, ", trust_remote_code=True" if config.base.trust_remote_code else ""
    lines = [f"tokenizer = AutoTokenizer.from_pretrained({_literal(where)}{trust})"]
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if not config.adapter:
        lines += [f"model = AutoModelForCausalLM.from_pretrained({_literal(where)}{trust})"]
    else:
        imports = ["from peft import PeftModel", *imports]
        if config.base.hub:
            revision = f", revision={_literal(config.base.revision)}" if config.base.revision else ""
            file = f", gguf_file={_literal(config.base.gguf)}" if config.base.gguf else ""
            base = f"{_literal(config.base.hub)}{file}{revision}"
        else:
            base = f'{_literal(name)}, subfolder="base_model"' if name else '"base_model"'
        lines += [
            f"base = AutoModelForCausalLM.from_pretrained({base}{trust})",
            f"model = PeftModel.from_pretrained(base, {_literal(where)})",
        ]
    inside = "" if name else "In the folder of the store:\n\n"
    return inside + "```python\n" + "\n".join([*imports, "", *lines]) + "\n```"


def _literal(text: str) -> str:
    """A text as Python code, in double quotes."""
    return json.dumps(quoted(text, 500).replace("`", "'"), ensure_ascii=False)


def _evaluation(recipe: Recipe, metrics: Metrics) -> str:
    """The verdict and the figures of all models side by side; rates in percent."""
    found = verdict(metrics, recipe.corpus.pivot)
    rows = []
    for row in summary(metrics):
        figures = {name: plain(row[name], measure_of(row["key"])) for name in (*models(metrics), "chance")}
        said = label(MetricKey.parse(row["key"]).task, row["metric"])
        rows.append({"held-out text": row["subject"], "metric": said, **figures})
    return "\n\n".join([f"{found.headline}.", "\n".join(f"- {cell(line)}" for line in found.findings), table(rows)])
