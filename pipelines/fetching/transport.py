"""Answers of HTTP servers and their bodies, within bounds that a broken or hostile server cannot exceed.

Tries, redirects, sizes and waits are bounded, and so is slowness: over each RATE_WINDOW seconds of transfer a server
has to send SLOWEST bytes a second on average, or the transfer is begun again; SLOW_WINDOWS of these in a row end it.
"""

import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urljoin, urlsplit

from pipelines.errors import UserError, quoted
from pipelines.fetching.redaction import REDACTED

if TYPE_CHECKING:  # a machine that only trains has no requests, and reads recipes all the same
    import requests

CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 10.0  # seconds without a byte
SLOWEST = 1024  # bytes per second, on average over RATE_WINDOW
RATE_WINDOW = 60.0  # seconds of transfer; also the longest that the headers of an answer may take
SLOW_WINDOWS = 3  # in a row
TRIES = 30  # per file, that brought no new byte
UNREACHABLE = 5  # tries in a row in which nobody even answered: no network, or no such server
WRONG = 10  # answers that contradict the server's other answers, or are not what was requested
BACKOFF, LONGEST_BACKOFF = 0.25, 8.0  # seconds before the second try in a row, doubled up to the longest
LONGEST_RETRY_AFTER = 60.0  # seconds a server may have us wait
REDIRECTS = 10  # one after another
LARGEST_ANSWER = 64 << 20  # bytes of a JSON answer, packed or not
CHUNK = 1 << 18  # bytes
AGAIN = {408, 425, 429, 500, 502, 503, 504}
REDIRECT = {301, 302, 303, 307, 308}

Fault = Literal["idle", "unreachable", "slow", "wrong"]


class DownloadError(UserError):
    """A file cannot be had: the server does not answer, refuses, or has something else than expected."""


class RetryPolicy:
    """Counts the tries that brought nothing, waits between them, measures the rate, and gives up."""

    def __init__(self, url: str, stop: threading.Event):
        self.url, self.stop = url, stop
        self._idle = self._row = 0
        self._faults = Counter[Fault]()
        self._waited, self._since, self._bytes = 0.0, time.monotonic(), 0

    def progressed(self) -> None:
        """The try that has ended brought new bytes."""
        self._row = self._faults["unreachable"] = 0

    def failed(self, why: str, pause: float | None = None, fault: Fault = "idle") -> None:
        """Count a try that brought no new byte, then wait; DownloadError where that was the last one."""
        self._idle += 1
        self._row += 1
        self._faults[fault] += 1
        if fault != "unreachable":
            self._faults["unreachable"] = 0
        times = self._faults[fault]
        if fault == "slow" and times >= SLOW_WINDOWS:
            raise DownloadError(
                f"{self.url}: {why}, {times} times in a row. Expected: at least {SLOWEST:,} bytes per second. Fix: "
                f"check the network, or use another server, then run the same command again: what has arrived is kept."
            )
        if fault == "wrong" and times >= WRONG:
            raise DownloadError(
                f"{self.url}: {why} ({times} times). Expected: a server that sends what it states. Fix: report it to "
                f"the server, or use another one."
            )
        if self._idle >= TRIES or self._faults["unreachable"] >= UNREACHABLE:
            raise DownloadError(
                f"{self.url}: no new byte in {self._idle} tries; the last one: {why}. Needed: a server that answers. "
                f"Check the network and OPUS_URL, then run the same command again: what has arrived is kept."
            )
        delay = BACKOFF * 2 ** min(self._row - 1, TRIES) if pause is None else pause
        began = time.monotonic()
        if self.stop.wait(min(delay, LONGEST_BACKOFF if pause is None else LONGEST_RETRY_AFTER)):
            raise DownloadError(f"{self.url}: stopped.")
        self._waited += time.monotonic() - began

    def received(self, count: int) -> None:
        """Count new bytes; TooSlow where a window of the transfer, over all tries, has had too few."""
        self._bytes += count
        if self._spent() >= RATE_WINDOW and not self._fast_enough():
            self._slow()

    def stalled(self) -> None:
        """Raise TooSlow: a single read took a whole window."""
        self._fast_enough()
        self._slow()

    def _spent(self) -> float:
        """Seconds of the window, without those between tries."""
        return max(time.monotonic() - self._since - self._waited, 1e-9)

    def _fast_enough(self) -> bool:
        """Whether the window that ends here was; the next one begins."""
        self._rate = self._bytes / self._spent()
        self._since, self._waited, self._bytes = time.monotonic(), 0.0, 0
        if self._rate >= SLOWEST:
            self._faults["slow"] = 0
        return self._rate >= SLOWEST

    def _slow(self) -> None:
        from pipelines.fetching.connections import TooSlow

        why = f"{self._rate:,.0f} bytes per second over {RATE_WINDOW:g} seconds"
        self.failed(why, fault="slow")
        raise TooSlow(why)


