import errno
import hashlib
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.fetching import download, transport
from pipelines.fetching.download import DownloadedFile, DownloadJob, cached_path, download_all, probe
from pipelines.fetching.transport import DownloadError, get_json
from pipelines.sources._moses import check_zip
from tests.support.opus_server import FAULTS, Mirror, lines, package


def _publish(mirror: Mirror, count: int = 3) -> list[str]:
    return [mirror.add(f"C{i}/v1", "de-en", lines(400, f"{i}a"), lines(400, f"{i}b")) for i in range(count)]


def _jobs(mirror: Mirror, paths: list[str], folder: Path) -> list[DownloadJob]:
    return [DownloadJob(mirror.url + path, folder / path.strip("/").replace("/", "_")) for path in paths]


@pytest.mark.parametrize("md5_etags", [True, False])
@pytest.mark.parametrize("fault", [*FAULTS, "all"])
def test_files_arrive_whole_whatever_the_network_does(
    opus_server: Mirror, tmp_path: Path, fault: str, md5_etags: bool
) -> None:
    paths = _publish(opus_server)
    opus_server.md5_etags = md5_etags
    opus_server.faults = dict.fromkeys(FAULTS, 0.2) if fault == "all" else {fault: 0.6 if fault != "stall" else 0.3}
    got = download_all(_jobs(opus_server, paths, tmp_path), check_zip)
    assert [item.file.read_bytes() for item in got] == [opus_server.files[path] for path in paths]
    assert [item.sha256 for item in got] == [hashlib.sha256(opus_server.files[path]).hexdigest() for path in paths]
    assert [item.size for item in got] == [len(opus_server.files[path]) for path in paths]
    assert not list(tmp_path.glob("*.part"))
    if fault not in ("norange", "stall"):  # the draws did strike; stalls are few, norange shows on resuming only
        assert sum(method == "GET" for method, _, _ in opus_server.requests) > len(paths)


def test_a_part_file_is_resumed_from_its_last_byte(opus_server: Mirror, tmp_path: Path) -> None:
    (path,) = _publish(opus_server, 1)
    (job,) = _jobs(opus_server, [path], tmp_path)
    part = cached_path(job.file, opus_server.etag(path), len(opus_server.files[path])).with_suffix(".part")
    part.write_bytes(opus_server.files[path][:1234])
    (got,) = download_all([job], check_zip)
    assert got.file.read_bytes() == opus_server.files[path]
    assert ("GET", path, "bytes=1234-") in opus_server.requests


