"""A large file on a server, read like one that is here: only the blocks that are asked for come, checked, and stay."""

import hashlib
import io
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.fetching.download import Remote, check_disk, file_errors
from pipelines.fetching.transport import DownloadError, RetryPolicy, answer, body, first_byte, plain, session

if TYPE_CHECKING:
    import requests

BLOCK = 4 << 20  # bytes; a read brings whole blocks
HELD = 4  # blocks in memory: two members of a zip file are read in turn, and its end once
AGREE = 2  # copies with the same bytes
PORTIONS = (
    8  # places to cut a block in two: each copy is asked for in other parts, or what damages one damages all alike
)
COPIES = 30  # of a block, of which no two agreed
WHOLE_ANSWERS = 8  # in a row, to a request for a part: then the server knows no parts


class Unranged(DownloadError):
    """The server sends the whole file whatever part is asked for."""


class Ranged(io.RawIOBase):
    """The file that `remote` describes; its blocks are kept in `folder`, `<number>-<SHA-256>`.

    A part of a file has no checksum of its own, so a block is fetched until two copies agree, each asked for in other
    portions; its name says whether it is still what was fetched. What is kept is read without a network. `address` says
    where the file is now: it is called only when a block is missing. DownloadError where the file there is another one
    by ETag or size.
    """

    def __init__(self, remote: Remote, folder: Path, address: Callable[[], str], stop: threading.Event | None = None):
        assert remote.size is not None
        self._remote, self._size, self._folder = remote, remote.size, folder
        self._address, self._stop = address, stop or threading.Event()
        self._place = 0
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._session: requests.Session | None = None
        self._unanswered = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def on_progress(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        number, start = divmod(self._place, BLOCK)
        if self._place >= self._size or not len(view):
            return 0
        part = self._block(number)[start : start + len(view)]
        view[: len(part)] = part
        self._place += len(part)
        return len(part)

    def close(self) -> None:
        if self._session:
            self._session.close()
        super().close()

    def _block(self, number: int) -> bytes:
        if number not in self._held:
            data = self._kept(number)
            if data is None:
                data = self._fetched(number * BLOCK, min(self._size, (number + 1) * BLOCK))
                self._keep(number, data)
            self._held[number] = data
            if len(self._held) > HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(number)
        return self._held[number]

    def _kept(self, number: int) -> bytes | None:
        for file in self._folder.glob(f"{number:06}-*"):
            data = file.read_bytes()
            if file.name == f"{number:06}-{hashlib.sha256(data).hexdigest()}":
                return data
            file.unlink()
        return None

    def _keep(self, number: int, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = self._folder / f".{number:06}.{os.getpid()}.{threading.get_ident()}"
        with file_errors(fresh):
            check_disk(fresh, len(data), self._remote.url)
            fresh.write_bytes(data)
        fresh.replace(self._folder / f"{number:06}-{hashlib.sha256(data).hexdigest()}")

    def _fetched(self, first: int, last: int) -> bytes:
        """Bytes from `first` to before `last`, as two answers have them."""
        url = self._address()
        client = self._session = self._session or session()
        tries, seen = RetryPolicy(url, self._stop), Counter[bytes]()
        while seen.total() < COPIES:
            cut = first + (last - first) * (seen.total() % PORTIONS) // PORTIONS
            data = b"".join(self._copy(client, url, *ends, tries) for ends in ((first, cut), (cut, last)))
            seen[hashlib.sha256(data).digest()] += 1
            if seen[hashlib.sha256(data).digest()] == AGREE:
                return data
        raise DownloadError(
            f"{url}: of {COPIES} copies of bytes {first:,} to {last:,} no {AGREE} are the same. Needed: a server that "
            f"sends what it has. Check the network, then run the same command again: what has arrived is kept."
        )

    def _copy(self, client: "requests.Session", url: str, first: int, last: int, tries: RetryPolicy) -> bytes:
        import requests
        import urllib3

        from pipelines.fetching.connections import TooSlow

        data = bytearray()
        while len(data) < last - first:
            begin, before, why = first + len(data), len(data), "the transfer ended early"
            headers = {"Accept-Encoding": "identity", "Range": f"bytes={begin}-{last - 1}"}
            try:
                with answer(client, "GET", url, tries, headers=headers, stream=True) as response:
                    self._same(response, url)
                    if response.status_code != 206:
                        self._unanswered += 1
                        if self._unanswered >= WHOLE_ANSWERS:
                            raise Unranged(f"{url}: the server answers {response.status_code} to Range. Needed: 206.")
                        why = "the server sent the whole file instead of a part"
                    elif first_byte(response) != begin:
                        why = "the server sent another part than asked for"
                    else:
                        self._unanswered = 0
                        for chunk in body(response, tries, last - first - len(data)):
                            data += chunk
            except TooSlow:  # counted already
                continue
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                why = plain(error)
            if len(data) > before:
                tries.progressed()
            else:
                tries.failed(why)
        return bytes(data)

    def _same(self, response: "requests.Response", url: str) -> None:
        """DownloadError where the server's file is another than when its first block came."""
        total = re.search(r"/([0-9]{1,18})$", response.headers.get("Content-Range", ""))
        size = int(total[1]) if total else self._size
        etag = response.headers.get("ETag", self._remote.etag)
        if response.status_code < 400 and (etag, size) == (self._remote.etag, self._size):
            return
        raise DownloadError(
            f"{url}: found {size:,} bytes with ETag {etag or 'none'}. Allowed: {self._size:,} bytes with "
            f"{self._remote.etag or 'none'}, as in the lock file. The file changed upstream: move the lock by a "
            f"refresh where the corpus is named without a version, else by deleting its entry in lock.json."
        )
