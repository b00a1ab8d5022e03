import errno
import json
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pipelines import files
from pipelines.files import Unreadable

INSIDE = ["data/data-00000.arrow", "model.safetensors", "fit/lid/größe.json", "a..b/c", "~/x", ".hidden/x"]
OUTSIDE = ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./x", "a//b", "a/", "C:x", "c:/x", "C:\\x", "a\\..\\x"]
OUTSIDE += ["\\\\host\\share", "a\0b", "a\nb", "a\x1b[2Jb", "a\u202eb", "x" * 1025, "\ud800"]


@pytest.mark.parametrize(
    ("text", "expected"), [*((text, True) for text in INSIDE), *((text, False) for text in OUTSIDE)]
)
def test_a_path_of_a_manifest_stays_in_its_folder(text: str, expected: bool) -> None:
    assert files.is_relative(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("deu_Latn-eng_Latn", True), ("0123abcd", True), ("a/b", False), ("..", False), (".new", False), ("", False)],
)
def test_a_name_is_one_visible_part_of_a_path(text: str, expected: bool) -> None:
    assert files.is_name(text) is expected


def test_the_digest_of_a_file_is_computed_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, computed = tmp_path / "x", list[str]()
    plain = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: computed.append(path.name) or plain(path))
    monkeypatch.setattr(files, "SETTLED", -1)
    file.write_bytes(b"one")
    first = files.digest_once(file)
    assert files.digest_once(file) == first == plain(file)
    assert len(computed) == 1
    about = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # ctime gives it away
    assert files.digest_once(file) == plain(file) != first
    other = tmp_path / "y"
    other.write_bytes(b"six")
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    other.replace(file)  # another inode
    assert files.digest_once(file) == plain(file)
    assert len(computed) == 3


def test_a_file_that_was_just_written_is_computed_again(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for text in (b"a", b"b", b"c") * 5:  # faster than a clock ticks
        file.write_bytes(text)
        assert files.digest_once(file) == files.sha256(file)


def test_threads_share_one_computation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, computed, plain = tmp_path / "x", list[int](), files.sha256
    file.write_bytes(b"x" * 1000)
    monkeypatch.setattr(files, "SETTLED", -1)
    monkeypatch.setattr(files, "sha256", lambda path: computed.append(1) or plain(path))
    threads = [threading.Thread(target=files.digest_once, args=(file,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1


def test_a_failed_write_leaves_the_old_text_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.json"
    files.write_atomically(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="full"):
            files.write_atomically(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path: Path) -> None:
    file, texts = tmp_path / "x", [str(number) * 50_000 for number in range(8)]
    threads = [threading.Thread(target=files.write_atomically, args=(file, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def _create(file: str, text: str) -> None:
    files.create_once(Path(file), text)


@pytest.mark.parametrize("links", [True, False])
def test_of_several_processes_that_create_a_file_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    file = tmp_path / "new" / "store.json"
    if not links:  # FAT, some network file systems

        def unsupported(*paths: Any) -> None:
            raise OSError(errno.EPERM, "no links")

        monkeypatch.setattr(os, "link", unsupported)
        files.create_once(file, "0")
        files.create_once(file, "1")
        assert file.read_text() == "0"
    else:
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=_create, args=(str(file), str(number))) for number in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0, 0]
        assert file.read_text() in "0123"
    assert [path.name for path in file.parent.iterdir()] == ["store.json"]


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = multiprocessing.get_context("fork").Process(target=int)
    dead.start()
    dead.join()
    gone = [f".store.json.{dead.pid}", f".lock.json.{dead.pid}.0a1b2c3d", f".x.{10**12}.00000000"]
    kept = [f".store.json.{os.getpid()}", f".x.{os.getpid()}.0a1b2c3d", ".writer", ".x.new", "store.json", "a.1"]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_folders_are_on_the_disk_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "sync_folder", lambda folder: synced.append(folder.name))
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path.name, "a"]


def test_a_tree_is_synced_content_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    for name in ("x", "a/y"):
        (tmp_path / name).write_text("1")
    synced: list[str] = []
    plain = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or plain(fd))
    files.sync_tree(tmp_path)
    root = str(tmp_path)
    assert synced == [f"{root}/a/y", f"{root}/a", f"{root}/x", root]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_flushes_of_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    synced: list[str] = []

    def refused(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        raise OSError(code, "no")

    monkeypatch.setattr(os, "fsync", refused)
    files.sync_folder(tmp_path)
    assert synced == [str(tmp_path)]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\0" * 100, "is no whole JSON: Expecting value at line 1, column 1"),
        (b'{"a": 1', "is no whole JSON: Expecting ',' delimiter at line 1, column 8"),
        (b'{"a": 1}}', "is no whole JSON: Extra data at line 1, column 9"),
        (b'{"a": "\xff"}', "is not UTF-8 at byte 7"),
        (b"[1]", "holds list, not an object"),
        (b'{"a": {"b": 1, "b": 2}}', "names 'b' twice in one object"),
        (b"null", "holds NoneType, not an object"),
        (b'"text"', "holds str, not an object"),
        (b"[" * 100_000, "is nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON of ours: Exceeds the limit"),
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_named(data: bytes, cause: str) -> None:
    with pytest.raises(Unreadable) as found:
        files.parse_json(data, dict)
    assert str(found.value).startswith(cause)


def test_only_small_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_JSON", 10)
    (tmp_path / "x").write_bytes(b"1" * 10)
    assert files.read_small(tmp_path / "x") == b"1" * 10
    (tmp_path / "x").write_bytes(b"1" * 11)
    with pytest.raises(Unreadable, match="has more than 10 bytes"):
        files.read_small(tmp_path / "x")
    os.mkfifo(tmp_path / "pipe")  # would be waited for
    with pytest.raises(Unreadable, match="is no regular file"):
        files.read_small(tmp_path / "pipe")


def test_digests_beside_files_name_what_changed(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "a").write_text("1")
    (tmp_path / "part" / "b").write_text("2")
    files.write_digests(tmp_path)
    assert files.digests_fault(tmp_path) is None
    (tmp_path / "part" / "b").write_text("3")
    assert str(files.digests_fault(tmp_path)).startswith("part/b is damaged: its SHA-256 is ")
    (tmp_path / "part" / "b").unlink()
    assert files.digests_fault(tmp_path) == "part/b is missing"
    for text, fault in (
        ("{", "digests.json is no whole JSON"),
        (json.dumps({"../a": "0"}), "digests.json names '../a'"),
        (json.dumps({"a": 1}), "digests.json names 'a'"),
    ):
        (tmp_path / files.DIGESTS).write_text(text)
        assert str(files.digests_fault(tmp_path)).startswith(fault)
    (tmp_path / files.DIGESTS).unlink()
    assert files.digests_fault(tmp_path) == "digests.json is missing"
