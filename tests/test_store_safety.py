"""Stores that are damaged, half made, read-only, or come from somebody who means harm."""

import errno
import json
import multiprocessing
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignment_train.__main__ import main as train_main
from pipelines import files
from pipelines.__main__ import main
from pipelines.fetching import lock
from pipelines.languages import Pair
from pipelines.sources._releases import RELEASES
from pipelines.sources.opus import Opus
from pipelines.storage.errors import DamagedError, StoreError
from pipelines.storage.manifest import Manifest, parse_manifest
from pipelines.storage.store import Store
from pipelines.storage.verification import repair, verify
from tests.support.bitext_fixtures import store_bitext
from tests.support.opus_server import Mirror

PAIR = Pair("deu_Latn", "eng_Latn")
ASSET = "decontaminated_bitext"
KEY = f"{ASSET}/{PAIR}"


def filled(folder: Path) -> Store:
    store = Store.open(folder, "mine")
    store_bitext(store, PAIR, 5)
    return store


def rewritten(store: Store, change: Callable[[dict[str, Any]], None]) -> None:
    """The manifest as a hostile hand would write it: with a digest that fits, or none."""
    file = store.root / KEY / "manifest.json"
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps({**found, "digest": ""}))


# --- creation -------------------------------------------------------------------------------------------------------


def _open(folder: str, recipe: str, ready: Any) -> None:
    ready.wait()
    Store.open(folder, recipe)


