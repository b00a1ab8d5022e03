"""Jobs, and the weekly look at what upstream has. A refresh ends at the training mix: it never retrains."""

import dagster as dg

from assets.corpus import EVAL_TEXT, PER_PAIR, REFRESH, TRAINING_MIX, all_pairs
from pipelines.config import Recipe

ALIGN = dg.define_asset_job(
    "align", dg.AssetSelection.all(), description="Everything, from the sources to the evaluated model."
)

REFRESH_CORPUS = dg.define_asset_job(
    "refresh_corpus",
    dg.AssetSelection.assets(*(stage.asset for stage in (*PER_PAIR, EVAL_TEXT, TRAINING_MIX))),
    description="Move the lock of corpora named without a version to what upstream has now and remake what that "
    "changes, up to the training mix. Nothing is retrained: align_model then shows as stale.",
    tags={REFRESH: "true"},
)


def refresh_schedule(recipe: Recipe) -> dg.ScheduleDefinition:
    """Mondays at 04:00; off until switched on."""

    @dg.schedule(
        name="refresh_weekly",
        job=REFRESH_CORPUS,
        cron_schedule="0 4 * * 1",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Refresh the corpus of every pair once a week. Off until switched on.",
    )
    def refresh_weekly() -> dg.RunRequest:
        return dg.RunRequest(tags=all_pairs(recipe))

    return refresh_weekly
