import json
import multiprocessing
import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.files import sha256
from pipelines.languages import Pair
from pipelines.storage import store as module
from pipelines.storage import writer
from pipelines.storage.errors import StoreError
from pipelines.storage.manifest import LedgerRow
from pipelines.storage.provenance import commit
from pipelines.storage.store import Store
from pipelines.storage.verification import verify
from tests.support.bitext_fixtures import store_bitext

PAIR = Pair("deu_Latn", "eng_Latn")
ASSET = "decontaminated_bitext"


def held(folder: Path, rows: int = 5) -> Store:
    store = Store.open(folder, "mine")
    store_bitext(store, PAIR, rows)
    return store


def test_what_is_written_is_read_back_with_its_manifest(tmp_path: Path) -> None:
    store = held(tmp_path)
    manifest = store.require(ASSET, PAIR)
    assert (manifest.asset, manifest.pair, manifest.format) == (ASSET, str(PAIR), module.FORMAT)
    assert manifest.rows == {"data": 5, "rejected": 0}
    assert store.table(ASSET, PAIR)["src"].to_pylist() == [f"deu_Latn sentence {n}." for n in range(5)]
    assert store.table(ASSET, PAIR, "rejected").num_rows == 0
    assert manifest.bytes == sum((store.folder(ASSET, PAIR) / name).stat().st_size for name in manifest.files)
    assert manifest.commit == commit()
    assert manifest.peak_memory_bytes > 1 << 20


def test_a_store_belongs_to_one_recipe_and_format(tmp_path: Path) -> None:
    held(tmp_path)
    with pytest.raises(StoreError, match=r"belongs to recipe 'mine' in format 1. Expected: recipe 'other'"):
        Store.open(tmp_path, "other")
    (tmp_path / "store.json").write_text(json.dumps({"recipe": "mine", "format": 0}))
    with pytest.raises(StoreError, match=r"belongs to recipe 'mine' in format 0"):
        Store.open(tmp_path, "mine")


def test_a_folder_with_other_things_in_it_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match="the folder is not empty and is not a store. Expected: a new or empty folder"):
        Store.open(tmp_path, "mine")


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "mine")
    message = rf"has no clean_bitext of {PAIR}\. .*dagster asset materialize --select clean_bitext --partition {PAIR}'"
    with pytest.raises(StoreError, match=message):
        store.require("clean_bitext", PAIR)
    with pytest.raises(StoreError, match="--select training_mix'"):
        store.require("training_mix")
    with pytest.raises(StoreError, match="there is no such part. Expected: one of data, rejected"):
        held(tmp_path).table(ASSET, PAIR, "spare")


def test_a_failed_stage_leaves_the_old_dataset_and_no_litter(tmp_path: Path) -> None:
    store = held(tmp_path)
    before = store.require(ASSET, PAIR)

    def fail() -> None:
        with store.writing(ASSET, PAIR) as out:
            out.write(pa.record_batch({"x": [1]}))
            raise RuntimeError("cable")

    with pytest.raises(RuntimeError, match="cable"):
        fail()
    assert store.require(ASSET, PAIR) == before
    assert store.table(ASSET, PAIR).num_rows == 5
    assert [path.name for path in store.folder(ASSET, PAIR).parent.iterdir()] == [str(PAIR)]


def test_a_commit_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    store = held(tmp_path)
    folder = store.folder(ASSET, PAIR)
    folder.rename(folder.with_name(f".{folder.name}.old"))
    assert store.table(ASSET, PAIR).num_rows == 5


def test_a_fresh_dataset_without_manifest_is_none(tmp_path: Path) -> None:
    store = held(tmp_path)
    (store.folder(ASSET, PAIR) / "manifest.json").unlink()
    assert store.manifest(ASSET, PAIR) is None


def _hold(folder: str, ready, leave) -> None:  # in a process of its own
    with Store(folder).writer():
        ready.set()
        leave.wait(30)


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    store = held(tmp_path)
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, leave))
    other.start()
    assert ready.wait(30)
    with (
        pytest.raises(StoreError, match=rf"process {other.pid} is writing to it. Expected: one writer"),
        store.writer(0),
    ):
        pass
    leave.set()
    other.join()
    with store.writer(0):
        assert (tmp_path / ".writer").read_text() == str(os.getpid())


def test_large_parts_are_cut_into_shards_and_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 100)
    store = Store.open(tmp_path, "mine")
    with store.writing(ASSET, PAIR) as out:
        for start in range(0, 100, 20):
            out.write(pa.record_batch({"x": list(range(start, start + 20))}))
        out.commit("f", {})
    assert len(store.shards(ASSET, PAIR)) == 5
    assert store.table(ASSET, PAIR)["x"].to_pylist() == list(range(100))


def test_a_ledger_that_does_not_close_is_not_written(tmp_path: Path) -> None:
    store = Store.open(tmp_path, "mine")
    with store.writing(ASSET, PAIR) as out:
        out.write(pa.record_batch({"x": [1]}))
        with pytest.raises(AssertionError, match="ledger does not balance"):
            out.commit("f", {}, ledger=[LedgerRow(step="lid", corpus="a/v1", into=3, dropped=1, kept=1)])
    assert store.manifest(ASSET, PAIR) is None


def test_unchanged_means_the_same_fingerprint(tmp_path: Path) -> None:
    store = held(tmp_path)
    manifest = store.require(ASSET, PAIR)
    assert store.unchanged(ASSET, PAIR, manifest.fingerprint) == manifest
    assert store.unchanged(ASSET, PAIR, "another") is None


def test_verify_names_the_damaged_and_the_missing(tmp_path: Path) -> None:
    store = held(tmp_path)
    files, faults = verify(store)
    assert (files, faults) == (7, [])
    folder = store.folder(ASSET, PAIR)
    shard = folder / "data" / "data-00000.arrow"
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 2] ^= 1
    shard.write_bytes(whole)
    (folder / "rejected" / "state.json").unlink()
    before, after = store.require(ASSET, PAIR).files["data/data-00000.arrow"], sha256(shard)
    assert list(map(str, verify(store)[1])) == [
        f"{ASSET}/{PAIR}/data/data-00000.arrow is damaged: its SHA-256 is {after[:12]}…, not {before[:12]}…",
        f"{ASSET}/{PAIR}/rejected/state.json is missing",
    ]
    (folder / "manifest.json").write_text("{")
    count, [fault] = verify(store)
    assert (count, str(fault)) == (
        0,
        f"{ASSET}/{PAIR}/manifest.json is no whole JSON: Expecting property name enclosed in double quotes at line 1, "
        f"column 2",
    )


def test_verify_refuses_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no manifest in it.*Check the path"):
        verify(Store(tmp_path))


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_rights_that_the_umask_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        store = Store.open(tmp_path / "store", "r")
        with store.writing("base_model") as out:
            private = out.path / "model.safetensors"
            private.touch(0o600)
            (out.path / "deep").mkdir()
            (out.path / "deep" / "log.txt").write_text("x")
            out.commit("f", {})
    finally:
        os.umask(before)
    files = [file for file in store.folder("base_model").rglob("*") if file.is_file()]
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {mode}
