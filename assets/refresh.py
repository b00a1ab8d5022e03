"""Jobs, the weekly refresh, and the sensor that watches upstream releases. None of them ever retrains.

The sensor keeps no list of what it did: which pairs lag behind the lock file is seen from the store, and its cursor
says only which runs it asked for last, so that one that was lost or failed is asked for again.
"""

import hashlib
import json
import threading
from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.corpus import EVAL_TEXT, PER_PAIR, REFRESH, TRAINING_MIX, all_pairs
from assets.resources import StoreResource
from pipelines.config import Recipe
from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.stages import collect
from pipelines.storage.errors import StoreError
from pipelines.storage.store import Store

REQUEST = "isogloss/refresh_request"
"""Tag of the runs that one tick of the sensor asked for."""

EVERY = 3600  # seconds between two looks
PATIENCE = 40.0  # seconds that a tick waits for upstream; Dagster gives up a tick after 60
TRIES = 3  # times that runs for the same pairs and releases are asked for

_IDLE = dg.AssetSelection.assets("layer_probe") - dg.AssetSelection.assets("evaluation").upstream()

ALIGN = dg.define_asset_job(
    "align",
    dg.AssetSelection.all() - _IDLE,
    description="Everything, from the sources to the evaluated model; the probe of layers where a layer is 'auto'.",
)

_PAIRS = (*(stage.asset for stage in PER_PAIR), EVAL_TEXT.asset)

_CORPUS = dg.AssetSelection.assets(TRAINING_MIX.asset).upstream()

REFRESH_CORPUS = dg.define_asset_job(
    "refresh_corpus",
    _CORPUS,
    description="Move the lock of corpora named without a version to what upstream has now and remake what that "
    "changes, up to the training mix. Nothing is retrained: align_model then shows as stale.",
    tags={REFRESH: "true"},
)

REMAKE_CORPUS = dg.define_asset_job(
    "remake_corpus",
    _CORPUS,
    description="Remake the corpus of some pairs from the releases that the lock has, and the training mix.",
)

REMAKE_PAIRS = dg.define_asset_job(
    "remake_pairs",
    dg.AssetSelection.assets(*_PAIRS),
    description="Remake the corpus of some pairs from the releases that the lock has, without the training mix.",
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


def refresh_sensor(recipe: Recipe) -> dg.SensorDefinition:
    """Hourly; off until switched on."""

    @dg.sensor(
        name="refresh_upstream",
        jobs=[REMAKE_CORPUS, REMAKE_PAIRS],
        minimum_interval_seconds=EVERY,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Ask upstream for newer releases of corpora named without a version, move the lock, and remake "
        "just the pairs concerned, then the training mix once. Off until switched on.",
    )
    def refresh_upstream(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult:
        last = json.loads(context.cursor or "{}")
        runs = _runs(context.instance, last)
        if going := [run.run_id for run in runs if not run.is_finished]:
            return _skip(f"still at work: {', '.join(going)}", last)
        try:
            open_store = store.open()
            trouble = _refresh(recipe, open_store)
            moved = set(collect.moved(recipe, open_store))
        except UserError as error:
            return _skip(str(error), last)
        done = {_range(run.tags) for run in runs if run.is_success}
        lost = [pair for ends in last.get("ranges", []) if tuple(ends) not in done for pair in _between(recipe, *ends)]
        pairs = [pair for pair in recipe.corpus.pairs if pair in moved or pair in lost]
        if not pairs:
            return _skip(trouble or "nothing new upstream", {})
        state = _state(open_store, pairs)
        tries = last["tries"] + 1 if last.get("state") == state else 1
        if tries > TRIES:
            ids = ", ".join(run.run_id for run in runs if not run.is_success) or "none was started"
            return _skip(
                f"{', '.join(map(str, pairs))}: asked for {TRIES} times, without success; last runs: {ids}. Look at "
                f"them, then run the job 'remake_corpus' for these pairs.",
                last,
            )
        asked = {"state": state, "tries": tries, "ranges": _ranges(recipe, pairs)}
        return dg.SensorResult(run_requests=list(_requests(asked)), cursor=json.dumps(asked))

    return refresh_upstream


def _skip(reason: str, cursor: dict[str, Any]) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=json.dumps(cursor))


def _refresh(recipe: Recipe, store: Store) -> str | None:
    """Move the lock; what upstream did wrong, if anything. ValueError where the store is not free for runs now.

    After PATIENCE the work goes on behind the scenes. That loses nothing: the next tick sees from the store what moved.
    """
    failed: list[Exception] = []

    def work() -> None:
        try:
            with store.writer(patience=0):
                collect.refresh(recipe, store)
        except Exception as error:  # whatever upstream does, the next tick asks again
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        raise UserError(f"upstream has not answered in full for {PATIENCE:g} seconds; it is still being asked")
    if failed and isinstance(failed[0], StoreError):
        raise failed[0]
    return (str(failed[0]) if isinstance(failed[0], UserError) else repr(failed[0])) if failed else None


def _runs(instance: dg.DagsterInstance, asked: dict[str, Any]) -> list[dg.DagsterRun]:
    """The runs that were started for a request, re-executions by hand too."""
    if not asked:
        return []
    return list(instance.get_runs(dg.RunsFilter(tags={REQUEST: _name(asked)})))


def _name(asked: dict[str, Any]) -> str:
    return f"{asked['state']}-{asked['tries']}"


def _state(store: Store, pairs: Iterable[Pair]) -> str:
    """Names the pairs and what the lock has now."""
    file = store.sources / "lock.json"
    digest = hashlib.sha256(file.read_bytes() if file.exists() else b"")
    digest.update(" ".join(map(str, pairs)).encode())
    return digest.hexdigest()[:12]


def _ranges(recipe: Recipe, pairs: list[Pair]) -> list[list[str]]:
    """First and last pair of each row of neighbours: a run of Dagster takes a range of partitions."""
    out: list[list[str]] = []
    before = None
    for place, pair in enumerate(recipe.corpus.pairs):
        if pair in pairs:
            if before == place - 1 and out:
                out[-1][1] = str(pair)
            else:
                out.append([str(pair), str(pair)])
            before = place
    return out


def _between(recipe: Recipe, first: str, last: str) -> list[Pair]:
    """The pairs of a range; none where the recipe has changed."""
    names = [str(pair) for pair in recipe.corpus.pairs]
    if first not in names or last not in names:
        return []
    return recipe.corpus.pairs[names.index(first) : names.index(last) + 1]


def _range(tags: Any) -> tuple[str | None, str | None]:
    return tags.get("dagster/asset_partition_range_start"), tags.get("dagster/asset_partition_range_end")


def _requests(asked: dict[str, Any]) -> Iterable[dg.RunRequest]:
    """A run a range; the last one, which waits for the others in the queue, makes the training mix as well."""
    for place, (first, last) in enumerate(asked["ranges"], start=1):
        final = place == len(asked["ranges"])
        yield dg.RunRequest(
            run_key=f"{_name(asked)} {first} {last}",
            job_name=(REMAKE_CORPUS if final else REMAKE_PAIRS).name,
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
                "dagster/priority": "0" if final else "1",
                REQUEST: _name(asked),
            },
        )