def session() -> "requests.Session":
    """A session of this module's bounds."""
    from pipelines.fetching import connections

    return connections.session(RATE_WINDOW)


def answer(
    session: "requests.Session", method: str, url: str, tries: RetryPolicy, **options: Any
) -> "requests.Response":
    """The first answer that is one; 416 is one, for it says that what is here is wrong. The body is not read yet."""
    import requests

    while True:
        try:
            response = _redirected(session, method, url, **options)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            tries.failed(plain(error), fault=_fault(error))
            continue
        except requests.RequestException as error:
            raise DownloadError(
                f"{url}: {quoted(error, 300)}. Expected: an http or https address. Fix: correct it, or OPUS_URL where "
                f"the server of OPUS is another."
            ) from None
        if response.status_code in AGAIN:
            tries.failed(f"status {response.status_code}", pause=_retry_after(response))
            response.close()
            continue
        if response.status_code not in (200, 206, 416):
            response.close()
            raise DownloadError(
                f"{response.url}: the server answers {response.status_code} {quoted(response.reason or '')}. Needed: "
                f"the file. Check the address, and whether the release is still there."
            )
        return response


def body(response: "requests.Response", tries: RetryPolicy, most: int) -> Iterator[bytes]:
    """Up to `most` bytes of a body as they were sent, not unpacked, piece by piece.

    TooSlow where they come too slowly; requests' and urllib3's errors where the connection breaks.
    """
    import requests
    import urllib3

    from pipelines.fetching.connections import Watch

    with Watch(getattr(response.raw, "watched_socket", None), RATE_WINDOW) as watch:
        while most:
            try:
                chunk = response.raw.read1(min(CHUNK, most), decode_content=False)
            except (requests.RequestException, urllib3.exceptions.HTTPError):
                if watch.shut:
                    tries.stalled()
                raise
            if not chunk:
                break
            watch.progressed()
            if tries.stop.is_set():
                raise DownloadError(f"{tries.url}: stopped.")
            tries.received(len(chunk))
            most -= len(chunk)
            yield chunk
    if watch.shut:
        tries.stalled()


def get_json(url: str, params: dict[str, str]) -> Any:
    """The JSON at `url`, of LARGEST_ANSWER bytes at most."""
    import json

    import requests
    import urllib3

    tries = RetryPolicy(url, threading.Event())
    with session() as client:
        while True:
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            try:
                with answer(client, "GET", url, tries, params=params, headers=headers, stream=True) as response:
                    text = _unpacked(_content(response, tries), response, url)
                return json.loads(text)
            except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deep, numbers too long
                if isinstance(error, UserError):
                    raise
                tries.failed("the answer is no JSON", fault="wrong")
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                if not _is_slow(error):
                    tries.failed(plain(error))


def first_byte(response: "requests.Response") -> int | None:
    """The place in the file of the body's first byte; None where the server says so in no way we know."""
    if response.status_code == 200:
        return 0
    found = _range(response)
    return int(found[1]) if found and response.status_code == 206 else None


def stated_size(response: "requests.Response") -> int | None:
    """The size of the whole file, as an answer states it; None where it does not."""
    if response.status_code == 200:
        return length(response) if not response.headers.get("Content-Encoding") else None
    found = _range(response)
    return int(found[2]) if found and found[2] != "*" else None


def length(response: "requests.Response") -> int | None:
    """The Content-Length of an answer; None where there is none, or it is no plain number."""
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def plain(error: Exception) -> str:
    """The innermost sentence of an error that requests and urllib3 have wrapped."""
    import requests
    import urllib3

    inner = _innermost(error)
    if isinstance(inner, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError):
        return f"no byte for {READ_TIMEOUT:g} seconds"
    return quoted(str(inner).rpartition(": ")[2] or type(inner).__name__, 200)


