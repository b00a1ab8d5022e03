"""What the tests of the graph share: the tiny recipe, its definitions with any trainer, and the main command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg

from assets.corpus import corpus_assets
from assets.resources import StoreResource, TrainerResource
from assets.training import training_assets
from pipelines.config import read_recipe
from pipelines.languages import Pair
from pipelines.storage.store import Store
from tests.support.models import ROOT

TINY = ROOT / "tests" / "data" / "tiny.yaml"
PAIRS = (Pair("deu_Latn", "eng_Latn"), Pair("eng_Latn", "swh_Latn"))
EVERY_PAIR = {
    "dagster/asset_partition_range_start": str(PAIRS[0]),
    "dagster/asset_partition_range_end": str(PAIRS[-1]),
}


def run(
    store: Path, *assets: str, trainer: list[str] | None = None, tags: dict[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    """Materialise assets of the tiny recipe in this process; `trainer` is a command that stands in for the real one."""
    recipe = read_recipe(TINY)
    resources = {
        "store": StoreResource(root=str(store), recipe_name=recipe.name),
        "trainer": TrainerResource(recipe=str(TINY), store=str(store), **({"command": trainer} if trainer else {})),
    }
    return dg.materialize(
        [*corpus_assets(recipe), *training_assets(recipe)],
        selection=dg.AssetSelection.assets(*assets),
        resources=resources,
        tags=EVERY_PAIR if tags is None else tags,
        raise_on_error=False,
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The sentence of the step that failed."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    return str(data and data.description)


def environment(home: Path) -> dict[str, str]:
    """Of a command whose Dagster lives in `home`; one thread, so that equal runs give equal weights."""
    clean = {name: value for name, value in os.environ.items() if name not in ("RECIPE", "STORE")}
    return {**clean, "DAGSTER_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def align(store: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """`make align` of the tiny recipe, in an empty network namespace where the machine lets us make one."""
    alone = ["unshare", "--map-root-user", "--net"]
    offline = shutil.which("unshare") and subprocess.run([*alone, "true"], stderr=subprocess.DEVNULL).returncode == 0
    command = [*(alone if offline else []), sys.executable, "-m", "assets", "align", str(TINY), "--store", str(store)]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, cwd=ROOT)


def hashes(store: Path) -> dict[str, str]:
    """SHA-256 of every shard and of all weights in a store, by path."""
    opened, out = Store(store), {}
    for asset in ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions"):
        for pair in PAIRS:
            out |= {f"{asset}/{pair}/{file}": sha for file, sha in opened.require(asset, pair).files.items()}
    for asset in ("eval_text", "training_mix", "base_model", "control_model", "align_model"):
        out |= {f"{asset}/{file}": sha for file, sha in opened.require(asset).files.items()}
    return {file: sha for file, sha in out.items() if file.endswith((".arrow", ".safetensors"))}
