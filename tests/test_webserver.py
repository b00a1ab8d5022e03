# ruff: noqa: E501  # a table
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from assets.webserver import HOSTS, OwnPagesOnly, is_loopback


async def _page(request: object) -> PlainTextResponse:
    return PlainTextResponse("here")


async def _talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("here")
    await websocket.close()


APP = OwnPagesOnly(
    Starlette(routes=[Route("/{path:path}", _page, methods=["GET", "POST"]), WebSocketRoute("/graphql", _talk)]),
    hosts=["ui.example.org"],
)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {"Host": "localhost:3000"}, 200),
        ("/", {"Host": "127.0.0.1:3000"}, 200),
        ("/", {"Host": "[::1]:3000"}, 200),
        ("/", {"Host": "10.1.2.3"}, 200),
        ("/", {"Host": "LOCALHOST"}, 200),
        ("/", {"Host": "isogloss.localhost:3000"}, 200),
        ("/", {"Host": f"{socket.gethostname()}:3000"}, 200),
        ("/", {"Host": "ui.example.org"}, 200),
        ("/", {"Host": "evil.example.org:3000"}, 403),
        ("/", {"Host": "127.0.0.1.evil.example.org"}, 403),
        ("/", {"Host": "localhost.evil.example.org"}, 403),
        ("/", {"Host": "evil-localhost"}, 403),
        ("/", {"Host": "[::1"}, 403),
        ("/", {"Host": ""}, 403),
        ("/graphql", {"Host": "localhost", "Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-origin"}, 200),
        ("/graphql", {"Host": "127.0.0.1:3000", "Origin": "https://ui.example.org"}, 200),
        ("/graphql", {"Host": "localhost", "Origin": "http://evil.example.org"}, 403),
        ("/graphql", {"Host": "localhost", "Origin": "null"}, 403),
        ("/graphql", {"Host": "localhost", "Origin": "file://"}, 403),
        ("/graphql?query=mutation", {"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("/graphql", {"Host": "localhost", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        ("/graphql", {"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("/runs/1", {"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
        ("/runs/1", {"Host": "localhost", "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_pages_of_this_server_may_ask_it(method: str, path: str, headers: dict[str, str], status: int) -> None:
    answer = TestClient(APP).request(method, path, headers=headers)
    assert (answer.status_code, answer.text == "here") == (status, status == 200)


def test_sockets_are_checked_too() -> None:
    client = TestClient(APP)
    with client.websocket_connect("/graphql", headers={"Host": "localhost", "Origin": "http://localhost"}) as talk:
        assert talk.receive_text() == "here"
    for headers in ({"Host": "evil.example.org"}, {"Host": "localhost", "Origin": "https://evil.example.org"}):
        with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/graphql", headers=headers):
            pass


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False),
    ],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


@pytest.mark.slow
def test_the_ui_itself_warns_and_refuses_other_hosts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {**os.environ, "DAGSTER_HOME": str(tmp_path / "home"), HOSTS: ""}
    command = [sys.executable, "-m", "assets", "ui", "sample.yaml", "--store", str(tmp_path / "store")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "0.0.0.0", "--port", str(port), "--allow-host", "ui.example.org"],
            env=env, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def asked(**headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/server_info", headers=headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    try:
        for _ in range(240):
            try:
                status, body = asked()
                break
            except (URLError, OSError):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        else:
            pytest.fail((tmp_path / "log").read_text())
        assert status == 200
        assert "dagster_version" in json.loads(body)
        assert asked(Host="ui.example.org")[0] == 200
        assert asked(Host="evil.example.org") == (403, asked(Host="evil")[1])
        assert asked(Origin="http://evil.example.org")[0] == 403
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    said = (tmp_path / "log").read_text()
    assert (
        f"--host 0.0.0.0 opens Dagster to the network, and Dagster has no login. Anyone who reaches port {port}" in said
    )
