"""Addresses in, whole files out: whatever the network does meanwhile, a file is there complete and checked, or not."""

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.errors import UserError
from pipelines.progress import Tell, silent
from pipelines.store import sha256

if TYPE_CHECKING:  # a machine that only trains has no requests, and reads recipes all the same
    import requests

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 10.0  # seconds without a byte
TRIES = 30  # per file, that brought no new byte
UNREACHABLE = 5  # tries in a row in which nobody even answered: no network, or no such server
BACKOFF, LONGEST_BACKOFF = 0.25, 8.0  # seconds before the second try in a row, doubled up to the longest
LONGEST_RETRY_AFTER = 60.0  # seconds a server may have us wait
SAME_BYTES = 5  # downloads that agree: then the file is broken where it comes from, not on the way
WORKERS = 4  # files at a time
CHUNK = 1 << 18  # bytes
AGAIN = {408, 425, 429, 500, 502, 503, 504}

Verify = Callable[[Path], None]
"""Raises ValueError where the file is broken or not to be trusted."""


class DownloadError(UserError):
    """A file cannot be had: the server does not answer, refuses, or has something else than expected."""


class Remote(NamedTuple):
    """What a server says of a file; `size` in bytes is None and `etag` empty where it says nothing."""

    url: str
    etag: str
    size: int | None
    modified: str


class Got(NamedTuple):
    """A whole file."""

    etag: str
    size: int
    sha256: str
    file: Path


class Job(NamedTuple):
    """A file to have. `pinned` is what it must be; it is also where it was kept."""

    url: str
    file: Path
    """Where to keep it; a tag made from ETag and size is put before its name, so that releases do not collide."""
    pinned: Got | None = None


def kept(file: Path, etag: str, size: int | None) -> Path:
    """Where the release of `file` that has this ETag and size is kept."""
    return file.with_name(f"{hashlib.sha256(f'{etag} {size}'.encode()).hexdigest()[:12]}.{file.name}")


def get_json(url: str, params: dict[str, str]) -> Any:
    """The JSON at `url`."""
    import requests

    tries = Tries(url, threading.Event())
    with requests.Session() as session:
        while True:
            response = answer(session, "GET", url, tries, params=params)
            try:
                return response.json()
            except requests.JSONDecodeError:
                tries.failed("the answer is no JSON")


def probe(url: str) -> Remote:
    """What the server has at `url` now."""
    import requests

    with requests.Session() as session:
        return _probe(session, url, Tries(url, threading.Event()))


def probe_all(urls: Sequence[str]) -> list[Remote]:
    """`probe` for several, in their order."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(probe, urls))


def download_all(jobs: Sequence[Job], verify: Verify, tell: Tell = silent) -> list[Got]:
    """All files, several at a time, in the order of `jobs`; what is already kept is not fetched again.

    The first failure stops the rest. What arrived until then stays in `.part` files, from which the next call goes on.
    """
    stop = threading.Event()
    sizes: dict[int, tuple[int, int]] = {}  # job -> bytes here, bytes in all

    def one(index: int) -> Got:
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
                tell(have, size if len(sizes) == len(jobs) else 0, f"{here} of {len(jobs)} files, {have / 1e6:.1f} MB")
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _download(job: Job, verify: Verify, stop: threading.Event, tell: Callable[[int, int], None]) -> Got:
    import requests

    pinned, tries, seen = job.pinned, Tries(job.url, stop), Counter[str]()
    if pinned and pinned.file.exists() and sha256(pinned.file) == pinned.sha256:
        return pinned
    with requests.Session() as session:
        while True:
            remote = _probe(session, job.url, tries)
            if pinned and remote.size not in (None, pinned.size):
                raise DownloadError(_moved(Got(remote.etag, remote.size or 0, "", job.file), pinned, job.url))
            file = pinned.file if pinned else kept(job.file, remote.etag, remote.size)
            if not pinned and file.exists():  # only whole files get this name
                tell(file.stat().st_size, file.stat().st_size)
                return Got(remote.etag, file.stat().st_size, sha256(file), file)
            file.parent.mkdir(parents=True, exist_ok=True)
            part = kept(job.file, remote.etag, remote.size).with_suffix(".part")
            if not _complete(session, remote, part, tries, tell):
                part.unlink(missing_ok=True)
                continue
            digest = sha256(part)
            seen[digest] += 1
            got = Got(remote.etag, part.stat().st_size, digest, file)
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


def _moved(found: Got, pinned: Got, url: str) -> str:
    return (
        f"{url}: found {found.size:,} bytes with SHA-256 {found.sha256 or 'unknown'}. Allowed: {pinned.size:,} bytes "
        f"with {pinned.sha256}, as in the lock file. The file changed upstream: move the lock by a refresh where the "
        f"corpus is named without a version, else by deleting its entry in lock.json."
    )


def _complete(
    session: "requests.Session", remote: Remote, part: Path, tries: "Tries", tell: Callable[[int, int], None]
) -> bool:
    """Fetch what `part` lacks, as often as it takes; False where it has to start afresh."""
    import requests
    import urllib3

    while True:
        have = part.stat().st_size if part.exists() else 0
        tell(have, remote.size or have)
        if remote.size is not None and have >= remote.size:
            return have == remote.size
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            strong = remote.etag if not remote.etag.startswith("W/") else ""
            if validator := strong or remote.modified:
                headers["If-Range"] = validator
        new, why = 0, "the transfer ended early"
        try:
            response = answer(session, "GET", remote.url, tries, headers=headers, stream=True)
            with response:
                start = first_byte(response)
                changed = response.headers.get("ETag", remote.etag) != remote.etag
                if changed or start is None or start > have:
                    tries.failed("the file changed on the server meanwhile")
                    return False
                skip = have - start  # a server that ignores Range sends again what is here
                with part.open("ab") as stream:
                    while chunk := response.raw.read1(CHUNK, decode_content=False):
                        if tries.stop.is_set():
                            raise DownloadError(f"{remote.url}: stopped.")
                        stream.write(chunk[skip:])
                        new += max(0, len(chunk) - skip)
                        skip = max(0, skip - len(chunk))
                        tell(have + new, remote.size or have + new)
            if remote.size is None:
                return True
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            why = plain(error)
        if new:
            tries.progressed()
        else:
            tries.failed(why)


def first_byte(response: "requests.Response") -> int | None:
    """The place in the file of the body's first byte; None where the server says so in no way we know."""
    if response.status_code == 200:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found and response.status_code == 206 else None


