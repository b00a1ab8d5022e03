"""Which recipe and store a command works on, and where Dagster's folder lies. Loads neither Dagster nor torch."""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from pipelines.config import find
from pipelines.fetching.paths import is_address
from pipelines.files import write_atomically

DEFAULT_RECIPE = "sample.yaml"
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables that switch the telemetry of libraries off."""


class RunLocation(NamedTuple):
    """A recipe and the store of its data: absolute paths, or an address such as s3://bucket/prefix."""

    recipe: Path
    store: str


def home() -> Path:
    """Dagster's folder: $DAGSTER_HOME, else .dagster in the working directory."""
    return Path(os.environ.get("DAGSTER_HOME") or ".dagster").absolute()


def prepare_home() -> Path:
    """Create Dagster's folder with the settings of assets/dagster.yaml and name it in the environment."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update({"DAGSTER_HOME": str(folder), **{k: os.environ.get(k, v) for k, v in QUIET.items()}})
    if not (folder / "dagster.yaml").exists():
        shutil.copyfile(Path(__file__).with_name("dagster.yaml"), folder / "dagster.yaml")
    return folder


def resolve_location(recipe: str | None = None, store: str | None = None) -> RunLocation:
    """The recipe and the store to use: the arguments, else $RECIPE and $STORE, else the last used, else the sample's.

    The last used store counts only with the last used recipe: a store belongs to one recipe.
    """
    recipe, store = recipe or os.environ.get("RECIPE"), store or os.environ.get("STORE")
    last = _last_used()
    if not recipe:
        file = Path(last["recipe"]) if Path(last.get("recipe", "/nowhere")).is_file() else find(DEFAULT_RECIPE)
    else:
        file = find(recipe)
    file = file.resolve()
    if not store:
        store = last.get("store") if str(file) == last.get("recipe") else None
    store = store or "store"  # in the working directory
    return RunLocation(file, store if is_address(store) else str(Path(store).absolute()))


def remember(location: RunLocation) -> None:
    """Make `location` the default of the next `resolve_location`."""
    write_atomically(home() / "last.json", json.dumps({"recipe": str(location.recipe), "store": location.store}))


def _last_used() -> dict[str, str]:
    try:
        return json.loads((home() / "last.json").read_text())
    except (OSError, ValueError):
        return {}
