"""A local base model is checked before any corpus work, by the graph's command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignment_train.config import TrainConfig
from assets.align import is_base_checked
from assets.locations import RunLocation
from pipelines.config import Recipe
from pipelines.storage.store import Store
from tests.support.families import decoder
from tests.support.graph import environment


def test_a_local_base_model_is_refused_before_any_corpus_work(tmp_path: Path) -> None:
    decoder(tmp_path / "model", "gpt2", n_positions=32)
    recipe = {
        "corpus": {"pairs": ["en-de"], "sources": [{"sample": {"rows": 50}}]},
        "train": {"base": {"model": "model"}, "objectives": [{"contrastive": {}}], "max_length": 64},
        "eval": [],
    }

    def align(max_length: int, *flags: str) -> subprocess.CompletedProcess[str]:
        recipe["train"]["max_length"] = max_length
        (tmp_path / "own.yaml").write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "assets", "align", "own.yaml", "--store", "store", *flags]
        return subprocess.run(command, env=environment(tmp_path / "home"), cwd=tmp_path, capture_output=True, text=True)

    refused = "train.max_length: found 64. Expected: at most 32, the positions of GPT2LMHeadModel. Fix: lower "
    run, dry, sound = align(64), align(64, "--dry-run"), align(32, "--dry-run")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(refused)
    assert len(run.stderr.splitlines()) == 1
    assert (dry.returncode, dry.stderr) == (1, "")
    assert dry.stdout.startswith("Recipe own cannot be run: see the base model below. Nothing was downloaded or writ")
    assert "\nmodel: cannot be aligned\n" in dry.stdout
    assert f"\n  problem         {refused}" in dry.stdout
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.startswith("Recipe own is sound.")
    assert "\nmodel: can be aligned\n" in sound.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "own.yaml"], "nothing was written"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, True),
        ({"train": {"max_length": 32}}, False),
        ({"train": {"base": {"model": "other"}}}, False),
        ({"eval": [{"loss": {"source": {"sample": {"split": "heldout"}}}}]}, False),
        ("the files", False),
    ],
)
def test_a_base_model_that_the_store_has_is_not_checked_again(
    change: Any, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "other"):
        Path(name).mkdir()
        Path(name, "config.json").touch()
    settings = {
        "name": "own",
        "corpus": {"pairs": ["en-de"], "sources": [{"sample": {}}]},
        "train": {"base": {"model": "model"}, "objectives": [{"contrastive": {}}], "max_length": 64},
        "eval": [],
    }
    used, recipe = RunLocation(Path("own.yaml"), str(tmp_path / "store")), Recipe.model_validate(settings)
    assert not is_base_checked(used, recipe, TrainConfig.of(recipe))
    with Store.open(used.store, "own").writing("base_model") as out:
        out.commit("some fingerprint", recipe.resolved())
    if isinstance(change, dict):
        changed = {**settings, **change, "train": {**settings["train"], **change.get("train", {})}}
        recipe = Recipe.model_validate(changed)
    elif change:
        later = (Path(used.store) / "base_model" / "manifest.json").stat().st_mtime + 1
        os.utime("model/config.json", (later, later))
    assert is_base_checked(used, recipe, TrainConfig.of(recipe)) is expected
