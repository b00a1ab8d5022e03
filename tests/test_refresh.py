"""A newer release upstream: the refresh remakes the corpus and no model, and Dagster shows the model as stale."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from assets.corpus import PER_PAIR, REFRESH
from assets.graph import define
from assets.resources import Place, TrainerResource
from pipelines.store import Store
from tests.mirror import Mirror
from tests.models import sentence

RECIPE = """
corpus:
  pairs: [de-en]
  sources: [{opus: {corpora: [Numbers]}}]
  instructions: [translate]
  dev_rows: 5
train:
  base: seed
  objectives: [contrastive]
"""
PAIR = "deu_Latn-eng_Latn"
CORPUS = [*(stage.asset for stage in PER_PAIR), "eval_text", "training_mix"]


def publish(mirror: Mirror, version: str, rows: int) -> None:
    src, tgt = (
        "".join(f"{sentence(1000 + i, code)}\n" for i in range(rows)).encode() for code in ("deu_Latn", "eng_Latn")
    )
    for record in mirror.records:
        record["latest"] = "False"
    mirror.add(f"Numbers/{version}", "de-en", src, tgt)


def write_a_manifest(trainer: TrainerResource, context: dg.AssetExecutionContext, command: str, log: Path) -> None:
    with Store(trainer.store).writing(context.asset_key.to_user_string()) as out:
        out.commit("as trained", {}, numbers={"steps": 0})


class Graph:
    """The recipe's graph on an instance of its own."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance):
        (folder / "numbers.yaml").write_text(RECIPE)
        self.definitions = define(Place(folder / "numbers.yaml", folder / "store"))
        self.instance = instance

    def refresh(self) -> dict[str, str]:
        """Run the job; the data version of every asset of the corpus."""
        tags = {"dagster/asset_partition_range_start": PAIR, "dagster/asset_partition_range_end": PAIR}
        job = self.definitions.resolve_job_def("refresh_corpus")
        result = job.execute_in_process(instance=self.instance, tags={**tags, REFRESH: "true"})
        made = {
            event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key
        }
        assert made == set(CORPUS)
        return {asset: self.version(asset) for asset in CORPUS}

    def version(self, asset: str) -> str:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return (event.asset_materialization.tags or {})["dagster/data_version"]

    def train(self) -> None:
        """Make base_model and align_model, with what stands in for the trainer."""
        job = self.definitions.resolve_job_def("align")
        chosen = [dg.AssetKey(asset) for asset in ("base_model", "align_model")]
        assert job.execute_in_process(instance=self.instance, asset_selection=chosen).success

    def status(self, asset: str) -> str:
        """FRESH, STALE or MISSING, as the UI shows it."""
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return resolver.get_status(dg.AssetKey(asset)).name


def test_a_refresh_remakes_the_corpus_where_upstream_moved_and_leaves_the_model_stale(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPUS_URL", opus_server.url)
    monkeypatch.setattr(TrainerResource, "run", write_a_manifest)
    publish(opus_server, "v1", 100)
    lock = tmp_path / "store" / "sources" / "lock.json"
    with dg.DagsterInstance.ephemeral() as instance:
        graph = Graph(tmp_path, instance)
        first = graph.refresh()
        graph.train()
        assert graph.status("align_model") == "FRESH"

        written = lock.stat().st_mtime_ns
        assert graph.refresh() == first
        assert lock.stat().st_mtime_ns == written
        assert graph.status("align_model") == "FRESH"

        publish(opus_server, "v2", 120)
        second = graph.refresh()
        assert {asset for asset in CORPUS if second[asset] != first[asset]} == set(CORPUS) - {"eval_text"}
        assert graph.status("align_model") == "STALE"
        assert graph.version("align_model") == "as trained"
