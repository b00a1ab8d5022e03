"""A small server of OPUS's API and packages on loopback, with the faults that networks have."""

import gzip
import hashlib
import io
import json
import random
import threading
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

FAULTS = ("503", "drop", "stall", "truncate", "corrupt", "norange")


def package(members: dict[str, bytes]) -> bytes:
    """A zip file, the same bytes for the same members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def lines(count: int, seed: str) -> bytes:
    """Text that hardly compresses, so that half a file is many bytes."""
    rng = random.Random(seed)
    return "".join(f"{i} {rng.getrandbits(200):x}\n" for i in range(count)).encode()


class Mirror:
    """Packages by path; `faults` gives each fault's probability per request of a file, drawn anew for each try."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.records: list[dict] = []
        self.faults: dict[str, float] = {}
        self.seed = 0
        self.md5_etags = True
        self.retry_after = "0"
        self.ranges = True
        """Whether the server knows Range at all."""
        self.busy = self.most_busy = 0
        """Transfers going on, now and at most."""
        self.sent = 0
        """Bytes of files sent."""
        self.slow = 0.0
        """Seconds before the body of a file."""
        self.guard, self.pause = threading.Lock(), threading.Event()
        self.requests: list[tuple[str, str, str]] = []
        """(method, path, Range) of every request of a file; the API is ("API", query, "")."""
        self._tries: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"mirror": self}))
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up on purpose
        self.release = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(
        self,
        release: str,
        pair: str,
        src: bytes,
        tgt: bytes,
        latest: bool = True,
        licence: str = "CC0-1.0\nSee the web page.\n",
        more: dict[str, bytes] | None = None,
        rows: int | None = None,
    ) -> str:
        """Publish `Corpus/version` of `src-tgt`, the server's codes in its order; returns the path.

        rows: what the API states of its size, where it does.
        """
        corpus, version = release.split("/")
        codes = pair.split("-")
        members = {f"{corpus}.{pair}.{codes[0]}": src, f"{corpus}.{pair}.{codes[1]}": tgt, "LICENSE": licence.encode()}
        path = f"/OPUS-{corpus}/{version}/moses/{pair}.txt.zip"
        self.files[path] = package({**members, **(more or {})})
        self._record(release, pair, "moses", path, latest, rows)
        return path

    def add_tmx(self, release: str, pair: str, units: str, latest: bool = True) -> str:
        """Publish the TMX package whose body is `units`; returns the path."""
        corpus, version = release.split("/")
        path = f"/OPUS-{corpus}/{version}/tmx/{pair}.tmx.gz"
        self.files[path] = gzip.compress(f'<tmx version="1.4"><header/><body>{units}</body></tmx>'.encode(), mtime=0)
        self._record(release, pair, "tmx", path, latest, None)
        return path

    def _record(self, release: str, pair: str, format: str, path: str, latest: bool, rows: int | None) -> None:
        corpus, version = release.split("/")
        record: dict = {
            "corpus": corpus,
            "version": version,
            "source": pair.split("-")[0],
            "target": pair.split("-")[1],
            "preprocessing": format,
            "latest": str(latest),
            "url": self.url + path,
        }
        if rows is not None:
            record["alignment_pairs"] = rows
        self.records = [item for item in self.records if item["url"] != record["url"]] + [record]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def draw(self, path: str) -> str | None:
        self._tries[path] += 1
        rng = random.Random(f"{self.seed} {path} {self._tries[path]}")
        return next((kind for kind in FAULTS if rng.random() < self.faults.get(kind, 0)), None)

    def etag(self, path: str) -> str:
        digest = hashlib.md5(self.files[path]).hexdigest()
        return f'"{digest}"' if self.md5_etags else f'"{digest[:16]}-2"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/opusapi/":
            self.mirror.requests.append(("API", url.query, ""))
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            if query.get("corpora") == "True":
                found: list = sorted({record["corpus"] for record in self.mirror.records})
            else:
                pair = {query["source"], query["target"]}
                found = [record for record in self.mirror.records if {record["source"], record["target"]} == pair]
                if wanted := query.get("preprocessing"):
                    found = [record for record in found if record.get("preprocessing", wanted) == wanted]
            self._send(200, json.dumps({"corpora": found}).encode())
        else:
            self._file(body=True)

    def _send(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _file(self, body: bool) -> None:
        mirror, path, wanted = self.mirror, self.path, self.headers.get("Range", "")
        mirror.requests.append((self.command, path, wanted))
        if path not in mirror.files:
            return self._send(404, b"")
        data, etag = mirror.files[path], mirror.etag(path)
        fault = mirror.draw(path) if body else None
        if fault == "503":
            return self._send(503, b"", Retry_After=mirror.retry_after)
        start, end = 0, len(data)
        ranged = bool(wanted) and mirror.ranges and fault != "norange" and self.headers.get("If-Range", etag) == etag
        if ranged:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(len(data), int(last) + 1) if last else len(data)
        part = data[start:end]
        half = len(part) // 2
        if fault == "corrupt" and part:
            part = part[:half] + bytes([part[half] ^ 0xFF]) + part[half + 1 :]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(half if fault == "truncate" else len(part)))
        self.send_header("ETag", etag)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return None
        part = part[:half] if fault in ("drop", "stall", "truncate") else part
        with mirror.guard:
            mirror.busy, mirror.sent = mirror.busy + 1, mirror.sent + len(part)
            mirror.most_busy = max(mirror.busy, mirror.most_busy)
        mirror.pause.wait(mirror.slow)
        try:
            self.wfile.write(part)
        finally:
            with mirror.guard:
                mirror.busy -= 1
        if fault == "stall":
            self.mirror.release.wait(1.0)
        if fault in ("drop", "stall"):
            self.close_connection = True
            self.connection.close()
        return None
