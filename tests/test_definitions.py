"""The graph as Dagster sees it, before anything is run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import locations
from assets.graph import define
from assets.locations import RunLocation, remember, resolve_location
from assets.refresh import refresh_schedule
from pipelines.config import find, read_recipe
from tests.support.graph import PAIRS, TINY, environment
from tests.support.models import ROOT

CORPUS = {"raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions"}


def graph(recipe: Path = TINY) -> Any:
    return define(RunLocation(recipe, "/nowhere")).resolve_asset_graph()


def test_every_asset_is_described_grouped_and_versioned() -> None:
    nodes = [graph().get(key) for key in graph().get_all_asset_keys()]
    assert {node.key.to_user_string() for node in nodes} == CORPUS | {
        "eval_text", "training_mix", "base_model", "layer_probe", "control_model", "align_model", "evaluation"
    }  # fmt: skip
    for node in nodes:
        assert node.description
        assert node.group_name in ("corpus", "training", "evaluation")
        assert node.kinds
        assert node.code_version


def test_bitext_is_partitioned_by_pair_in_a_single_run_and_models_are_whole() -> None:
    for key in graph().get_all_asset_keys():
        node = graph().get(key)
        if key.to_user_string() in CORPUS:
            assert node.partitions_def == dg.StaticPartitionsDefinition([str(pair) for pair in PAIRS])
            assert node.backfill_policy == dg.BackfillPolicy.single_run()
        else:
            assert node.partitions_def is None


def test_assets_depend_on_what_their_stage_reads() -> None:
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph().get(key).parent_keys}
        for key in graph().get_all_asset_keys()
    }
    assert parents["raw_bitext"] == set()
    assert parents["decontaminated_bitext"] == {"deduped_bitext", "eval_text"}
    assert parents["training_mix"] == {"decontaminated_bitext", "instructions"}
    assert parents["align_model"] == {"training_mix", "base_model"}
    assert parents["evaluation"] == {"eval_text", "base_model", "control_model", "align_model"}


def test_tasks_have_an_asset_of_their_own_which_the_mix_and_a_refresh_take_in(tmp_path: Path) -> None:
    taught = tmp_path / "tiny.yaml"
    taught.write_text(f"extends: {TINY}\ncorpus: {{tasks: [sample_slots]}}\n")
    with_tasks = graph(taught)
    parents = {
        name: {parent.to_user_string() for parent in with_tasks.get(dg.AssetKey(name)).parent_keys}
        for name in ("task_data", "training_mix")
    }
    assert parents == {
        "task_data": {"eval_text"},
        "training_mix": {"decontaminated_bitext", "instructions", "task_data"},
    }
    job = define(RunLocation(taught, "/nowhere")).resolve_job_def("refresh_corpus")
    assert "task_data" in {key.to_user_string() for key in job.asset_layer.selected_asset_keys}


def test_merged_model_is_there_only_where_the_recipe_merges(tmp_path: Path) -> None:
    merging = tmp_path / "tiny.yaml"
    merging.write_text(f"extends: {TINY}\ntrain: {{adapter: {{lora: {{}}}}, merge: {{adapter: task}}}}\n")
    found = graph(merging)
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in found.get(key).parent_keys}
        for key in found.get_all_asset_keys()
    }
    assert parents["merged_model"] == {"training_mix", "base_model", "align_model"}
    assert "merged_model" in parents["evaluation"]
    assert "merged_model" not in {key.to_user_string() for key in graph().get_all_asset_keys()}


def test_a_changed_filter_changes_the_version_of_clean_bitext_alone(tmp_path: Path) -> None:
    changed = tmp_path / "tiny.yaml"
    changed.write_text(f"extends: {TINY}\ncorpus: {{filters: [char_length, length_ratio, identical]}}\n")
    before, after = (
        {key.to_user_string(): g.get(key).code_version for key in g.get_all_asset_keys()}
        for g in (graph(), graph(changed))
    )
    assert {name for name in before if before[name] != after[name]} == {"clean_bitext"}


def test_checks_state_their_severity() -> None:
    checks = [
        key for assets_def in define(RunLocation(TINY, "/x")).asset_checks or [] for key in assets_def.check_specs
    ]
    assert {spec.name for spec in checks} == {
        "schema_kept", "sides_not_empty", "duplicates_zero", "no_evaluation_overlap", "budget_kept",
        "every_pair_present", "base_is_a_model", "training_loss_fell", "recall_rose", "pivot_kept",
    }  # fmt: skip
    assert all(str(spec.description).startswith(("ERROR: ", "WARN: ")) for spec in checks)


def test_refresh_ends_at_the_training_mix() -> None:
    job = define(RunLocation(TINY, "/nowhere")).resolve_job_def("refresh_corpus")
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == CORPUS | {
        "eval_text",
        "training_mix",
    }


def test_the_schedule_is_off_and_asks_for_every_pair() -> None:
    schedule = refresh_schedule(read_recipe(TINY))
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    (request,) = schedule.evaluate_tick(dg.build_schedule_context()).run_requests or []
    assert request.tags["dagster/asset_partition_range_start"] == "deu_Latn-eng_Latn"
    assert request.tags["dagster/asset_partition_range_end"] == "eng_Latn-swh_Latn"


def test_loading_the_graph_loads_no_torch(tmp_path: Path) -> None:
    heavy = "{'torch', 'transformers', 'ray', 'datasets'}"
    code = f"import sys, assets.definitions, assets.cli; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_a_recipe_with_mistakes_is_refused_in_plain_sentences(tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(f"extends: {TINY}\ncorpus: {{filterz: []}}\n")
    commands = (
        [sys.executable, "-m", "assets", "align", str(recipe)],
        [sys.executable, "-m", "dagster", "asset", "list", "-m", "assets.definitions"],
    )
    for command in commands:
        env = {**environment(tmp_path), "RECIPE": str(recipe)}
        run = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 1
        assert "corpus.filterz: unknown key. Did you mean 'filters'?" in run.stderr
        assert "Traceback" not in run.stderr


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("RECIPE", raising=False)
    monkeypatch.delenv("STORE", raising=False)
    return tmp_path


def test_a_new_home_means_the_sample(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locations.home() == home
    monkeypatch.chdir(home)
    assert resolve_location() == RunLocation(find("sample.yaml").resolve(), str(home / "store"))


def test_defaults_lie_in_the_working_directory_and_never_beside_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert locations.home() == tmp_path / ".dagster"
    env = {name: value for name, value in environment(tmp_path).items() if name != "DAGSTER_HOME"}
    dry = subprocess.run(
        [sys.executable, "-m", "assets", "align", str(TINY), "--dry-run"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert dry.stdout.startswith("Recipe tiny is sound. Nothing was downloaded or written.")
    assert list(tmp_path.iterdir()) == [], "a dry run writes nothing"
    subprocess.run([sys.executable, "-m", "assets", "home"], env=env, cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".dagster"]


def test_the_last_used_place_is_the_default(home: Path) -> None:
    used = RunLocation(TINY, str(home / "run1"))
    remember(used)
    assert resolve_location() == used
    assert resolve_location(store=str(home / "run2")) == RunLocation(TINY, str(home / "run2"))


def test_another_recipe_does_not_get_the_last_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    remember(RunLocation(TINY, str(home / "run1")))
    assert resolve_location("opus8.yaml").store == str(home / "store")


def test_environment_names_recipe_and_store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE", str(TINY))
    monkeypatch.setenv("STORE", "somewhere")
    assert resolve_location() == RunLocation(TINY, str(Path("somewhere").absolute()))


def test_a_store_at_an_address_stays_as_it_is_written(home: Path) -> None:
    remember(resolve_location(str(TINY), "s3://bucket/run1"))
    assert resolve_location() == RunLocation(TINY, "s3://bucket/run1")


def test_a_damaged_memory_is_forgotten(home: Path) -> None:
    (home / "last.json").write_text(json.dumps({"recipe": str(TINY)})[:-3])
    assert resolve_location().recipe.name == "sample.yaml"
