"""Addresses in, whole files out: whatever the network does meanwhile, a file is there complete and checked, or not."""

import errno
import hashlib
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.errors import UserError
from pipelines.fetching.transport import (
    DownloadError,
    RetryPolicy,
    answer,
    body,
    first_byte,
    length,
    plain,
    session,
    stated_size,
)
from pipelines.files import sha256
from pipelines.progress import ProgressCallback, no_progress

if TYPE_CHECKING:  # a machine that only trains has no requests, and reads recipes all the same
    import requests

SAME_BYTES = 5  # downloads that agree: then the file is broken where it comes from, not on the way
WORKERS = 4  # files at a time
LARGEST_FILE = 64 << 30  # bytes; the largest packages of OPUS have 12 GiB
SPARE_DISK = 16 << 20  # bytes that stay free
DISK_EVERY = 64 << 20  # bytes between two looks at the free disk
REPORT = "Fix: report it to the server, or remove the corpus."

Verify = Callable[[Path], None]
"""Raises ValueError where the file is broken or not to be trusted."""


class Remote(NamedTuple):
    """What a server says of a file; `size` in bytes is None and `etag` empty where it says nothing."""

    url: str
    etag: str
    size: int | None
    modified: str


class DownloadedFile(NamedTuple):
    """A whole file."""

    etag: str
    size: int
    sha256: str
    file: Path


class DownloadJob(NamedTuple):
    """A file to have. `pinned` is what it must be; it is also where it was kept."""

    url: str
    file: Path
    """Where to keep it; a tag made from ETag and size is put before its name, so that releases do not collide."""
    pinned: DownloadedFile | None = None


def cached_path(file: Path, etag: str, size: int | None) -> Path:
    """Where the release of `file` that has this ETag and size is kept."""
    return file.with_name(f"{hashlib.sha256(f'{etag} {size}'.encode()).hexdigest()[:12]}.{file.name}")


def probe(url: str) -> Remote:
    """What the server has at `url` now."""
    with session() as client:
        return _probe(client, url, RetryPolicy(url, threading.Event()))