def test_a_killed_download_leaves_a_part_that_the_next_one_uses(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = _publish(opus_server, 1)
    jobs = _jobs(opus_server, [path], tmp_path)
    opus_server.faults = {"drop": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(transport.RetryPolicy, "progressed", _interrupt)
        with pytest.raises(OSError, match="killed"):
            download_all(jobs, check_zip)
    half = len(opus_server.files[path]) // 2
    assert [file.stat().st_size for file in tmp_path.glob("*.part")] == [half]
    opus_server.faults = {}
    download_all(jobs, check_zip)
    assert opus_server.requests[-1] == ("GET", path, f"bytes={half}-")


def _interrupt(self: object) -> None:
    raise OSError("killed")


def test_a_server_that_ignores_range_does_not_undo_what_is_here(opus_server: Mirror, tmp_path: Path) -> None:
    (path,) = _publish(opus_server, 1)
    (job,) = _jobs(opus_server, [path], tmp_path)
    part = cached_path(job.file, opus_server.etag(path), len(opus_server.files[path])).with_suffix(".part")
    part.write_bytes(opus_server.files[path][:5000])
    opus_server.faults = {"norange": 1.0}
    (got,) = download_all([job], check_zip)
    assert got.file.read_bytes() == opus_server.files[path]


def test_what_is_kept_is_asked_for_but_not_fetched_again(opus_server: Mirror, tmp_path: Path) -> None:
    paths = _publish(opus_server, 1)
    first = download_all(_jobs(opus_server, paths, tmp_path), check_zip)
    opus_server.requests.clear()
    assert download_all(_jobs(opus_server, paths, tmp_path), check_zip) == first
    assert opus_server.requests == [("HEAD", paths[0], "")]


def test_a_new_release_under_the_same_address_is_kept_beside_the_old(opus_server: Mirror, tmp_path: Path) -> None:
    paths = _publish(opus_server, 1)
    (old,) = download_all(_jobs(opus_server, paths, tmp_path), check_zip)
    opus_server.add("C0/v1", "de-en", b"neu\n", b"new\n")
    (new,) = download_all(_jobs(opus_server, paths, tmp_path), check_zip)
    assert new.file != old.file
    assert old.file.exists()
    assert probe(opus_server.url + paths[0]).etag == new.etag


def test_a_pinned_file_needs_no_network(opus_server: Mirror, tmp_path: Path) -> None:
    (job,) = _jobs(opus_server, _publish(opus_server, 1), tmp_path)
    (got,) = download_all([job], check_zip)
    opus_server.requests.clear()
    assert download_all([job._replace(pinned=got)], check_zip) == [got]
    assert opus_server.requests == []


@pytest.mark.parametrize("same_size", [True, False])
def test_a_pinned_file_that_changed_upstream_is_refused(opus_server: Mirror, tmp_path: Path, same_size: bool) -> None:
    (path,) = _publish(opus_server, 1)
    (job,) = _jobs(opus_server, [path], tmp_path)
    size = len(opus_server.files[path]) if same_size else 7
    pinned = DownloadedFile('"old"', size, "0" * 64, tmp_path / "old.zip")
    with pytest.raises(ValueError, match=r"with 0{64}, as in the lock file\. The file changed upstream"):
        download_all([job._replace(pinned=pinned)], check_zip)
    assert not (tmp_path / "old.zip").exists()


def test_a_file_that_is_broken_where_it_comes_from_is_refused(opus_server: Mirror, tmp_path: Path) -> None:
    (path,) = _publish(opus_server, 1)
    opus_server.files[path] = b"<html>Moved</html>" * 100
    with pytest.raises(DownloadError, match="not a sound zip file: File is not a zip file"):
        download_all(_jobs(opus_server, [path], tmp_path), check_zip)
    assert sum(method == "GET" for method, _, _ in opus_server.requests) == 1  # the ETag says it is as sent
    opus_server.md5_etags = False
    opus_server.requests.clear()
    with pytest.raises(DownloadError, match="not a sound zip file"):
        download_all(_jobs(opus_server, [path], tmp_path), check_zip)
    assert sum(method == "GET" for method, _, _ in opus_server.requests) == download.SAME_BYTES
    assert not list(tmp_path.iterdir())


def test_a_flipped_byte_outside_every_crc_is_noticed_by_the_etag(opus_server: Mirror, tmp_path: Path) -> None:
    (path,) = _publish(opus_server, 1)
    (job,) = _jobs(opus_server, [path], tmp_path)
    data = bytearray(opus_server.files[path])
    data[10] ^= 0xFF  # the time of the first member, which no CRC covers
    part = cached_path(job.file, opus_server.etag(path), len(data)).with_suffix(".part")
    part.write_bytes(bytes(data))
    check_zip(part)
    (got,) = download_all([job], check_zip)
    assert got.file.read_bytes() == opus_server.files[path]


def test_giving_up_says_after_how_many_tries_and_why(opus_server: Mirror, tmp_path: Path) -> None:
    paths = _publish(opus_server, 1)
    opus_server.faults = {"503": 1.0}
    with pytest.raises(DownloadError, match=r"no new byte in 30 tries; the last one: status 503\. Needed: a server"):
        download_all(_jobs(opus_server, paths, tmp_path), check_zip)
    assert sum(method == "GET" for method, _, _ in opus_server.requests) == 30


@pytest.mark.parametrize(
    ("retry_after", "waits"),
    [
        ("7", [7.0]),
        ("Wed, 21 Oct 2015 07:28:00 GMT", [0.0]),
        ("3600", [60.0]),  # nobody has us wait longer than LONGEST_RETRY_AFTER
        ("soon", [0.25]),
        ("", [0.25]),
    ],
)
def test_retry_after_is_obeyed_within_bounds(
    opus_server: Mirror, monkeypatch: pytest.MonkeyPatch, retry_after: str, waits: list[float]
) -> None:
    opus_server.retry_after = retry_after
    assert _waits(opus_server, monkeypatch)[: len(waits)] == waits


def test_pauses_double_up_to_the_longest(opus_server: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    opus_server.retry_after = ""
    assert _waits(opus_server, monkeypatch) == [0.25, 0.5, 1, 2, 4, *([8.0] * 24)]


def _waits(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between the tries of a file that the server never gives; nobody waits for them."""
    monkeypatch.setattr(transport, "BACKOFF", 0.25)
    monkeypatch.setattr(transport, "LONGEST_BACKOFF", 8.0)
    waited: list[float] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    (path,) = _publish(mirror, 1)
    mirror.faults = {"503": 1.0}
    url = mirror.url + path
    with transport.session() as session, pytest.raises(DownloadError, match="no new byte in 30 tries"):
        transport.answer(session, "GET", url, transport.RetryPolicy(url, Impatient()))
    return waited


def test_files_come_several_at_a_time(opus_server: Mirror, tmp_path: Path) -> None:
    paths = _publish(opus_server, 6)
    opus_server.slow = 0.1
    download_all(_jobs(opus_server, paths, tmp_path), check_zip)
    assert opus_server.most_busy == download.WORKERS


def test_a_missing_file_is_not_tried_again(opus_server: Mirror, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="the server answers 404 Not Found"):
        download_all([DownloadJob(opus_server.url + "/none.zip", tmp_path / "none.zip")], check_zip)
    assert len(opus_server.requests) == 1


def test_nobody_there_is_soon_said(opus_server: Mirror) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/opusapi/"
    with pytest.raises(DownloadError, match="no new byte in 5 tries; the last one: .*refused"):
        get_json(address, {})


def test_an_answer_that_is_no_json_is_refused(opus_server: Mirror) -> None:
    opus_server.files["/page"] = b"<html>"
    with pytest.raises(DownloadError, match=r"/page: the answer is no JSON \(10 times\)\. Expected: a server"):
        get_json(opus_server.url + "/page", {})


def test_one_failure_stops_the_rest_and_progress_counts_bytes(opus_server: Mirror, tmp_path: Path) -> None:
    paths = _publish(opus_server)
    told: list[tuple[float, float]] = []
    download_all(
        _jobs(opus_server, paths, tmp_path), check_zip, lambda done, total=0, note="": told.append((done, total))
    )
    size = sum(len(opus_server.files[path]) for path in paths)
    assert told[-1] == (size, size)
    opus_server.files[paths[1]] = package({"bomb": b"0" * (20 << 20)})
    with pytest.raises(
        DownloadError, match=r"C1/v1.*'bomb': unpacks 20,3\d\d bytes to 20,971,520 or more\. Allowed: at most 200"
    ):
        download_all(_jobs(opus_server, paths, tmp_path), check_zip)


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = _publish(opus_server, 1)
    size = len(opus_server.files[path])
    room = size + download.SPARE_DISK
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=room - 1))
    expected = rf"{room - 1:,} bytes are free\. Expected: {room:,} for http.*/OPUS-C0/v1/.*what has arrived is kept"
    with pytest.raises(DownloadError, match=expected):
        download_all(_jobs(opus_server, [path], tmp_path), check_zip)
    assert not any(method == "GET" for method, _, _ in opus_server.requests)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=room))
    assert download_all(_jobs(opus_server, [path], tmp_path), check_zip)[0].size == size


def test_a_disk_that_others_fill_meanwhile_ends_the_download(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = _publish(opus_server, 1)
    free = iter([1 << 40, 1 << 40, 5, 5])
    monkeypatch.setattr(download, "DISK_EVERY", 1)
    monkeypatch.setattr(transport, "CHUNK", 1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(free)))
    with pytest.raises(DownloadError, match=r": 5 bytes are free\. Expected: 16,777,216 for"):
        download_all(_jobs(opus_server, [path], tmp_path), check_zip)
    assert [file.stat().st_size for file in tmp_path.glob("*.part")] == [1000]


def test_a_full_disk_names_the_file_and_keeps_what_arrived(
    opus_server: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = _publish(opus_server, 1)
    jobs = _jobs(opus_server, [path], tmp_path)
    monkeypatch.setattr(transport, "CHUNK", 1000)
    plain_open = Path.open

    def filling(file: Path, *args: Any, **options: Any) -> Any:
        stream = plain_open(file, *args, **options)
        if file.suffix != ".part" or args != ("ab",):
            return stream

        class Full:
            """Takes 1,500 bytes of a piece, then has no room."""

            def __enter__(self) -> "Full":
                return self

            def __exit__(self, *error: object) -> None:
                stream.close()

            def write(self, data: Any) -> int:
                if file.stat().st_size >= 1500:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return stream.write(data[: 1500 - file.stat().st_size])

        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", filling)
        with pytest.raises(OSError, match="No space left") as error:
            download_all(jobs, check_zip)
    (part,) = tmp_path.glob("*.part")
    assert error.value.filename == str(part)
    assert part.read_bytes() == opus_server.files[path][:1500]
    opus_server.requests.clear()
    (got,) = download_all(jobs, check_zip)
    assert got.file.read_bytes() == opus_server.files[path]
    assert ("GET", path, "bytes=1500-") in opus_server.requests