def _innermost(error: Exception) -> Exception:
    while True:
        inside = [getattr(error, "reason", None), *reversed(error.args)]
        deeper = next((item for item in inside if isinstance(item, Exception)), None)
        if deeper is None:
            return error
        error = deeper


def _is_slow(error: Exception) -> bool:
    from pipelines.fetching.connections import TooSlow

    return isinstance(error, TooSlow)


def _redirected(session: "requests.Session", method: str, url: str, **options: Any) -> "requests.Response":
    """The answer at the end of at most REDIRECTS redirects, to http or https alone; their bodies are not read."""
    target, options = url, {"stream": method == "GET", **options}
    for _ in range(REDIRECTS + 1):
        _check_scheme(target, url)
        response = session.request(
            method, target, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), allow_redirects=False, **options
        )
        if response.status_code not in REDIRECT or "Location" not in response.headers:
            return response
        response.close()
        options.pop("params", None)
        location = response.headers["Location"].encode("latin-1", "replace").decode("utf-8", "replace")
        target = _joined(response.url, location, url)
    raise DownloadError(
        f"{url}: more than {REDIRECTS} redirects, the last one to {quoted(target, 200)}. Expected: the file. Fix: "
        f"report it to the server, or use another one."
    )


def _joined(base: str, location: str, url: str) -> str:
    """The address that a redirect names; user and password stay where the server does."""
    try:
        target = urljoin(base, location)
        before, after = urlsplit(base), urlsplit(target)
        same = (before.scheme, before.hostname, before.port) == (after.scheme, after.hostname, after.port)
    except ValueError:
        raise DownloadError(
            f"{url}: redirects to {quoted(location, 200)}. Expected: an http or https address. Fix: report it to the "
            f"server, or use another one."
        ) from None
    if same and "@" in before.netloc and "@" not in after.netloc:
        return after._replace(netloc=before.netloc).geturl()
    return target


def _check_scheme(target: str, url: str) -> None:
    scheme = target.partition(":")[0].lower()
    if f"{REDACTED}@" in target or f"={REDACTED}" in target:
        raise DownloadError(
            f"{url}: its password or token is not stored, and the server no longer lists the file. Expected: a release "
            f"that it lists. Fix: move the lock by a refresh, or delete the entry in lock.json."
        )
    if scheme not in ("http", "https"):
        found = f"redirects to {quoted(target, 200)}" if target != url else "found no http address"
        raise DownloadError(f"{url}: {found}. Expected: an http or https address. Fix: correct it, or OPUS_URL.")
    if scheme == "http" and url.lower().startswith("https:"):
        raise DownloadError(
            f"{url}: redirects to {quoted(target, 200)}, which is not encrypted. Expected: an https address. Fix: "
            f"report it to the server, or name the http address itself."
        )


def _content(response: "requests.Response", tries: RetryPolicy) -> bytes:
    data = bytearray()
    for chunk in body(response, tries, LARGEST_ANSWER + 1):
        data += chunk
    if len(data) > LARGEST_ANSWER:
        raise _too_large(tries.url)
    return bytes(data)


def _unpacked(data: bytes, response: "requests.Response", url: str) -> bytes:
    """The content of a body that the server has packed although nobody asked for it."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise DownloadError(
            f"{url}: found Content-Encoding {quoted(encoding)}. Expected: none, gzip or deflate. Fix: report it to the "
            f"server, or use another one."
        )
    try:
        text = zlib.decompressobj(47).decompress(data, LARGEST_ANSWER + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(text) > LARGEST_ANSWER:
        raise _too_large(url)
    return text


def _too_large(url: str) -> DownloadError:
    return DownloadError(
        f"{url}: an answer of more than {LARGEST_ANSWER >> 20} MiB. Expected: a list of releases. Fix: check OPUS_URL."
    )


def _range(response: "requests.Response") -> re.Match[str] | None:
    return re.fullmatch(
        r"\s*bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)\s*", response.headers.get("Content-Range", "")
    )


def _retry_after(response: "requests.Response") -> float | None:
    """Seconds that the server asks us to wait; it says a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text[:18])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _fault(error: Exception) -> Fault:
    """Whether a connection came about at all, or an answer that was too slow."""
    import urllib3

    from pipelines.fetching.connections import SlowAnswer

    inner = _innermost(error)
    if isinstance(inner, SlowAnswer):
        return "slow"
    nobody = urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.NewConnectionError  # refused, or no such name
    return "unreachable" if isinstance(inner, nobody) else "idle"