def probe_all(urls: Sequence[str]) -> list[Remote]:
    """`probe` for several, in their order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(probe, urls))


def download_all(
    jobs: Sequence[DownloadJob], verify: Verify, on_progress: ProgressCallback = no_progress
) -> list[DownloadedFile]:
    """All files, several at a time, in the order of `jobs`; what is already kept is not fetched again.

    The first failure stops the rest. What arrived until then stays in `.part` files, from which the next call goes on.
    """
    stop = threading.Event()
    sizes: dict[int, tuple[int, int]] = {}  # job -> bytes here, bytes in all

    def one(index: int) -> DownloadedFile:
        return _download(jobs[index], verify, stop, lambda have, size: sizes.__setitem__(index, (have, size)))

    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(one, index) for index in range(len(jobs))]
        try:
            waiting = set(futures)
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                have, size = (sum(column) for column in zip(*list(sizes.values()), strict=True)) if sizes else (0, 0)
                here = len(jobs) - len(waiting)
                on_progress(
                    have, size if len(sizes) == len(jobs) else 0, f"{here} of {len(jobs)} files, {have / 1e6:.1f} MB"
                )
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _download(
    job: DownloadJob, verify: Verify, stop: threading.Event, on_progress: Callable[[int, int], None]
) -> DownloadedFile:
    pinned, tries, seen = job.pinned, RetryPolicy(job.url, stop), Counter[str]()
    if pinned and pinned.file.exists() and sha256(pinned.file) == pinned.sha256:
        return pinned
    with session() as client:
        while True:
            remote = _probe(client, job.url, tries)
            if pinned and remote.size not in (None, pinned.size):
                raise DownloadError(
                    _moved(DownloadedFile(remote.etag, remote.size or 0, "", job.file), pinned, job.url)
                )
            file = pinned.file if pinned else cached_path(job.file, remote.etag, remote.size)
            if not pinned and file.exists():  # only whole files get this name
                on_progress(file.stat().st_size, file.stat().st_size)
                return DownloadedFile(remote.etag, file.stat().st_size, sha256(file), file)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = cached_path(job.file, remote.etag, remote.size).with_suffix(".part")
            if not _complete(client, remote, part, tries, on_progress):
                part.unlink(missing_ok=True)
                continue
            digest = sha256(part)
            seen[digest] += 1
            got = DownloadedFile(remote.etag, part.stat().st_size, digest, file)
            broken = None if pinned and digest == pinned.sha256 else _broken(part, verify)
            as_sent = _is_md5(remote.etag, part) or seen[digest] >= (SAME_BYTES if broken else 2)
            if broken is None and (digest == pinned.sha256 if pinned else as_sent or not _may_be_md5(remote.etag)):
                part.replace(file)
                return got
            part.unlink()
            if as_sent:
                raise DownloadError(f"{job.url}: {broken}" if broken or not pinned else _moved(got, pinned, job.url))
            tries.failed(broken or "the bytes do not add up")


def _broken(part: Path, verify: Verify) -> str | None:
    """What is wrong with a file that has arrived in full."""
    try:
        verify(part)
    except UserError as error:
        return str(error)
    return None


def _moved(found: DownloadedFile, pinned: DownloadedFile, url: str) -> str:
    return (
        f"{url}: found {found.size:,} bytes with SHA-256 {found.sha256 or 'unknown'}. Allowed: {pinned.size:,} bytes "
        f"with {pinned.sha256}, as in the lock file. The file changed upstream: move the lock by a refresh where the "
        f"corpus is named without a version, else by deleting its entry in lock.json."
    )


def _complete(
    client: "requests.Session", remote: Remote, part: Path, tries: RetryPolicy, on_progress: Callable[[int, int], None]
) -> bool:
    """Fetch what `part` lacks, as often as it takes; False where it has to start afresh."""
    import requests
    import urllib3

    from pipelines.fetching.connections import TooSlow

    resumable = True
    while True:
        have = part.stat().st_size if part.exists() else 0
        on_progress(have, remote.size or have)
        if remote.size is not None and have >= remote.size:
            return have == remote.size
        check_disk(part, (remote.size or have) - have, remote.url)
        new, why = 0, "the transfer ended early"
        try:
            headers = _headers(remote, have) if resumable else _headers(remote, 0)
            response = answer(client, "GET", remote.url, tries, headers=headers, stream=True)
            with response:
                start, size = first_byte(response), stated_size(response)
                if why_not := _contradiction(response, remote, size):
                    tries.failed(why_not, fault="wrong")
                    return False
                if start is None or start > have:  # what is here is sound all the same
                    resumable = False
                    tries.failed("the server sends another part than the one requested", fault="wrong")
                    continue
                for count in _received(response, remote, part, have - start, tries):
                    new += count
                    on_progress(have + new, remote.size or have + new)
            if remote.size is None:
                if not part.stat().st_size:
                    raise DownloadError(f"{remote.url}: an empty file. Expected: at least 1 byte. {REPORT}")
                return True
        except TooSlow:  # counted already
            continue
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            why = plain(error)
        if new:
            tries.progressed()
        else:
            tries.failed(why)


def _contradiction(response: "requests.Response", remote: Remote, size: int | None) -> str | None:
    """What an answer says against HEAD's, so that what is here may be of another file.

    A whole file that is shorter than HEAD says may be one that was cut off on the way: the rest is fetched.
    """
    if response.headers.get("ETag", remote.etag) != remote.etag:
        return "the file changed on the server meanwhile"
    if response.status_code == 416:
        return "the server has no more than what has arrived, which is not the whole file"
    if size is None or remote.size is None or size == remote.size:
        return None
    cut_off = response.status_code == 200 and size < remote.size
    return None if cut_off else f"the server states {remote.size:,} bytes, then {size:,}"


def _headers(remote: Remote, have: int) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        strong = remote.etag if not remote.etag.startswith("W/") else ""
        if validator := strong or remote.modified:
            headers["If-Range"] = validator
    return headers


def _received(
    response: "requests.Response", remote: Remote, part: Path, skip: int, tries: RetryPolicy
) -> Iterator[int]:
    """Append a body to `part` without its first `skip` bytes, which are there; the count of each piece written."""
    most = LARGEST_FILE if remote.size is None else remote.size
    have = before = part.stat().st_size if part.exists() else 0
    unchecked = 0
    with file_errors(part), part.open("ab", buffering=0) as stream:
        for chunk in body(response, tries, most - have + skip + 1):
            piece = memoryview(chunk)[skip:]
            skip = max(0, skip - len(chunk))
            if have + len(piece) > most:
                stream.truncate(before)
                whose = "a file may have" if remote.size is None else "the server stated before"
                raise DownloadError(f"{remote.url}: more than the {most:,} bytes that {whose}. {REPORT}")
            have += len(piece)
            if (unchecked := unchecked + len(piece)) >= DISK_EVERY:
                check_disk(part, 0, remote.url)
                unchecked = 0
            count = len(piece)
            while piece:
                piece = piece[stream.write(piece) :]
            yield count


def check_disk(file: Path, needed: int, url: str) -> None:
    """DownloadError where the disk of `file` has no room for so many more bytes."""
    free = shutil.disk_usage(file.parent).free
    if free < needed + SPARE_DISK:
        raise DownloadError(
            f"{file.parent}: {free:,} bytes are free. Expected: {needed + SPARE_DISK:,} for {url}. Fix: free space on "
            f"that disk or name a store on another one, then run the same command again: what has arrived is kept."
        )


@contextmanager
def file_errors(file: Path) -> Iterator[None]:
    """Name the file in an OSError of writing to it, such as that the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def _probe(client: "requests.Session", url: str, tries: RetryPolicy) -> Remote:
    response = answer(client, "HEAD", url, tries, headers={"Accept-Encoding": "identity"})
    headers, size = response.headers, length(response)
    if size is not None and size > LARGEST_FILE:
        raise DownloadError(f"{url}: a file of {size:,} bytes. Expected: at most {LARGEST_FILE:,}. {REPORT}")
    return Remote(url, headers.get("ETag", ""), size or None, headers.get("Last-Modified", ""))


def _may_be_md5(etag: str) -> bool:
    return re.fullmatch(r'"[0-9a-f]{32}"', etag) is not None


def _is_md5(etag: str, file: Path) -> bool:
    """Whether the ETag is the MD5 of the file, as it is in object stores for files sent in one piece."""
    if not _may_be_md5(etag):
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == etag.strip('"')
