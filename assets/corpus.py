"""Assets from raw bitext to the training mix. Each calls one stage and returns its manifest as metadata."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import dagster as dg

from assets import metadata
from assets.resources import StoreResource, shown, user_errors_as_failures
from pipelines.config import Recipe
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback
from pipelines.registry import Plugin
from pipelines.runner import side_by_side
from pipelines.stages import clean, collect, decontaminate, dedup, instruct, mix, task_data
from pipelines.storage.fingerprint import plugin_modules, source_hashes
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

REFRESH = "isogloss/refresh"
"""Tag of runs in which raw_bitext first asks upstream what there is now."""


@dataclass(frozen=True)
class Stage:
    """A stage and how it appears in the graph."""

    asset: str
    module: ModuleType
    deps: tuple[str, ...]
    kinds: set[str]
    description: str
    settings: Callable[[Recipe], Any] = lambda recipe: None
    plugins: Callable[[Recipe], Sequence[Plugin]] = lambda recipe: ()


PER_PAIR = (
    Stage(
        "raw_bitext", collect, (), {"arrow", "python"},
        "Segment pairs as the recipe's sources hold them, with licence, version and address of every corpus.",
        plugins=lambda recipe: recipe.corpus.sources,
    ),
    Stage(
        "clean_bitext", clean, ("raw_bitext",), {"arrow", "python"},
        "Pairs that every filter keeps, with their scores; the rejected lie beside them with reason and score.",
        plugins=lambda recipe: recipe.corpus.filters,
    ),
    Stage(
        "deduped_bitext", dedup, ("clean_bitext",), {"arrow", "duckdb"},
        "Each pair of segments once.",
    ),
    Stage(
        "decontaminated_bitext", decontaminate, ("deduped_bitext", "eval_text"), {"arrow", "duckdb"},
        "Pairs of which neither side stands in the texts that the evals ask about.",
    ),
    Stage(
        "instructions", instruct, ("decontaminated_bitext",), {"arrow", "python"},
        "Conversations made from bitext and from instruction data: translating, answering across languages.",
        plugins=lambda recipe: recipe.corpus.instructions,
    ),
)  # fmt: skip

EVAL_TEXT = Stage(
    "eval_text", collect, (), {"arrow", "python"},
    "Every text that an eval of the recipe asks about, held out from training.",
    plugins=lambda recipe: recipe.eval,
)  # fmt: skip

TASK_DATA = Stage(
    "task_data", task_data, ("eval_text",), {"arrow", "python"},
    "What the recipe's tasks ask and answer, by language, and what is set aside of it.",
    settings=lambda recipe: recipe.seed,
    plugins=lambda recipe: recipe.corpus.tasks,
)  # fmt: skip

TRAINING_MIX = Stage(
    "training_mix", mix, ("decontaminated_bitext", "instructions"), {"arrow", "duckdb", "huggingface"},
    "Bitext and conversations in the recipe's proportions and under its budget, and the rows set aside for choosing.",
    settings=lambda recipe: [recipe.seed, recipe.corpus.budget.model_dump(mode="json"), recipe.corpus.dev_rows],
)  # fmt: skip


def partitions(recipe: Recipe) -> dg.StaticPartitionsDefinition:
    """One partition a language pair."""
    return dg.StaticPartitionsDefinition([str(pair) for pair in recipe.corpus.pairs])


def all_pairs(recipe: Recipe) -> dict[str, str]:
    """Tags of a run that does every pair."""
    pairs = [str(pair) for pair in recipe.corpus.pairs]
    return {"dagster/asset_partition_range_start": pairs[0], "dagster/asset_partition_range_end": pairs[-1]}


def corpus_assets(recipe: Recipe) -> list[dg.AssetsDefinition]:
    """The assets up to and with training_mix."""
    more = (TASK_DATA.asset,) if recipe.corpus.tasks else ()
    training_mix = replace(TRAINING_MIX, deps=(*TRAINING_MIX.deps, *more))
    return [
        *(_per_pair(recipe, stage) for stage in PER_PAIR),
        _whole(recipe, EVAL_TEXT, lambda store, on_progress: collect.run_evals(recipe, store, on_progress)),
        *_tasks(recipe),
        _whole(recipe, training_mix, lambda store, on_progress: mix.run(recipe, store, on_progress)),
    ]


def _tasks(recipe: Recipe) -> list[dg.AssetsDefinition]:
    """The asset of the tasks, where the recipe has any."""
    if not recipe.corpus.tasks:
        return []
    return [_whole(recipe, TASK_DATA, lambda store, on_progress: task_data.run(recipe, store, on_progress))]


def _per_pair(recipe: Recipe, stage: Stage) -> dg.AssetsDefinition:
    pairs = recipe.corpus.pairs

    @dg.asset(
        name=stage.asset,
        deps=stage.deps,
        partitions_def=partitions(recipe),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="corpus",
        kinds=stage.kinds,
        description=stage.description,
        code_version=_version(recipe, stage),
    )
    def per_pair(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        chosen = [Pair.parse(key) for key in context.partition_keys]
        with user_errors_as_failures():
            open_store = store.open()
            with open_store.writer():
                if stage.module is collect and context.run.tags.get(REFRESH):
                    _refresh(context, recipe, open_store)
                before = {pair: open_store.manifest(stage.asset, pair) for pair in chosen}
                with shown(f"{stage.asset} {chosen[0] if len(chosen) == 1 else ''}".strip()) as progress:
                    run = partial(stage.module.run, recipe, open_store)
                    found = side_by_side(
                        chosen,
                        lambda pair, on_progress: run(pair, on_progress=on_progress),
                        progress.update,
                        open_store,
                    )
                    same = [manifest == before[pair] for pair, manifest in zip(chosen, found, strict=True)]
                    rows = sum(manifest.numbers.get("rows_out", 0) for manifest in found)
                    progress.finish("unchanged" if all(same) else f"{rows:,} rows")
                for pair, manifest, unchanged in zip(chosen, found, same, strict=True):
                    facts = metadata.of(manifest, open_store.where(stage.asset, pair), unchanged)
                    facts |= metadata.samples(open_store, manifest)
                    context.add_asset_metadata(facts, partition_key=str(pair))
        made = [manifest for pair in pairs if (manifest := open_store.manifest(stage.asset, pair))]
        return dg.MaterializeResult(data_version=whole_version(made))

    return per_pair


def _whole(recipe: Recipe, stage: Stage, make: Callable[[Store, ProgressCallback], Manifest]) -> dg.AssetsDefinition:
    @dg.asset(
        name=stage.asset,
        deps=stage.deps,
        group_name="corpus",
        kinds=stage.kinds,
        description=stage.description,
        code_version=_version(recipe, stage),
    )
    def whole(store: StoreResource) -> dg.MaterializeResult:
        with user_errors_as_failures():
            open_store = store.open()
            with open_store.writer():
                manifest, facts = _make(
                    stage.asset, open_store, stage.asset, None, lambda on_progress: make(open_store, on_progress)
                )
        return dg.MaterializeResult(metadata=facts, data_version=dg.DataVersion(manifest.fingerprint))

    return whole


def _make(
    title: str, store: Store, asset: str, pair: Pair | None, stage: Callable[[ProgressCallback], Manifest]
) -> tuple[Manifest, dict[str, Any]]:
    """Run a stage under a progress line; its manifest, and that as metadata."""
    before = store.manifest(asset, pair)
    with shown(title) as progress:
        manifest = stage(progress.update)
        unchanged = before is not None and before == manifest
        facts = metadata.of(manifest, store.where(asset, pair), unchanged)
        progress.finish("unchanged" if unchanged else f"{facts.get('rows_out', 0):,} rows")
    return manifest, facts


def _refresh(context: dg.AssetExecutionContext, recipe: Recipe, store: Store) -> None:
    with shown("asking upstream what there is now") as progress:
        moved = [str(pair) for pair in collect.refresh(recipe, store)]
        progress.finish(", ".join(moved) or "nothing new")
    context.log.info(f"new upstream: {', '.join(moved) or 'nothing'}")


def whole_version(manifests: Iterable[Manifest]) -> dg.DataVersion:
    """One data version for all pairs: Dagster keeps one a run. The hash over the fingerprints of what there is."""
    prints = {manifest.pair: manifest.fingerprint for manifest in manifests}
    return dg.DataVersion(hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest())


def _version(recipe: Recipe, stage: Stage) -> str:
    """Changes with the stage's source, its plug-ins' source and settings: the UI then shows the asset as stale."""
    plugins = stage.plugins(recipe)
    whole = [
        source_hashes([stage.module.__name__, *(name for plugin in plugins for name in plugin_modules(plugin))]),
        stage.settings(recipe),
        [plugin.settings() for plugin in plugins],
    ]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:12]
