"""HTTP sessions whose reads end: a server that sends a byte now and then passes every time-out of a single read."""

import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from types import TracebackType
from typing import Any, Self

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection


class TooSlow(requests.RequestException):
    """The server sent less than the minimum rate, and its connection was closed."""


class SlowAnswer(HTTPException):
    """The headers of an answer took too long; urllib3 and requests wrap it."""


class Watch:
    """Shuts a connection down when one read takes longer than `seconds`; `shut` says whether it did.

    Status line, headers, chunk sizes and trailers are read byte by byte inside the HTTP library, without a bound.
    """

    def __init__(self, sock: socket.socket | None, seconds: float):
        self.shut = False
        self._sock, self._seconds = sock, seconds
        self._last, self._done = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def progressed(self) -> None:
        """A read has ended; the next one begins."""
        self._last = time.monotonic()

    def _run(self) -> None:
        while not self._done.wait(max(0.01, self._last + self._seconds - time.monotonic())):
            if time.monotonic() - self._last >= self._seconds:
                self.shut = True
                with suppress(OSError, AttributeError):
                    self._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
                return


def session(seconds: float) -> requests.Session:
    """A session in which an answer's headers arrive within `seconds`, else the connection is closed."""

    def bounded(base: type[HTTPConnection]) -> type[HTTPConnection]:
        class Bounded(base):
            def getresponse(self) -> Any:
                sock = self.sock
                with Watch(sock, seconds) as watch:
                    try:
                        response = super().getresponse()
                    finally:
                        if watch.shut:  # headers that end with the connection look complete
                            raise SlowAnswer(f"no complete answer within {seconds:g} seconds")
                setattr(response, "watched_socket", sock)  # noqa: B010  # for the reads of the body
                return response

        return Bounded

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = bounded(HTTPConnection)  # type: ignore[assignment]

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = bounded(HTTPSConnection)  # type: ignore[assignment]

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **options)
            if not proxy.lower().startswith("socks"):  # these have connections of their own
                manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
            return manager

    class Session(requests.Session):
        def get_redirect_target(self, resp: requests.Response) -> None:
            """Leave redirects to the caller: requests reads their bodies, however long these are."""

    found = Session()
    for scheme in ("http://", "https://"):
        found.mount(scheme, Adapter())
    return found
