import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.__main__ import main
from pipelines.config import read_recipe
from pipelines.fetching import lock
from pipelines.fetching.paths import filesystem, inside
from pipelines.runner import STAGES
from pipelines.storage import remote
from pipelines.storage import writer as writer_module
from pipelines.storage.errors import StoreError
from pipelines.storage.manifest import Manifest
from pipelines.storage.remote import RemoteError
from pipelines.storage.store import Store
from pipelines.storage.verification import verify

TINY = Path(__file__).parent / "data" / "tiny.yaml"
ASSET, PAIR = "decontaminated_bitext", "deu_Latn-eng_Latn"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def address(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store's address in a bucket of this test's own, with this machine's working copy below `tmp_path`."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "ISOGLOSS_CACHE": str(tmp_path / "here"),
    }.items():
        monkeypatch.setenv(name, value)
    bucket = tmp_path.name.replace("_", "-").lower()
    urllib.request.urlopen(urllib.request.Request(f"{server}/{bucket}", method="PUT"))
    return f"s3://{bucket}/runs/one"


def put(store: Store, rows: int, parts: tuple[str, ...] = ("data", "rejected"), fingerprint: str = "f") -> Manifest:
    with store.writing(ASSET, PAIR) as out:
        for part in parts:
            out.write(pa.record_batch({"x": list(range(rows))}), part)
        return out.commit(f"{fingerprint}{rows}", {})


def objects(address: str) -> list[str]:
    """The files at an address, relative to it."""
    return sorted(name.removeprefix(f"{inside(address)}/") for name in filesystem(address).find(inside(address)))


def local(store: Store) -> list[str]:
    folder = store.folder(ASSET, PAIR)
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_recipe_gives_the_hashes_of_a_local_store_and_another_machine_finds_it_made(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(TINY), "--store", address]) == 0
    assert main([str(TINY), "--store", str(tmp_path / "local")]) == 0
    shared, here = Store(address), Store(tmp_path / "local")
    assert shared.datasets() == here.datasets()
    assert len(here.datasets()) == 2 * sum(stage.per_pair for stage in STAGES) + 2
    for asset, pair in here.datasets():
        one, two = shared.require(asset, pair), here.require(asset, pair)
        assert (asset, pair, one.files, one.fingerprint) == (asset, pair, two.files, two.fingerprint)
    files, faults = verify(shared)
    assert (files, faults) == (verify(here)[0], [])

    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    capsys.readouterr()
    assert main([str(TINY), "--store", address]) == 0
    said = capsys.readouterr().err
    assert said.count("unchanged") == len(STAGES) - 1  # no task data
    assert not list((tmp_path / "there").rglob("*.arrow"))
    assert Store(address).table("training_mix", part="dev") == here.table("training_mix", part="dev")
    assert [file.parent.name for file in (tmp_path / "there").rglob("*.arrow")] == ["dev"]


