"""Assets run for real on the tiny recipe: what they store, what they tell Dagster, and how they fail."""

import json
import shutil
import signal
import sys
from pathlib import Path

import dagster as dg
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from assets import metadata
from assets.checks import checks
from assets.corpus import PER_PAIR, REFRESH, corpus_assets, whole_version
from assets.resources import StoreResource
from pipelines.config import read_recipe
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from tests.support.graph import EVERY_PAIR, PAIRS, TINY, failure, hashes, run

CORPUS = [*(stage.asset for stage in PER_PAIR), "eval_text", "training_mix"]
HOSTILE = "<script>alert(1)</script> | `x` ](javascript:1) \x1b[2J"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dg.ExecuteInProcessResult]:
    store = tmp_path_factory.mktemp("corpus") / "store"
    return store, run(store, *CORPUS)


def facts(result: dg.ExecuteInProcessResult, asset: str) -> dict[str | None, dict[str, object]]:
    """Metadata values of the asset's materialisations by partition."""
    return {
        item.partition: {key: value.value for key, value in item.metadata.items()}
        for item in result.asset_materializations_for_node(asset)
    }


def test_one_run_makes_every_pair_and_tells_each_its_own_rows(
    corpus: tuple[Path, dg.ExecuteInProcessResult],
) -> None:
    store, result = corpus
    assert result.success
    for stage in PER_PAIR:
        told = facts(result, stage.asset)
        assert set(told) == {str(pair) for pair in PAIRS}
        for pair in PAIRS:
            manifest = Store(store).require(stage.asset, pair)
            assert told[str(pair)]["rows_out"] == manifest.rows["data"]
            assert told[str(pair)]["fingerprint"] == manifest.fingerprint
            assert told[str(pair)]["unchanged"] is False
            assert {"bytes", "seconds", "peak_memory_bytes"} <= set(told[str(pair)])


def test_the_drop_ledger_and_samples_are_tables(corpus: tuple[Path, dg.ExecuteInProcessResult]) -> None:
    _, result = corpus
    (item, *_) = result.asset_materializations_for_node("clean_bitext")
    ledger = item.metadata["ledger"]
    assert isinstance(ledger, dg.TableMetadataValue)
    assert [column.name for column in ledger.schema.columns] == ["step", "corpus", "into", "dropped", "kept", "changed"]
    into, dropped, kept = (
        sum(int(str(row.data[name])) for row in ledger.records) for name in ("into", "dropped", "kept")
    )
    assert into - dropped == kept
    assert dropped > 0
    assert isinstance(item.metadata["samples_dropped"], dg.TableMetadataValue)
    assert "data:image/svg+xml;base64," in str(item.metadata["plot_ledger"].value)
    shown = item.metadata["samples_by_step"]
    assert isinstance(shown, dg.TableMetadataValue)
    assert "kept" in {row.data["step"] for row in shown.records}
    assert len(shown.records) > 10


def test_a_second_run_says_unchanged_and_rewrites_nothing(corpus: tuple[Path, dg.ExecuteInProcessResult]) -> None:
    store, first = corpus
    before = {file: file.stat().st_mtime_ns for file in store.rglob("data-*.arrow")}
    second = run(store, *CORPUS, tags={**EVERY_PAIR, REFRESH: "true"})
    assert second.success
    assert {file: file.stat().st_mtime_ns for file in store.rglob("data-*.arrow")} == before
    for asset in CORPUS:
        assert all(told["unchanged"] is True for told in facts(second, asset).values())
        versions = [
            {(item.tags or {})["dagster/data_version"] for item in result.asset_materializations_for_node(asset)}
            for result in (first, second)
        ]
        assert versions[0] == versions[1]
        assert len(versions[0]) == 1


def test_one_pair_can_be_made_alone(tmp_path: Path) -> None:
    result = run(tmp_path / "store", "raw_bitext", tags={"dagster/partition": str(PAIRS[1])})
    assert set(facts(result, "raw_bitext")) == {str(PAIRS[1])}
    assert Store(tmp_path / "store").manifest("raw_bitext", PAIRS[0]) is None


def test_the_data_version_of_all_pairs_depends_on_every_fingerprint() -> None:
    one, two = (Manifest(asset="raw_bitext", pair=str(pair), fingerprint="x") for pair in PAIRS)
    changed = two.model_copy(update={"fingerprint": "y"})
    assert whole_version([one, two]) == whole_version([two, one])
    assert len({whole_version(made).value for made in ([one], [one, two], [one, changed])}) == 3


