"""A model hub on loopback: the part of huggingface.co's HTTP API by which files are listed and downloaded."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

BRANCH = "main"


def commit_of(files: Mapping[str, bytes]) -> str:
    """A commit hash: the same for the same files."""
    digest = hashlib.sha1()
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + data)
    return digest.hexdigest()


class HubServer:
    """Serves repositories of models and datasets at `url`, which goes into the environment's HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], dict[str, Mapping[str, bytes]]] = {}
        """(`models` or `datasets`, id) -> {commit or branch: files}."""
        self.gated: set[str] = set()
        """Ids of repositories whose files need TOKEN."""
        self.cut: dict[str, int] = {}
        """File -> bytes after which the connection is closed, once."""
        self.requests: list[tuple[str, str, str]] = []
        """(method, path, Range) of every request."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may hang up
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    TOKEN = "hf_" + "a" * 34

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def publish(self, repository: str, files: Mapping[str, bytes], kind: str = "models") -> str:
        """Make `files` the newest commit of a repository, and give its hash."""
        commit = commit_of(files)
        self.repositories.setdefault((kind, repository), {}).update({commit: dict(files), BRANCH: dict(files)})
        return commit

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body=True, sent=sent)

    def _answer(self, body: bool, sent: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        parts = path.split("/")
        if parts[0] == "api" and len(parts) >= 4:
            kind, repository, rest = parts[1], "/".join(parts[2:4]), parts[4:]
            self._api(kind, repository, rest, sent)
            return
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        if len(parts) >= 5 and parts[2] == "resolve":
            self._file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]), body)
            return
        self._fail(404, "EntryNotFound", "no such page")

    def _files(self, kind: str, repository: str, revision: str) -> Mapping[str, bytes] | None:
        """The files of a revision; None where the answer was sent already."""
        known = self.hub.repositories.get((kind, repository))
        if known is None:
            self._fail(401, "RepoNotFound", "Repository not found")
        elif revision not in known:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return known[revision]
        return None

    def _api(self, kind: str, repository: str, rest: list[str], sent: bytes) -> None:
        revision = rest[1] if len(rest) > 1 else BRANCH
        if (files := self._files(kind, repository, revision)) is None:
            return
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in sorted(files.items())
        ]
        match rest[:1]:
            case ["tree"]:
                below = "/".join(rest[2:])
                self._json([entry for entry in entries if entry["path"].startswith(below)])
            case ["paths-info"]:
                wanted = json.loads(sent)["paths"] if sent.startswith(b"{") else []
                self._json([entry for entry in entries if entry["path"] in wanted])
            case [] | ["revision"]:
                self._json(
                    {
                        "id": repository, "modelId": repository, "sha": commit_of(files), "private": False,
                        "gated": "manual" if repository in self.hub.gated else False, "disabled": False, "tags": [],
                        "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in sorted(files)],
                    }
                )  # fmt: skip
            case _:
                self._fail(404, "EntryNotFound", "no such page")

    def _file(self, kind: str, repository: str, revision: str, name: str, body: bool) -> None:
        if (files := self._files(kind, repository, revision)) is None:
            return
        allowed = self.headers.get("Authorization") == f"Bearer {self.hub.TOKEN}"
        if repository in self.hub.gated and not allowed:
            self._fail(401, "GatedRepo", f"Access to model {repository} is restricted. Please log in.")
            return
        if name not in files:
            self._fail(404, "EntryNotFound", "Entry not found")
            return
        data, begin = files[name], 0
        if (wanted := self.headers.get("Range", "")).startswith("bytes="):
            begin = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(files))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        end = begin + self.hub.cut.pop(name) if name in self.hub.cut else len(data)
        self.wfile.write(data[begin:end])
        if end < len(data):
            self.close_connection = True
            self.connection.close()

    def _json(self, value: object) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _fail(self, status: int, code: str, message: str) -> None:
        text = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
