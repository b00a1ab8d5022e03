"""Dagster's web server behind a check of who asks: it has no login, and starts what a GET from any web page says.

`python -m assets.webserver dev ...` is `dagster dev ...` with this server in place of Dagster's own.
"""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = "ISOGLOSS_UI_HOSTS"
"""Names, with commas between them, by which browsers reach the UI beside the machine's own: that of a proxy, say."""
MODULE = "dagster_webserver"


class OwnPagesOnly:
    """Refuse requests for another host (DNS rebinding), and those that a page of another site makes.

    An attacker's host is a name that he makes point here: IP addresses, `localhost`, this machine's names and `hosts`
    are allowed. Browsers say which page asks in Origin and Sec-Fetch-Site; links to the UI still lead there.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()):
        own = socket.gethostname().lower()
        self.app, self.hosts = app, {"localhost", own, own.partition(".")[0], *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.getlist("host"), headers.getlist("origin")
        if len(host) != 1 or not self._known(host[0]):
            return f"Unknown Host header. Allowed: this machine's names and addresses, and those in ${HOSTS}.\n"
        if any(not self._known(urlsplit(item).netloc if item.startswith("http") else "") for item in origin):
            return "Requests from pages of other sites are refused.\n"
        navigates = headers.get("sec-fetch-mode") == "navigate" and not scope["path"].endswith("/graphql")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
            return "Requests from pages of other sites are refused.\n"
        return None

    def _known(self, netloc: str) -> bool:
        try:
            name = (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            return bool(ipaddress.ip_address(name.partition("%")[0]))
        except ValueError:
            return name in self.hosts or name.endswith(".localhost")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _serve() -> None:
    from dagster_webserver.cli import main
    from dagster_webserver.webserver import DagsterWebserver

    plain = DagsterWebserver.build_middleware
    hosts = [name.strip() for name in os.environ.get(HOSTS, "").split(",") if name.strip()]

    def build_middleware(self: Any) -> list[Middleware]:
        return [Middleware(OwnPagesOnly, hosts=hosts), *plain(self)]

    DagsterWebserver.build_middleware = build_middleware  # type: ignore[method-assign]
    main()


def _develop() -> None:
    from dagster._cli import dev
    from dagster._cli import main as dagster

    start: Any = getattr(dev, "open_ipc_subprocess")  # noqa: B009  # Dagster's own; a test asks the real UI

    def guarded(parts: list[str], **options: Any) -> Any:
        return start([__spec__.name if part == MODULE else part for part in parts], **options)

    dev.open_ipc_subprocess = guarded  # type: ignore[assignment]
    dagster()


if __name__ == "__main__":
    _develop() if sys.argv[1:2] == ["dev"] else _serve()
