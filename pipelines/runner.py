"""The corpus stages in their order, for whoever runs them: the command line, or the graph."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import NamedTuple

from pipelines.config import Recipe
from pipelines.engine import CORES
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, no_progress
from pipelines.stages import clean, collect, decontaminate, dedup, instruct, mix, task_data
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store


class Stage(NamedTuple):
    """One stage: `run` makes `asset`, of one pair, or of the whole recipe where `per_pair` is false."""

    asset: str
    per_pair: bool
    run: Callable[..., Manifest]

    def make(
        self, recipe: Recipe, store: Store, pair: Pair | None = None, on_progress: ProgressCallback = no_progress
    ) -> Manifest:
        """The manifest of the asset, made anew only where its fingerprint changed."""
        return (
            self.run(recipe, store, pair, on_progress=on_progress)
            if self.per_pair
            else self.run(recipe, store, on_progress=on_progress)
        )


STAGES = (
    Stage("eval_text", False, collect.run_evals),
    Stage("raw_bitext", True, collect.run),
    Stage("clean_bitext", True, clean.run),
    Stage("deduped_bitext", True, dedup.run),
    Stage("decontaminated_bitext", True, decontaminate.run),
    Stage("instructions", True, instruct.run),
    Stage("task_data", False, task_data.run),
    Stage("training_mix", False, mix.run),
)
"""Each stage reads only what stages before it made."""


def needed(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe: without tasks there is no task_data."""
    return tuple(stage for stage in STAGES if recipe.corpus.tasks or stage.asset != "task_data")


AT_ONCE = min(4, CORES + 1)
"""Pairs made side by side: one more than cores, as each waits now and then; each takes memory for a DuckDB."""


def side_by_side(
    pairs: Sequence[Pair],
    make: Callable[[Pair, ProgressCallback], Manifest],
    on_progress: ProgressCallback = no_progress,
    store: Store | None = None,
) -> list[Manifest]:
    """`make` of every pair, AT_ONCE at a time; the manifests in the order of `pairs`.

    Those of which `store` has most raw rows begin first: a large one begun last would work alone. The first failure
    stops what has not begun, and is raised; what is made by then stays made.
    """
    if len(pairs) == 1:
        return [make(pairs[0], on_progress)]
    lock, stop, state = threading.Lock(), threading.Event(), dict[Pair, tuple[float, float]]()
    finished: set[Pair] = set()

    def one(pair: Pair) -> Manifest:
        def heard(done: float, total: float = 0, note: str = "") -> None:
            if stop.is_set():
                raise InterruptedError(f"{pair}: stopped, as another pair failed or the run was told to stop.")
            with lock:
                state[pair] = (done, total)
                said()

        manifest = make(pair, heard)
        with lock:
            finished.add(pair)
            said()
        return manifest

    def said() -> None:
        parts = sum(1 if p in finished else min(d / t, 1) if t else 0 for p, (d, t) in state.items())
        parts += len(finished - set(state))
        on_progress(parts, len(pairs), f"{len(finished)} of {len(pairs)} pairs")

    raw = {pair: store.manifest("raw_bitext", pair) if store else None for pair in pairs}
    rows = {pair: made.rows["data"] if made else 0 for pair, made in raw.items()}
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pair") as pool:
        begun = {pair: pool.submit(one, pair) for pair in sorted(pairs, key=lambda pair: -rows[pair])}
        futures = [begun[pair] for pair in pairs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = [f for f in futures if f.done() and not f.cancelled() and f.exception()]
            if failed:
                failed[0].result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [future.result() for future in futures]
