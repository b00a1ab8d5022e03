"""The trainer's own command line, on a machine that has no Dagster, DuckDB or datasets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.config import read_recipe
from pipelines.runner import STAGES
from pipelines.storage.store import Store
from tests.support.models import ROOT

TINY = ROOT / "tests" / "data" / "tiny.yaml"

BARE = """
import sys
from importlib.machinery import PathFinder

ABSENT = {"dagster", "dagster_pipes", "duckdb", "datasets", "requests", "urllib3", "rapidfuzz", "fasttext", "heliport",
          "rensa", "polib", "defusedxml", "ray", "boto3"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
from alignment_train.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def bare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BARE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a training mix and no model."""
    recipe, root = read_recipe(TINY), tmp_path_factory.mktemp("store")
    store = Store.open(root, recipe.name)
    for stage in STAGES:
        for pair in recipe.corpus.pairs if stage.per_pair else (None,):
            stage.make(recipe, store, pair)
    return root


def test_a_machine_without_dagster_duckdb_and_datasets_trains_and_evaluates_from_the_shards(shards: Path):
    done = bare("all", TINY, "--store", shards, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    store = Store(shards)
    base, control, aligned = (store.require(f"{name}_model") for name in ("base", "control", "align"))
    assert base.numbers["base"].startswith("seed: ")
    assert aligned.numbers["rows/contrastive"] == 24 * 16
    assert control.numbers["tokens/language_model"] == aligned.numbers["tokens/language_model"] > 0
    assert "rows/contrastive" not in control.numbers
    assert aligned.numbers["loss_last/contrastive"] < aligned.numbers["loss_first/contrastive"]
    metrics = json.loads((shards / "evaluation" / "metrics.json").read_text())
    assert set(metrics["aligned"]) == set(metrics["base"]) == set(metrics["control"])
    assert metrics["chance"]["retrieval/deu_Latn-eng_Latn/recall@1"] == pytest.approx(1 / 40)

    for folder in ("base_model", "control_model", "align_model"):
        lm, tokenizer = (kind.from_pretrained(shards / folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
        assert torch.isfinite(lm(**tokenizer("Good morning", return_tensors="pt")).logits).all()


def test_what_is_there_is_not_made_again(shards: Path):
    before = {file: file.stat().st_mtime_ns for file in shards.rglob("*_model/*")}
    again = bare("train", TINY, "--store", shards, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert before
    assert {file: file.stat().st_mtime_ns for file in shards.rglob("*_model/*")} == before


def test_missing_shards_end_in_one_sentence_with_the_command(tmp_path: Path):
    done = bare("train", TINY, "--store", tmp_path / "empty")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nothing is in it. Expected: a store with a corpus" in done.stderr
    assert not (tmp_path / "empty").exists()
    assert "make align" in done.stderr


def test_a_mistake_in_the_train_section_is_named_with_its_place(tmp_path: Path):
    file = tmp_path / "bad.yaml"
    file.write_text(f"extends: {TINY}\ntrain:\n  steps: -3\n  objectives: [{{contrastiv: {{}}}}]\n")
    done = bare("train", file, "--store", tmp_path / "store")
    assert done.returncode == 1
    assert "train.steps: found -3" in done.stderr
    assert "train.objectives[0]: no objective 'contrastiv'. Did you mean 'contrastive'?" in done.stderr


def test_a_named_base_model_needs_no_corpus(shards: Path, tmp_path: Path):
    assert bare("base", TINY, "--store", shards, "--device", "cpu").returncode == 0
    file = tmp_path / "named.yaml"
    made = (shards / "base_model").as_posix()
    file.write_text(f"extends: {TINY}\ntrain:\n  base: {{seed: null, model: {made}}}\n")
    done = bare("base", file, "--store", tmp_path / "store", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    weights = [(root / "base_model" / "model.safetensors").read_bytes() for root in (shards, tmp_path / "store")]
    assert weights[0] == weights[1]
    assert Store(tmp_path / "store").require("base_model").numbers["base"] == f"local: {made}"