def test_four_processes_that_start_at_once_share_the_new_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(5):
        folder, ready = str(tmp_path / str(number)), context.Barrier(4)
        processes = [context.Process(target=_open, args=(folder, "mine", ready)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        assert os.listdir(folder) == ["store.json"]


def test_of_two_recipes_that_start_at_once_one_has_the_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    folder, ready = str(tmp_path / "store"), context.Barrier(2)
    processes = [context.Process(target=_open, args=(folder, name, ready)) for name in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(process.exitcode or 0 for process in processes) == [0, 1]


@pytest.mark.parametrize(
    "left",
    [
        [".store.json.4194399"],
        [".store.json.4194399.0a1b2c3d", ".writer"],
        ["lost+found"],
        [".DS_Store"],
        ["store.json"],  # empty, as after a power failure
    ],
)
def test_what_a_killed_first_run_left_does_not_keep_the_next_one_out(tmp_path: Path, left: list[str]) -> None:
    for name in left:
        (tmp_path / name).touch()
    store = Store.open(tmp_path, "mine")
    assert json.loads((tmp_path / "store.json").read_text()) == {"recipe": "mine", "format": 1}
    with store.writer():
        pass
    assert not list(tmp_path.glob(".store.json.*"))


def test_a_disk_that_is_full_at_the_first_write_leaves_a_folder_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            Store.open(tmp_path, "mine")
    assert os.listdir(tmp_path) == []
    Store.open(tmp_path, "mine")


def test_a_file_in_the_place_of_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(StoreError, match="x: is a file. Expected: a folder"):
        Store.open(tmp_path / "x", "mine")


@pytest.mark.parametrize(
    ("text", "cause"),
    [("", "is empty"), ("{", "is no whole JSON"), ("[]", "holds list, not an object"), ("\0" * 20, "is no whole JSON")],
)
def test_a_damaged_store_json_is_named_and_written_again(tmp_path: Path, text: str, cause: str) -> None:
    store = Store.open(tmp_path, "mine")
    with store.writing("base_model") as out:
        (out.path / "x").write_text("x")
        out.commit("f", {"name": "mine"})
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(DamagedError, match=rf"store.json {cause}.* Fix: run 'python -m pipelines verify .* --repair'"):
        Store.open(tmp_path, "mine")
    assert [fault.file for fault in verify(Store(tmp_path))[1]] == ["store.json"]
    assert repair(Store(tmp_path)) == ["store.json: written again for recipe 'mine'"]
    Store.open(tmp_path, "mine")
    assert verify(Store(tmp_path)) == (1, [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["alignment_train", "push", "tiny.yaml", "--to", "me/x"],
        ["alignment_train", "compare", "tiny.yaml"],
        ["alignment_train", "train", "tiny.yaml"],
        ["alignment_train", "eval", "tiny.yaml"],
        ["pipelines", "prune", "tiny.yaml"],
    ],
)
def test_commands_that_read_make_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    tiny = str(Path(__file__).parent / "data" / "tiny.yaml")
    program, *words = [tiny if word == "tiny.yaml" else word for word in arguments]
    command = {"pipelines": main, "alignment_train": train_main}[program]
    assert command([*words, "--store", str(tmp_path / "none")]) == 1
    assert "nothing is in it" in capsys.readouterr().err
    for words in (["verify"], ["ledger"]):
        assert main([*words, str(tmp_path / "none")]) == 1
    assert train_main(["report", str(tmp_path / "none")]) == 1
    assert os.listdir(tmp_path) == []


# --- damage ---------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    data = (store.root / KEY / "manifest.json").read_bytes()
    expected = store.require(ASSET, PAIR)
    assert expected.digest
    accepted = []
    for place in range(len(data)):
        for bit in (0, 5):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                if parse_manifest(bytes(flipped)) != expected:
                    accepted.append((place, bit))
            except files.Unreadable:
                continue
    assert accepted == []


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "is empty"),
        (b"{", "is no whole JSON"),
        (b"[1, 2]", "holds list, not an object"),
        (b"\xff\xfe", "is not UTF-8 at byte 0"),
        (b"{}", "has an unexpected value or name at 'asset'"),
        (b'{"asset": "x", "fingerprint": 3}', "has an unexpected value or name at 'fingerprint'"),
        (b'{"asset": "x", "fingerprint": "f", "rows": {"a": "b"}}', "has an unexpected value or name at 'rows.a'"),
        (b'{"asset": "x", "fingerprint": "f", "surprise": 1}', "has an unexpected value or name at 'surprise'"),
        (b'{"asset": "base_model", "fingerprint": "f"}', "is that of base_model"),
        (b"[" * 200_000, "is nested too deep"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_one_sentence_with_path_cause_and_cure(tmp_path: Path, data: bytes, cause: str) -> None:
    store = filled(tmp_path)
    (store.root / KEY / "manifest.json").write_bytes(data)
    for look in (store.manifest, store.require, lambda *key: list(store.batches(*key))):
        with pytest.raises(DamagedError) as found:
            look(ASSET, PAIR)
        assert str(found.value).startswith(f"store {tmp_path}: {KEY}/manifest.json {cause}")
        assert f"Fix: run 'python -m pipelines verify {tmp_path} --repair'" in str(found.value)
        assert "\n" not in str(found.value)


def test_a_manifest_of_an_earlier_version_has_no_digest_and_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = store.require(ASSET, PAIR)
    file = store.root / KEY / "manifest.json"
    found = json.loads(file.read_text())
    del found["digest"]
    file.write_text(json.dumps(found, indent=1))
    assert store.require(ASSET, PAIR) == before.model_copy(update={"digest": ""})


def test_a_manifest_of_many_megabytes_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)
    monkeypatch.setattr(files, "LARGEST_JSON", 100)
    with pytest.raises(DamagedError, match=r"manifest.json has more than 100 bytes"):
        store.manifest(ASSET, PAIR)


@pytest.mark.parametrize("reader", ["batches", "table", "shards", "fetched"])
def test_a_damaged_shard_is_refused_by_every_reader_before_arrow_sees_it(tmp_path: Path, reader: str) -> None:
    store = filled(tmp_path)
    shard = store.root / KEY / "data" / "data-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match=rf"{KEY}/data/data-00000.arrow is damaged: its SHA-256 is .* Fix: run"):
        list(getattr(Store(tmp_path), reader)(ASSET, PAIR))
    shard.unlink()
    with pytest.raises(DamagedError, match="data-00000.arrow is missing"):
        list(getattr(Store(tmp_path), reader)(ASSET, PAIR))
    shard.mkdir()
    with pytest.raises(DamagedError, match="data-00000.arrow is no regular file"):
        list(getattr(Store(tmp_path), reader)(ASSET, PAIR))


def test_a_part_can_be_read_where_another_one_is_damaged(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (store.root / KEY / "rejected" / "data-00000.arrow").write_bytes(b"")
    assert store.table(ASSET, PAIR).num_rows == 5
    with pytest.raises(DamagedError, match="rejected/data-00000.arrow"):
        store.fetched(ASSET, PAIR)


def test_repair_sets_damaged_datasets_aside_and_leaves_the_others(tmp_path: Path) -> None:
    store = filled(tmp_path)
    other = Pair("eng_Latn", "swh_Latn")
    store_bitext(store, other, 3)
    kept = store.require(ASSET, other)
    (store.root / KEY / "manifest.json").write_text("{")
    [fault] = verify(store)[1]
    assert str(fault).startswith(f"{KEY}/manifest.json is no whole JSON")
    assert repair(store) == [f"{KEY}: moved to .damaged/{KEY}"]
    assert store.manifest(ASSET, PAIR) is None
    assert store.require(ASSET, other) == kept
    assert (tmp_path / ".damaged" / KEY / "data").is_dir()
    assert verify(store) == (7, [])
    assert repair(store) == []
    store_bitext(store, PAIR, 5)
    (store.root / KEY / "data" / "state.json").unlink()
    assert repair(store) == [f"{KEY}: moved to .damaged/{KEY}"]  # in the place of the earlier one


def test_a_reader_waits_while_a_commit_is_between_its_renames(tmp_path: Path) -> None:
    store = filled(tmp_path)
    folder = store.folder(ASSET, PAIR)
    old = folder.with_name(f".{folder.name}.old")
    context = multiprocessing.get_context("fork")
    ready, waits = context.Event(), context.Event()

    def write() -> None:
        with Store(tmp_path).writer():
            folder.rename(old)
            ready.set()
            waits.wait(10)
            time.sleep(0.2)
            old.rename(folder)

    process = context.Process(target=write)
    process.start()
    assert ready.wait(10)
    waits.set()
    assert store.table(ASSET, PAIR).num_rows == 5
    process.join()
    assert process.exitcode == 0


def test_the_writer_removes_what_killed_ones_left(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / ASSET / ".x.new" / "data").mkdir(parents=True)
    (tmp_path / ".training_mix.new").mkdir()
    (tmp_path / ASSET / ".eng_Latn-swh_Latn.old").mkdir()
    (tmp_path / KEY).rename(tmp_path / ASSET / f".{PAIR}.old")
    with store.writer():
        assert sorted(path.name for path in (tmp_path / ASSET).iterdir()) == [str(PAIR), "eng_Latn-swh_Latn"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [".writer", ASSET, "store.json"]


# --- read-only ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Store]:
    """A filled store whose lock file cannot be opened for writing; root ignores permissions."""
    store = filled(tmp_path)
    with store.writer():
        pass

    def make(code: int) -> Store:
        plain = os.open

        def refused(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & (os.O_RDWR | os.O_WRONLY):
                raise OSError(code, os.strerror(code), os.fspath(path))
            return plain(path, flags, *args, **kwargs)

        monkeypatch.setattr(os, "open", refused)
        return Store.open(tmp_path, "mine")

    return make


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT])
def test_a_finished_store_is_used_where_nothing_can_be_written(unwritable: Callable[[int], Store], code: int) -> None:
    store = unwritable(code)
    with store.writer():
        assert store.unchanged(ASSET, PAIR, f"{PAIR}5")
        assert store.table(ASSET, PAIR).num_rows == 5
        for work in (lambda: store.scratch("align_model", "f"), lambda: store.writing(ASSET, PAIR).__enter__()):
            with pytest.raises(OSError, match=os.strerror(code)) as found:
                work()
            assert (found.value.errno, found.value.filename) == (code, str(store.root))
    assert verify(store) == (7, [])


def test_a_new_store_on_a_read_only_disk_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "disk"
    folder.mkdir(mode=0o555)
    tiny = str(Path(__file__).parent / "data" / "tiny.yaml")
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; test_fault_injection.py has the same with a patched os")
    assert main([tiny, "--store", str(folder / "store")]) == 1
    assert "Permission denied. Grant this user access to it" in capsys.readouterr().err


# --- stores of others -------------------------------------------------------------------------------------------------

HOSTILE = ["/etc/passwd", "../../../x", "data/../../x", "C:\\x", "c:/x", "..\\x", "a\0b", "a\x1b]0;b", "", ".", "a//b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_files_of_a_manifest_that_lead_out_of_its_folder_are_refused(tmp_path: Path, name: str) -> None:
    store = filled(tmp_path / "store")
    rewritten(store, lambda found: found.update(files={name: "0" * 64}))
    with pytest.raises(DamagedError, match=rf"{KEY}/manifest.json names the file .*, which is not a path inside"):
        store.fetched(ASSET, PAIR)
    count, [fault] = verify(store)
    assert (count, fault.file) == (0, f"{KEY}/manifest.json")
    assert repair(store) == [f"{KEY}: moved to .damaged/{KEY}"]
    assert sorted(os.listdir(tmp_path)) == ["store"]


@pytest.mark.parametrize("digest", ["", "x", "0" * 63, "0" * 64 + "\n", "../" + "0" * 61])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, digest: str) -> None:
    store = filled(tmp_path)
    rewritten(store, lambda found: found.update(files={"data/x": digest}))
    with pytest.raises(DamagedError, match="gives 'data/x' the SHA-256"):
        store.require(ASSET, PAIR)


@pytest.mark.parametrize(
    "change", [{"asset": "base_model", "pair": None}, {"pair": "../x"}, {"pair": "fra_Latn-eng_Latn"}]
)
def test_a_manifest_of_another_dataset_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    store = filled(tmp_path)
    rewritten(store, lambda found: found.update(change))
    with pytest.raises(DamagedError, match="manifest.json is that of"):
        store.fetched(ASSET, PAIR)


@pytest.mark.parametrize("pair", ["../../x", "/x", "a/b", "..", ".new", "a\0", "C:x"])
def test_the_name_of_a_pair_or_cell_is_one_folder(tmp_path: Path, pair: str) -> None:
    for asset in (ASSET, "cells"):
        with pytest.raises(StoreError, match="Expected: the name of one folder"):
            Store(tmp_path).folder(asset, pair)


@pytest.mark.parametrize(
    ("link", "used"),
    [
        (KEY, lambda store: store.table(ASSET, PAIR)),
        (ASSET, lambda store: store.table(ASSET, PAIR)),
        (f"{KEY}/data", lambda store: store.table(ASSET, PAIR)),
        (f"{KEY}/data/data-00000.arrow", lambda store: store.table(ASSET, PAIR)),
        (f"{KEY}/manifest.json", lambda store: store.require(ASSET, PAIR)),
        (ASSET, lambda store: store_bitext(store, PAIR, 5)),
        ("store.json", lambda store: Store.open(store.root, "mine")),
        (".scratch", lambda store: store.scratch("align_model", "f")),
        (".scratch/align_model", lambda store: store.tidy("align_model", set())),
        ("sources", lambda store: store.sources),
        (".writer", lambda store: store.writer().__enter__()),
    ],
)
def test_a_link_out_of_the_store_is_refused_and_what_it_names_is_left_alone(
    tmp_path: Path, link: str, used: Callable[[Store], Any]
) -> None:
    store = filled(tmp_path / "store")
    place, outside = store.root / link, tmp_path / "outside"
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(outside)
    elif link == ".writer":
        outside.write_text("precious")
    else:
        (outside / "precious").mkdir(parents=True)
    place.symlink_to(outside)
    before = {path: path.is_file() and path.read_bytes() for path in [outside, *outside.rglob("*")]}
    with pytest.raises(ValueError, match="symbolic link"):
        used(Store(store.root))
    assert {path: path.is_file() and path.read_bytes() for path in [outside, *outside.rglob("*")]} == before


def test_repair_removes_a_link_and_not_what_it_names(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    outside = tmp_path / "outside"
    (store.root / KEY).rename(outside)
    (store.root / KEY).symlink_to(outside)
    assert "symbolic link" in str(verify(store)[1][0])
    assert repair(store) == [f"{KEY}: its symbolic link removed"]
    assert (outside / "manifest.json").is_file()
    assert not (store.root / KEY).exists()


def test_a_store_behind_a_link_and_links_within_it_are_fine(tmp_path: Path) -> None:
    store = filled(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    shard = store.root / KEY / "data" / "data-00000.arrow"
    shard.rename(store.root / "shard")
    shard.symlink_to(store.root / "shard")
    assert Store.open(tmp_path / "link", "mine").table(ASSET, PAIR).num_rows == 5


def test_what_a_hostile_lock_file_says_of_addresses_is_not_followed(tmp_path: Path) -> None:
    home, other = tmp_path / "sources", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (home / ".shared").write_text(f"file://{other}")
    with lock.editing(home, "opus") as entries:
        entries["A"] = 1
    assert os.listdir(other) == []


RELEASE = {"corpus": "A", "version": "v1", "package": "de-en", "src": "de", "tgt": "en", "url": "http://x/y.zip"}


@pytest.mark.parametrize(
    "change",
    [
        {"corpus": "../../.."},
        {"corpus": "/etc"},
        {"version": ".."},
        {"version": "v1/../../x"},
        {"package": "..\\x"},
        {"package": "a/b"},
        {"corpus": "a\0"},
        {"corpus": "C:x"},
        {"size": -1},
        {"size": "many"},
        {"url": 3},
        {"more": 1},
    ],
)
def test_an_entry_of_a_lock_file_that_leads_out_of_the_store_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "lock.json").write_text(json.dumps({"opus": {"A deu_Latn-eng_Latn": [{**RELEASE, **change}]}}))
    with pytest.raises(lock.LockError) as found:
        lock.read(tmp_path, "opus", RELEASES)
    assert str(found.value).startswith(f"{tmp_path}/lock.json: the entry 'A deu_Latn-eng_Latn' of 'opus' has an unexp")
    for use in (
        lambda: Opus(corpora=["A"]).prepare(PAIR, tmp_path),
        lambda: Opus(corpora=["A"]).prune(tmp_path),
        lambda: Opus(corpora=["A"]).releases(PAIR, tmp_path),
    ):
        with pytest.raises(lock.LockError):
            use()


def test_the_other_sides_of_a_lock_file_are_checked_too(tmp_path: Path) -> None:
    from pipelines.sources._hub import STATE

    for state in (
        {"revision": "../x", "licence": "", "chosen": {}},
        {"revision": "a" * 40, "licence": "", "chosen": {"x": ["../../.ssh/id"]}},
        {"revision": "a" * 40, "licence": "", "chosen": []},
    ):
        (tmp_path / "lock.json").write_text(json.dumps({"hub": {"a/b": state}}))
        with pytest.raises(lock.LockError, match="the entry 'a/b' of 'hub'"):
            lock.read(tmp_path, "hub", STATE)


# --- downloads ------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_lock_file_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    with lock.editing(tmp_path, "opus") as entries:
        entries["A deu_Latn-eng_Latn"] = [RELEASE]
        entries["B deu_Latn-eng_Latn"] = entries["C deu_Latn-eng_Latn"] = []
    with lock.editing(tmp_path, "hub") as entries:
        entries["x"] = {"revision": "r"}
    file = tmp_path / "lock.json"
    data, expected = file.read_bytes(), {name: lock.read(tmp_path, name) for name in ("opus", "hub")}
    accepted = []
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        try:
            if {name: lock.read(tmp_path, name) for name in ("opus", "hub")} != expected:
                accepted.append(place)
        except lock.LockError:
            continue
    assert accepted == []


def test_a_user_may_delete_an_entry_and_accept_a_change(tmp_path: Path) -> None:
    with lock.editing(tmp_path, "opus") as entries:
        entries |= {"A": ["v1"], "B": ["v1"]}
    file = tmp_path / "lock.json"
    found = json.loads(file.read_text())
    del found["opus"]["A"]
    file.write_text(json.dumps(found))
    assert lock.read(tmp_path, "opus") == {"B": ["v1"]}
    found["opus"]["B"] = ["v2"]
    del found["sha256"]
    file.write_text(json.dumps(found))
    assert lock.read(tmp_path, "opus") == {"B": ["v2"]}
    with lock.editing(tmp_path, "opus") as entries:
        entries["C"] = ["v1"]
    assert set(json.loads(file.read_text())["sha256"]["opus"]) == {"B", "C"}


def test_verify_and_repair_reach_downloads_and_the_lock_file(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.add("A/v1", "de-en", b"alt\n", b"old\n")
    opus_server.add("B/v1", "de-en", b"neu\n", b"new\n")
    store = filled(tmp_path)
    source = Opus(corpora=["A", "B"])
    source.prepare(PAIR, store.sources)
    assert verify(store) == (7 + 1 + 2, [])
    before = (store.sources / "lock.json").read_bytes()
    download = next((store.sources / "downloads").rglob("A/**/*.zip"))
    data = bytearray(download.read_bytes())
    data[-1] ^= 1
    download.write_bytes(data)
    place = str(download.relative_to(tmp_path))
    assert str(verify(store)[1][0]).startswith(f"{place} is damaged: its SHA-256 is ")
    assert repair(store) == [f"{place}: removed"]
    assert (store.sources / "lock.json").read_bytes() == before
    assert [batch["src"].to_pylist() for batch in source.fetch(PAIR, store.sources)] == [["alt"], ["neu"]]

    (store.sources / "lock.json").write_bytes(before.replace(b'"version": "v1"', b'"version": "v2"', 1))
    with pytest.raises(lock.LockError, match="the entry 'A deu_Latn-eng_Latn' of 'opus' was changed after it was"):
        source.prepare(PAIR, store.sources)
    assert repair(store) == ["sources/lock.json: 1 entries removed, which are looked up anew"]
    source.prepare(PAIR, store.sources)
    assert (store.sources / "lock.json").read_bytes() == before
    (store.sources / "lock.json").write_text("{")
    assert repair(store) == ["sources/lock.json: moved to .damaged/sources/lock.json; releases are looked up anew"]
    assert not (store.sources / "lock.json").exists()


# --- evaluations of others --------------------------------------------------------------------------------------------


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """The folder of an evaluation."""
    store = Store.open(tmp_path / "store", "mine")
    figures = {"loss/eng_Latn/nats_per_token": {"value": 1.0, "low": 0.9, "high": 1.1}}
    with store.writing("evaluation") as out:
        (out.path / "metrics.json").write_text(json.dumps({"base": figures, "aligned": figures}))
        out.commit("f", {"name": "mine"})
    return Path(shutil.copytree(store.folder("evaluation"), tmp_path / "evaluation"))


def signed(folder: Path, text: str) -> None:
    """Write metrics.json and a manifest that fits."""
    (folder / "metrics.json").write_text(text)
    found = json.loads((folder / "manifest.json").read_text())
    digest = files.sha256(folder / "metrics.json")
    (folder / "manifest.json").write_text(json.dumps({**found, "digest": "", "files": {"metrics.json": digest}}))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "metrics.json is empty"),
        ("[]", "metrics.json holds list, not an object"),
        ("{}", "metrics.json has no figures of 'base'"),
        ('{"base": {}, "aligned": []}', "metrics.json has an unexpected value or name at 'aligned'"),
        ('{"base": {"x": {"value": "no"}}}', "metrics.json has an unexpected value or name at 'base.x.value'"),
        ('{"base": {}, "aligned": {}, "pivot": 3}', "metrics.json has an unexpected value or name at 'pivot'"),
        ("[" * 100_000, "metrics.json is nested too deep"),
    ],
)  # fmt: skip
def test_figures_of_others_are_checked(
    evaluation: Path, capsys: pytest.CaptureFixture[str], text: str, cause: str
) -> None:
    signed(evaluation, text)
    assert train_main(["report", str(evaluation), "--html", str(evaluation / "x.html")]) == 1
    assert capsys.readouterr().err.startswith(f"run {evaluation}: {cause}")


def test_damaged_evaluations_and_manifests_of_others_are_sentences(
    evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = str(evaluation / "page.html")
    assert train_main(["report", str(evaluation), "--html", page]) == 0
    capsys.readouterr()
    with (evaluation / "metrics.json").open("a") as file:
        file.write(" ")
    assert train_main(["report", str(evaluation), "--html", page]) == 1
    assert f"run {evaluation}: metrics.json is damaged: its SHA-256 is" in capsys.readouterr().err
    found = json.loads((evaluation / "manifest.json").read_text())
    for change, cause in (
        ({"files": {}}, "metrics.json is not named in manifest.json"),
        ({"files": {"../x": "0" * 64}}, "manifest.json names the file '../x', which is not a path inside the dataset"),
    ):
        (evaluation / "manifest.json").write_text(json.dumps({**found, "digest": "", **change}))
        assert train_main(["report", str(evaluation), "--html", page]) == 1
        assert f"run {evaluation}: {cause}" in capsys.readouterr().err
    (evaluation / "manifest.json").unlink()
    os.mkfifo(evaluation / "manifest.json")
    assert train_main(["report", str(evaluation), "--html", page]) == 1
    assert "manifest.json is no regular file" in capsys.readouterr().err


def test_files_keep_the_mode_that_the_user_chose(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store = filled(tmp_path)
        with store.writer():
            pass
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir() if path.is_file()}
    finally:
        os.umask(before)
    assert modes == {"store.json": 0o644, ".writer": 0o644}
    assert isinstance(store.require(ASSET, PAIR), Manifest)
