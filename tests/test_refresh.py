"""A newer release upstream: the refresh remakes the corpus and no model, and Dagster shows the model as stale."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from assets import refresh
from assets.corpus import PER_PAIR, REFRESH
from assets.graph import define
from assets.locations import RunLocation
from assets.refresh import TRIES, refresh_sensor
from assets.resources import StoreResource, TrainerResource
from pipelines.config import Recipe
from pipelines.fetching import lock
from pipelines.languages import Pair
from pipelines.stages import collect
from pipelines.storage.store import Store
from tests.support.models import sentence
from tests.support.opus_server import Mirror

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
        self.definitions = define(RunLocation(folder / "numbers.yaml", str(folder / "store")))
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


class Watched:
    """A store, its recipe and the sensor over three pairs of an unpinned corpus; `made` are collected."""

    def __init__(self, folder: Path, mirror: Mirror, made: tuple[str, ...] = ("de-en", "en-fr", "en-sw", "en-ta")):
        self.mirror = mirror
        for pair in ("de-en", "en-fr", "en-sw", "en-ta"):
            self.publish(pair, "v2024")
        raw = {"pairs": ["de-en", "en-fr", "en-sw", "en-ta"], "sources": [{"opus": {"corpora": ["PythonDocs"]}}]}
        self.recipe = Recipe.model_validate({"name": "watched", "corpus": raw})
        self.store = Store.open(folder / "store", "watched")
        self.make(*made)
        self.sensor = refresh_sensor(self.recipe)
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor: str | None = None

    def publish(self, pair: str, version: str) -> None:
        for record in self.mirror.records:
            if f"{record['source']}-{record['target']}" == pair:
                record["latest"] = "False"
        self.mirror.add(f"PythonDocs/{version}", pair, f"{version}\n".encode(), f"{version}\n".encode())

    def make(self, *pairs: str) -> None:
        for pair in pairs:
            collect.run(self.recipe, self.store, Pair.parse(pair))

    def tick(self) -> tuple[list[dg.RunRequest], str]:
        """The runs that one tick asks for, or why none; the cursor moves on as in Dagster."""
        resource = StoreResource(root=str(self.store.root), recipe_name="watched")
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources={"store": resource})
        result = self.sensor.evaluate_tick(context)
        self.cursor = result.cursor
        return list(result.run_requests or []), str(result.skip_message or "")

    def asked(self) -> list[tuple[str, str, str]]:
        """(job, first, last) of the runs that a tick asks for."""
        return [
            (
                str(request.job_name),
                request.tags["dagster/asset_partition_range_start"],
                request.tags["dagster/asset_partition_range_end"],
            )
            for request in self.tick()[0]
        ]

    def start(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
        run = dg.DagsterRun(job_name=str(request.job_name), tags=dict(request.tags), status=status)
        self.instance.add_run(run)


DE, FR, SW, TA = (str(Pair.parse(pair)) for pair in ("de-en", "en-fr", "en-sw", "en-ta"))


@pytest.fixture
def watched(opus_server: Mirror, tmp_path: Path) -> Watched:
    return Watched(tmp_path, opus_server)


def test_the_sensor_is_off_until_switched_on(watched: Watched) -> None:
    assert watched.sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_where_nothing_moved_nothing_is_asked_for(watched: Watched) -> None:
    for _ in range(2):
        assert watched.tick()[1] == "nothing new upstream"


def test_just_the_pairs_concerned_are_remade_and_the_mix_once(watched: Watched) -> None:
    for pair in ("de-en", "en-fr", "en-ta"):
        watched.publish(pair, "v2025")
    requests = watched.tick()[0]
    assert [
        (request.job_name, request.tags["dagster/asset_partition_range_start"],
         request.tags["dagster/asset_partition_range_end"], request.tags["dagster/priority"])
        for request in requests
    ] == [("remake_pairs", DE, FR, "1"), ("remake_corpus", TA, TA, "0")]  # fmt: skip
    assert len({request.run_key for request in requests}) == 2
    entries = lock.read(watched.store.sources, "opus")
    assert [items[0]["version"] for items in entries.values()] == ["v2025", "v2025", "v2024", "v2025"]


def test_pairs_that_were_never_made_are_nobody_s_news(opus_server: Mirror, tmp_path: Path) -> None:
    watched = Watched(tmp_path, opus_server, made=("de-en",))
    watched.publish("en-fr", "v2025")
    assert watched.asked() == []
    assert not (watched.store.sources / "downloads" / "opus" / "PythonDocs" / "v2025").exists()


def test_the_sensor_waits_for_the_runs_it_asked_for_and_asks_again_for_lost_ones(watched: Watched) -> None:
    watched.publish("de-en", "v2025")
    watched.publish("en-sw", "v2025")
    requests = watched.tick()[0]
    watched.start(requests[0], dg.DagsterRunStatus.SUCCESS)
    watched.start(requests[1], dg.DagsterRunStatus.STARTED)
    watched.make("de-en")
    assert watched.tick()[1].startswith("still at work: ")
    watched.instance.delete_run(watched.instance.get_runs()[0].run_id)  # lost
    again = watched.tick()[0]
    assert [request.tags["dagster/asset_partition_range_start"] for request in again] == [SW]
    assert again[0].run_key != requests[1].run_key
    watched.start(again[0], dg.DagsterRunStatus.SUCCESS)
    watched.make("en-sw")
    assert watched.tick()[1] == "nothing new upstream"


def test_a_run_that_failed_after_its_raw_bitext_is_asked_for_again_but_not_for_ever(watched: Watched) -> None:
    watched.publish("de-en", "v2025")
    for _ in range(TRIES):
        (request,) = watched.tick()[0]
        watched.start(request, dg.DagsterRunStatus.FAILURE)
        watched.make("de-en")
    run = watched.instance.get_runs()[0].run_id
    for _ in range(2):
        reason = watched.tick()[1]
        assert reason.startswith(f"{DE}: asked for 3 times, without success; last runs: {run}.")
    watched.publish("de-en", "v2026")
    assert watched.asked() == [("remake_corpus", DE, DE)]


def test_what_a_lost_tick_moved_is_asked_for_by_the_next(watched: Watched) -> None:
    watched.publish("en-fr", "v2025")
    collect.refresh(watched.recipe, watched.store)
    assert watched.asked() == [("remake_corpus", FR, FR)]


def test_an_api_that_fails_is_a_reason_to_skip(watched: Watched) -> None:
    watched.mirror.close()
    assert "no new byte in 5 tries" in watched.tick()[1]


def test_a_store_that_is_written_is_left_alone(watched: Watched) -> None:
    watched.publish("en-fr", "v2025")
    with watched.store.writer():
        assert "is writing to it" in watched.tick()[1]
    assert watched.asked() == [("remake_corpus", FR, FR)]


def test_a_slow_upstream_is_asked_on_behind_the_scenes(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    watched.publish("en-fr", "v2025")
    monkeypatch.setattr(refresh, "PATIENCE", 0.05)
    watched.mirror.slow = 0.15  # below the time-out of reading
    assert "it is still being asked" in watched.tick()[1]
    monkeypatch.setattr(refresh, "PATIENCE", 30.0)
    with watched.store.writer():  # once the release is here
        pass
    assert watched.asked() == [("remake_corpus", FR, FR)]


def test_evals_that_moved_concern_every_pair(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("Asked/v1", "de-en", b"frage\n", b"question\n")
    watched = Watched(tmp_path, opus_server)
    source = {"opus": {"corpora": ["Asked"]}}
    raw = {"pairs": ["de-en"], "sources": [{"opus": {"corpora": ["PythonDocs", "Asked"]}}]}
    recipe = Recipe.model_validate({"name": "watched", "corpus": raw, "eval": [{"retrieval": {"source": source}}]})
    collect.run(recipe, watched.store, Pair.parse("de-en"))
    collect.run_evals(recipe, watched.store)
    assert collect.moved(recipe, watched.store) == []
    opus_server.add("Asked/v1", "de-en", b"frage\n", b"question\n", latest=False)
    opus_server.add("Asked/v2", "de-en", b"fragen\n", b"questions\n")
    collect.refresh(recipe, watched.store)
    assert collect.moved(recipe, watched.store) == [Pair.parse("de-en")]
    collect.run_evals(recipe, watched.store)
    collect.run(recipe, watched.store, Pair.parse("de-en"))
    assert collect.moved(recipe, watched.store) == []