def test_a_reader_fetches_only_the_part_it_reads(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(Store.open(address, "mine"), 5)
    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    store = Store(address)
    assert store.table(ASSET, PAIR)["x"].to_pylist() == list(range(5))
    assert local(store) == ["data/data-00000.arrow", "data/dataset_info.json", "data/state.json"]
    with pytest.raises(StoreError, match="there is no such part. Expected: one of data, rejected"):
        store.table(ASSET, PAIR, "spare")
    assert store.fetched(ASSET, PAIR) == store.folder(ASSET, PAIR)
    assert local(store) == sorted(store.require(ASSET, PAIR).files)
    assert store.where(ASSET, PAIR) == f"{address}/{ASSET}/{PAIR}"


def test_a_new_version_takes_the_place_of_the_old_one_here_and_elsewhere(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 0)
    writer = Store.open(address, "mine")
    with writer.writing(ASSET, PAIR) as out:
        for _ in range(3):
            out.write(pa.record_batch({"x": [1]}))
        out.commit("three", {})
    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    reader = Store(address)
    reader.fetched(ASSET, PAIR)
    assert len(reader.shards(ASSET, PAIR)) == 3

    put(writer, 2)
    assert writer.table(ASSET, PAIR)["x"].to_pylist() == reader.table(ASSET, PAIR)["x"].to_pylist() == [0, 1]
    reader.fetched(ASSET, PAIR)
    assert local(reader) == sorted(reader.require(ASSET, PAIR).files)
    kept = [name for name in objects(address) if name.startswith(ASSET)]
    assert len(kept) == len(writer.require(ASSET, PAIR).files) + 1


@pytest.mark.parametrize("uploads", [0, 1, 4])
def test_an_upload_killed_half_way_leaves_the_old_dataset_and_is_gone_on_with(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uploads: int
) -> None:
    store = Store.open(address, "mine")
    before = put(store, 5)

    def one_after_another(do: Any, names: Any) -> None:
        for number, name in enumerate(sorted(names)):
            if number == uploads:
                raise KeyboardInterrupt
            do(name)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_all", one_after_another)
        with pytest.raises(KeyboardInterrupt):
            put(store, 9)
    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    for seen in (store, Store(address)):
        assert seen.require(ASSET, PAIR) == before
        assert seen.table(ASSET, PAIR)["x"].to_pylist() == list(range(5))
    assert verify(store) == (7, [])

    put(store, 9)
    assert Store(address).table(ASSET, PAIR)["x"].to_pylist() == list(range(9))
    assert verify(store) == (7, [])
    assert len([name for name in objects(address) if name.startswith(ASSET)]) == 8


def test_a_commit_killed_after_its_upload_is_whole_everywhere(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(address, "mine")
    put(store, 5)
    plain = writer_module.beside

    def beside(folder: Path, kind: str) -> Path:
        if kind == "old" and (plain(folder, "new") / "manifest.json").exists():  # between the upload and the renames
            raise KeyboardInterrupt
        return plain(folder, kind)

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "beside", beside)
        with pytest.raises(KeyboardInterrupt):
            put(store, 9)
    assert store.require(ASSET, PAIR).rows["data"] == 9
    assert store.table(ASSET, PAIR)["x"].to_pylist() == list(range(9))


def test_what_is_there_whole_is_not_sent_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(address, "mine")
    put(store, 5)
    sent: list[str] = []
    kind = type(filesystem(address))
    plain = kind.open

    def noted(self: Any, path: str, mode: str = "rb", **settings: Any) -> Any:
        if mode == "wb":
            sent.append(path.rpartition("/")[2])
        return plain(self, path, mode, **settings)

    monkeypatch.setattr(kind, "open", noted)
    again = put(store, 5, fingerprint="g")
    assert sent == ["manifest.json"]
    assert store.require(ASSET, PAIR) == again
    put(store, 6)
    assert len(sent) == 1 + 7 + 1


def test_a_damaged_file_is_told_and_never_read(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(address, "mine")
    put(store, 5)
    [shard] = [name for name in objects(address) if "/data/data-" in name]
    whole = filesystem(address).cat_file(f"{inside(address)}/{shard}")
    filesystem(address).pipe_file(f"{inside(address)}/{shard}", whole[:-1] + b"x")
    [other] = [name for name in objects(address) if name.endswith("rejected/state.json")]
    filesystem(address).rm_file(f"{inside(address)}/{other}")
    assert [str(fault) for fault in verify(store)[1]] == [
        f"{ASSET}/{PAIR}/data/data-00000.arrow is damaged",
        f"{ASSET}/{PAIR}/rejected/state.json is missing",
    ]
    assert store.table(ASSET, PAIR).num_rows == 5  # this machine has its own copy, whole
    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    with pytest.raises(RemoteError, match=r"data-00000.arrow has SHA-256 .*as its manifest says. Run .* --repair"):
        Store(address).table(ASSET, PAIR)
    with pytest.raises(RemoteError, match=r"rejected/state.json is gone. Needed: what the manifest names"):
        Store(address).table(ASSET, PAIR, "rejected")
    fetched = sorted(file.name for file in (tmp_path / "there").rglob("data/*") if file.is_file())
    assert fetched == ["dataset_info.json", "state.json"]


def test_a_local_file_that_changed_is_fetched_anew(address: str) -> None:
    store = Store.open(address, "mine")
    put(store, 5)
    [shard] = store.shards(ASSET, PAIR)
    shard.write_bytes(b"something else")
    assert store.table(ASSET, PAIR)["x"].to_pylist() == list(range(5))


def test_a_store_belongs_to_one_recipe_and_no_other_thing(address: str) -> None:
    Store.open(address, "mine")
    with pytest.raises(StoreError, match=r"belongs to recipe 'mine' in format 1. Expected: recipe 'other'"):
        Store.open(address, "other")
    with pytest.raises(StoreError, match="the folder is not empty and is not a store"):
        Store.open(address.rpartition("/")[0], "mine")
    with pytest.raises(StoreError, match=f"store {address}: has no training_mix"):
        Store.open(address, "mine").require("training_mix")


def test_a_bucket_that_is_not_there_is_named(address: str) -> None:
    with pytest.raises(
        RemoteError, match=r"store s3://no-such-bucket/x: .* cannot be read or written: .*Check the add"
    ):
        Store.open("s3://no-such-bucket/x", "mine")


def test_the_lock_file_is_shared_as_soon_as_it_changes(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Store.open(address, "mine")
    with lock.editing(first.sources, "opus") as entries:
        entries["Tatoeba"] = "v1"
    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    second = Store.open(address, "mine")
    assert lock.read(second.sources, "opus") == {"Tatoeba": "v1"}
    with lock.editing(second.sources, "opus") as entries:
        entries["Tatoeba"] = "v2"
    with first.writer(0):
        assert lock.read(first.sources, "opus") == {"Tatoeba": "v2"}
    shared = json.loads(filesystem(address).cat_file(f"{inside(address)}/sources/lock.json"))
    assert shared["opus"] == {"Tatoeba": "v2"}


def test_a_model_made_on_one_machine_is_used_on_another(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from alignment_train.evaluation.lm import LM
    from alignment_train.trainer import Trainer
    from tests.support.models import tiny

    made = tiny()
    made.save(tmp_path / "model")
    named = {"base": {"seed": None, "model": str(tmp_path / "model")}}
    recipe = read_recipe(TINY)
    recipe = recipe.model_copy(update={"train": {**recipe.train, **named}})
    Trainer(recipe, Store.open(address, recipe.name), "cpu").base()
    monkeypatch.setenv("ISOGLOSS_CACHE", str(tmp_path / "there"))
    store = Store.open(address, recipe.name)
    trainer = Trainer(recipe, store, "cpu")
    assert trainer.base() == store.require("base_model")
    assert not store.folder("base_model").exists()
    texts = ["four zero seven", "eins zwei"]
    expected = LM(made, 0, 64, torch.device("cpu")).loss(texts)[0]
    assert trainer.models()["base"]().loss(texts)[0].tolist() == expected.tolist()
    assert {file.name for file in store.folder("base_model").iterdir()} == set(store.require("base_model").files)