def test_checks_pass_on_a_sound_corpus_and_find_what_is_wrong(corpus: tuple[Path, dg.ExecuteInProcessResult]) -> None:
    store, _ = corpus
    recipe = read_recipe(TINY)
    names = {
        "schema_kept",
        "sides_not_empty",
        "duplicates_zero",
        "no_evaluation_overlap",
        "budget_kept",
        "every_pair_present",
    }
    chosen = [item for item in checks(recipe) if names & {spec.name for spec in item.check_specs}]

    def verdicts(root: Path) -> dict[str, bool]:
        result = dg.materialize(
            [*corpus_assets(recipe), *chosen],
            selection=dg.AssetSelection.checks(*chosen),
            resources={"store": StoreResource(root=str(root), recipe_name="tiny")},
            raise_on_error=False,
        )
        return {
            f"{e.asset_key.to_user_string()}/{e.check_name}": e.passed for e in result.get_asset_check_evaluations()
        }

    sound = verdicts(store)
    assert len(sound) == 11
    assert all(sound.values())

    spoilt = store.with_name("spoilt")
    shutil.copytree(store, spoilt)
    opened = Store(spoilt)
    texts = opened.table("eval_text").filter(pc.field("lang") == "deu_Latn")["text"].to_pylist()
    for asset in ("clean_bitext", "deduped_bitext", "decontaminated_bitext"):
        rows = opened.table(asset, PAIRS[0])
        row = rows.slice(0, 1).to_pylist()[0]
        bad = pa.RecordBatch.from_pylist([row, {**row, "src": " "}, {**row, "src": texts[0]}], schema=rows.schema)
        with opened.writing(asset, PAIRS[0]) as out:
            for batch in (*rows.to_batches(), bad):
                out.write(batch)
            out.commit("spoilt", {})
    wrong = {name for name, passed in verdicts(spoilt).items() if not passed}
    assert wrong == {
        "clean_bitext/sides_not_empty",
        "deduped_bitext/duplicates_zero",
        "decontaminated_bitext/no_evaluation_overlap",
    }


def test_corpus_text_reaches_dagster_only_in_tables() -> None:
    manifest = Manifest(
        asset="clean_bitext", pair=str(PAIRS[0]), fingerprint="x", rows={"data": 1},
        samples={"kept": [{"src": HOSTILE, "tgt": HOSTILE}]}, corpora={HOSTILE: {"licence": HOSTILE}},
    )  # fmt: skip
    for name, value in metadata.of(manifest, "/x", False).items():
        assert not isinstance(value, dg.MarkdownMetadataValue), name
        if isinstance(value, dg.TableMetadataValue):
            assert HOSTILE in value.records[0].data.values()
        else:
            assert "script" not in str(value), name


def test_plots_are_images_in_markdown(tmp_path: Path) -> None:
    (tmp_path / "loss.png").write_bytes(b"\x89PNG")
    assert metadata.plots(tmp_path)["plot_loss"].md_str == "![loss](data:image/png;base64,iVBORw==)"


def test_without_shards_align_model_fails_in_a_sentence_before_any_trainer_starts(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    result = run(tmp_path / "store", "align_model", trainer=["touch", str(mark)], tags={})
    assert failure(result) == (
        f"store {tmp_path / 'store'}: has no training_mix. Expected: this dataset, which the next step reads. "
        "Fix: make it with 'make align', or with 'dagster asset materialize --select training_mix'."
    )
    assert not mark.exists()


def trained_store(corpus: Path, tmp_path: Path) -> Path:
    """A copy of the corpus in which a base model seems to be made."""
    store = tmp_path / "store"
    shutil.copytree(corpus, store)
    with Store(store).writing("base_model") as out:
        out.commit("base", {})
    return store


def test_a_trainer_that_dies_fails_its_asset_with_the_tail_of_its_log(
    corpus: tuple[Path, dg.ExecuteInProcessResult], tmp_path: Path
) -> None:
    store = trained_store(corpus[0], tmp_path)
    code = "import sys; print('\\n'.join(f'line {i}' for i in range(100))); sys.exit(3)"
    said = failure(run(store, "align_model", trainer=[sys.executable, "-c", code], tags={}))
    assert said.startswith("alignment_train train ended with code 3. It said last:\n  line 75\n")
    assert said.endswith(f"  line 99\nAll it said: {store / 'align_model.log'}")
    assert (store / "align_model.log").read_text().startswith("line 0\n")


def test_a_trainer_that_was_killed_is_named_so(corpus: tuple[Path, dg.ExecuteInProcessResult], tmp_path: Path) -> None:
    store = trained_store(corpus[0], tmp_path)
    code = "import os; os.kill(os.getpid(), 9)"
    said = failure(run(store, "align_model", trainer=[sys.executable, "-c", code], tags={}))
    assert said.startswith("alignment_train train was killed by SIGKILL, often for want of memory.")


def test_a_run_that_is_told_to_stop_stops_its_trainer(
    corpus: tuple[Path, dg.ExecuteInProcessResult], tmp_path: Path
) -> None:
    store = trained_store(corpus[0], tmp_path)
    mark = tmp_path / "pid"
    code = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def stop(*_: object) -> None:
        if mark.exists() and mark.read_text():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        result = run(store, "align_model", trainer=[sys.executable, "-c", code], tags={})
        assert not result.success
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not psutil.pid_exists(int(mark.read_text()))


@pytest.mark.slow
def test_the_main_command_makes_everything_and_shows_it(
    unbroken: tuple[Path, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, home, said = unbroken
    for asset in (*CORPUS, "base_model", "control_model", "align_model", "evaluation"):
        assert (store / asset).is_dir()
    assert len(hashes(store)) > 20
    assert "base  control  aligned  chance" in said
    assert f"Report: {store / 'evaluation' / 'report.html'}" in said
    metrics = json.loads((store / "evaluation" / "metrics.json").read_text())
    assert {"base", "control", "aligned"} <= set(metrics)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        (made,) = instance.get_runs()
        assert (made.job_name, made.status) == ("align", dg.DagsterRunStatus.SUCCESS)
        event = instance.get_latest_materialization_event(dg.AssetKey("evaluation"))
        assert event is not None
        assert event.asset_materialization is not None
        assert {"results", "report", "seconds"} <= set(event.asset_materialization.metadata)
        logs = [entry.user_message for entry in instance.all_logs(made.run_id)]
    assert any("align_model" in line and "tokens/s" in line for line in logs)  # streamed through Pipes
