"""Assets from the training mix to the evaluated model. Each starts one task of `alignment_train` in its own process."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from alignment_train.config import TrainConfig
from assets import metadata
from assets.resources import StoreResource, TrainerResource, user_errors_as_failures
from pipelines.config import Recipe
from pipelines.registry import Plugin
from pipelines.results.evaluation_result import read_result
from pipelines.storage.fingerprint import plugin_modules, source_hashes
from pipelines.storage.store import PER_PAIR, Store


@dataclass(frozen=True)
class Task:
    """A task of the trainer and how it appears in the graph."""

    asset: str
    command: str
    deps: tuple[str, ...]
    group: str
    description: str
    code: tuple[str, ...]
    """Modules whose source decides the asset, as in its fingerprint."""


TASKS = (
    Task(
        "base_model", "base", ("decontaminated_bitext", "training_mix"), "training",
        "The model to align: of the hub, of a path, or a small one made from the corpus itself (`seed`).",
        ("alignment_train.models.seed", "alignment_train.training.loop"),
    ),
    Task(
        "layer_probe", "probe", ("training_mix", "base_model"), "training",
        "How well translations in the dev text find each other at every layer of the base model. An objective with "
        "`layer: auto` is trained at the layer that this chooses.",
        ("alignment_train.evaluation.probe", "alignment_train.evaluation.lm"),
    ),
    Task(
        "control_model", "control", ("training_mix", "base_model"), "training",
        "The base model after the same language-model rows as align_model, without contrast: what text alone does.",
        ("alignment_train.training.loop",),
    ),
    Task(
        "align_model", "train", ("training_mix", "base_model"), "training",
        "The base model after the recipe's objectives.",
        ("alignment_train.training.loop",),
    ),
    Task(
        "merged_model", "merge", ("training_mix", "base_model", "align_model"), "training",
        "align_model's adapter merged with one trained apart, at the weights that are best on dev text.",
        ("alignment_train.merge",),
    ),
    Task(
        "evaluation", "eval", ("eval_text", "base_model", "control_model", "align_model", "merged_model"), "evaluation",
        "The recipe's evals of all models side by side, and the report.",
        ("alignment_train.evaluation.evaluate", "alignment_train.evaluation.lm", "alignment_train.layers"),
    ),
)  # fmt: skip
LAYERED = ("control", "train", "eval")  # the commands that need to know at which layer the recipe aligns


def training_assets(recipe: Recipe) -> list[dg.AssetsDefinition]:
    """The assets after training_mix; merged_model only where the recipe merges."""
    config = TrainConfig.of(recipe)
    return [
        _trained(recipe, config, replace(task, deps=_deps(config, task)))
        for task in TASKS
        if task.command != "merge" or config.merge
    ]


def _deps(config: TrainConfig, task: Task) -> tuple[str, ...]:
    """What the task reads: a seed alone is made from the corpus, `layer: auto` asks the probe, `merge` adds a model."""
    if task.command == "base" and not config.base.seed:
        return ()
    deps = tuple(dep for dep in task.deps if dep != "merged_model" or config.merge)
    return (*deps, "layer_probe") if config.needs_probe and task.command in LAYERED else deps


def _trained(recipe: Recipe, config: TrainConfig, task: Task) -> dg.AssetsDefinition:
    @dg.asset(
        name=task.asset,
        deps=task.deps,
        group_name=task.group,
        kinds={"pytorch", "huggingface"},
        description=task.description,
        code_version=_version(recipe, config, task),
    )
    def trained(
        context: dg.AssetExecutionContext, store: StoreResource, trainer: TrainerResource
    ) -> dg.MaterializeResult:
        with user_errors_as_failures():
            open_store = store.open()
            for needed in task.deps:  # here, before torch loads
                for pair in recipe.corpus.pairs if needed in PER_PAIR else (None,):
                    open_store.require(needed, pair)
            before = open_store.manifest(task.asset)
            trainer.run(context, task.command, open_store.root / f"{task.asset}.log")
            manifest = open_store.require(task.asset)
        facts = metadata.of(manifest, open_store.where(task.asset), before is not None and before == manifest)
        return dg.MaterializeResult(
            metadata={**_results(open_store, task), **facts},
            data_version=dg.DataVersion(manifest.fingerprint),
        )

    return trained


def _results(store: Store, task: Task) -> dict[str, Any]:
    """The figures of all models as one table, and the plots; empty for a model."""
    if task.asset == "layer_probe":
        return metadata.plots(store.fetched("layer_probe"))
    if task.asset != "evaluation":
        return {}
    folder = store.fetched("evaluation")
    metrics = read_result(folder)
    return {
        "verdict": store.require("evaluation").numbers["verdict"],
        "verdict_by_language_group": metadata.by_group(metrics),
        "results": metadata.comparison(metrics),
        "report": dg.MetadataValue.path(str(folder / "report.html")),
        **metadata.plots(folder),
    }


def _version(recipe: Recipe, config: TrainConfig, task: Task) -> str:
    """Changes with the trainer's source and with what the recipe says of the task."""
    plugins: Sequence[Plugin] = []
    if task.asset == "evaluation":
        plugins = recipe.eval
        says: Any = [item.settings() for item in recipe.eval]
    elif task.asset == "base_model":
        says = config.base.model_dump(mode="json")
    elif task.asset == "layer_probe":
        says = [config.poolings, config.max_length]
    elif task.asset == "merged_model":
        says = config.merge.model_dump(mode="json") if config.merge else None
    else:
        plugins = config.control if task.asset == "control_model" else config.objectives
        says = config.settings(list(plugins))
    code = source_hashes([*task.code, *(name for plugin in plugins for name in plugin_modules(plugin))])
    whole = [code, recipe.seed, says]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:12]
