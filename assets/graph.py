"""A recipe and the place of its data -> all that Dagster is to know of them."""

import dagster as dg

from assets.checks import checks
from assets.corpus import corpus_assets
from assets.locations import RunLocation
from assets.recovery import clear_killed_runs
from assets.refresh import ALIGN, REFRESH_CORPUS, REMAKE_CORPUS, REMAKE_PAIRS, refresh_schedule, refresh_sensor
from assets.resources import StoreResource, TrainerResource
from assets.training import training_assets
from pipelines.config import read_recipe


def define(used: RunLocation) -> dg.Definitions:
    """Everything Dagster is to know; ValueError with one sentence a mistake where the recipe cannot be run."""
    recipe = read_recipe(used.recipe)
    return dg.Definitions(
        assets=[*corpus_assets(recipe), *training_assets(recipe)],
        asset_checks=checks(recipe),
        jobs=[ALIGN, REFRESH_CORPUS, REMAKE_CORPUS, REMAKE_PAIRS],
        schedules=[refresh_schedule(recipe)],
        sensors=[refresh_sensor(recipe), clear_killed_runs],
        resources={
            "store": StoreResource(root=used.store, recipe_name=recipe.name),
            "trainer": TrainerResource(recipe=str(used.recipe), store=used.store),
        },
        executor=dg.in_process_executor,  # one machine, one writer: processes per step would only cost their start
    )