def _probe(session: "requests.Session", url: str, tries: "Tries") -> Remote:
    headers = answer(session, "HEAD", url, tries, headers={"Accept-Encoding": "identity"}, allow_redirects=True).headers
    length = headers.get("Content-Length", "")
    return Remote(
        url, headers.get("ETag", ""), int(length) if length.isdigit() else None, headers.get("Last-Modified", "")
    )


def answer(session: "requests.Session", method: str, url: str, tries: "Tries", **options: Any) -> "requests.Response":
    """The first answer that is one; 416 is one, for it says that what is here is wrong."""
    import requests

    while True:
        try:
            response = session.request(method, url, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), **options)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            tries.failed(plain(error), unreachable=_nobody_there(error))
            continue
        except requests.RequestException as error:
            raise DownloadError(f"{url}: {error}. Allowed: an http or https address. Check OPUS_URL.") from None
        if response.status_code in AGAIN:
            tries.failed(f"status {response.status_code}", pause=_retry_after(response))
            response.close()
            continue
        if response.status_code >= 400 and response.status_code != 416:
            raise DownloadError(
                f"{response.url}: the server answers {response.status_code} {response.reason}. Needed: the file. "
                f"Check the address, and whether the release is still there."
            )
        return response


class Tries:
    """Counts the tries that brought nothing, waits between them, and gives up."""

    def __init__(self, url: str, stop: threading.Event):
        self.url, self.stop = url, stop
        self._idle = self._row = self._unreachable = 0

    def progressed(self) -> None:
        self._row = self._unreachable = 0

    def failed(self, why: str, pause: float | None = None, unreachable: bool = False) -> None:
        """Count a try that brought no new byte, then wait; DownloadError where that was the last one."""
        self._idle += 1
        self._row += 1
        self._unreachable = self._unreachable + 1 if unreachable else 0
        if self._idle >= TRIES or self._unreachable >= UNREACHABLE:
            raise DownloadError(
                f"{self.url}: no new byte in {self._idle} tries; the last one: {why}. Needed: a server that answers. "
                f"Check the network and OPUS_URL, then run the same command again: what has arrived is kept."
            )
        delay = BACKOFF * 2 ** (self._row - 1) if pause is None else pause
        if self.stop.wait(min(delay, LONGEST_BACKOFF if pause is None else LONGEST_RETRY_AFTER)):
            raise DownloadError(f"{self.url}: stopped.")


def _retry_after(response: "requests.Response") -> float | None:
    """Seconds that the server asks us to wait; it says a number or a date."""
    text = response.headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _nobody_there(error: "requests.RequestException") -> bool:
    """Whether no connection came about: refused, not in time, or the name is not known."""
    import urllib3

    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.NewConnectionError)


def plain(error: Exception) -> str:
    """The innermost sentence of an error that requests and urllib3 have wrapped."""
    import requests
    import urllib3

    inner = getattr(error.args[0] if error.args else None, "reason", error)
    if isinstance(inner, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return f"no byte for {READ_TIMEOUT:g} seconds"
    return str(inner).rpartition(": ")[2] or type(inner).__name__


def _may_be_md5(etag: str) -> bool:
    return re.fullmatch(r'"[0-9a-f]{32}"', etag) is not None


def _is_md5(etag: str, file: Path) -> bool:
    """Whether the ETag is the MD5 of the file, as it is in object stores for files sent in one piece."""
    if not _may_be_md5(etag):
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == etag.strip('"')
