# ruff: noqa: E501  # a table
"""What a broken or hostile server may answer, and what comes of it: a table of (name, answer, expected).

`CASES` and `inject` are also what a report counts: each answer is survived (the right bytes or records arrive all the
same) or refused in one sentence. Nothing that was there before is lost, and the process always ends.
"""

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pipelines.errors import UserError, printable
from pipelines.fetching import download, transport
from pipelines.fetching.download import DownloadJob, cached_path, download_all
from pipelines.languages import Pair
from pipelines.sources._moses import check_zip
from pipelines.sources._releases import check_known, offered
from tests.support.opus_server import lines, package

DATA = package({"C.de-en.de": lines(300, "a"), "C.de-en.en": lines(300, "b")})
SIZE, ETAG = len(DATA), '"one"'
PART = DATA[:2000]
"""What an earlier run has received; it must survive every answer that does not show that the file is another."""

RECORD = {
    "corpus": "C", "version": "v1", "source": "de", "target": "en", "preprocessing": "moses", "latest": "True",
    "url": "http://127.0.0.1:9/x.zip", "alignment_pairs": 7,
}  # fmt: skip
LIMITS = {"RATE_WINDOW": 0.3, "READ_TIMEOUT": 0.6, "BACKOFF": 0.001, "LONGEST_BACKOFF": 0.005, "LARGEST_ANSWER": 1 << 16,
          "LONGEST_RETRY_AFTER": 0.005}  # fmt: skip
PATIENCE = 20.0  # seconds after which a case counts as one that does not end


class Request:
    """A request as the server reads it; `count` is how many there have been for the file, HEAD apart."""

    def __init__(self, text: bytes, count: int):
        self.method, self.path, _ = text.split(b"\r\n")[0].decode().split(" ", 2)
        found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-", text)
        self.start = int(found[1]) if found else None
        self.count = count


Answer = Callable[[Request], Iterator[bytes]]


def head(status: str = "200 OK", **headers: Any) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def sound(request: Request) -> Iterator[bytes]:
    """The file as a sound server sends it."""
    start = request.start or 0
    status = "200 OK" if request.start is None else "206 Partial Content"
    ranged = {} if request.start is None else {"Content_Range": f"bytes {start}-{SIZE - 1}/{SIZE}"}
    yield head(status, Content_Length=SIZE - start, ETag=ETAG, **ranged)
    if request.method == "GET":
        yield DATA[start:]


def get(answer: Answer) -> Answer:
    """HEAD as a sound server, GET by `answer`."""
    return lambda request: sound(request) if request.method == "HEAD" else answer(request)


def raw(*pieces: bytes, pause: float = 0.0) -> Answer:
    """The same bytes to whatever request, the last piece for ever where there is a pause."""

    def send(request: Request) -> Iterator[bytes]:
        yield from pieces
        while pause:
            time.sleep(pause)
            yield pieces[-1]

    return send


def first(times: int, answer: Answer, then: Answer = sound) -> Answer:
    return lambda request: answer(request) if request.count <= times else then(request)


def whole(**headers: Any) -> Answer:
    """The file with just these headers, its end marked by the end of the connection."""
    return lambda request: iter([head(**headers), DATA if request.method == "GET" else b""])


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end


def endless(piece: bytes, start: bytes) -> Answer:
    """As fast as it goes, for ever."""

    def send(request: Request) -> Iterator[bytes]:
        yield start
        while True:
            yield piece

    return send


def _one_byte(request: Request) -> Iterator[bytes]:
    start = request.start or 0
    for piece in sound(request):
        yield piece[:1] if piece == DATA[start:] else piece


def _half(request: Request) -> Iterator[bytes]:
    for piece in sound(request):
        yield piece if piece.startswith(b"HTTP") else piece[: len(piece) // 2]


def _other_part(request: Request) -> Iterator[bytes]:
    if request.start is None:
        yield from sound(request)
        return
    begin = request.start + 5
    yield head("206 Partial Content", ETag=ETAG, Content_Range=f"bytes {begin}-{SIZE - 1}/{SIZE}") + DATA[begin:]


def _other_total(request: Request) -> Iterator[bytes]:
    start = request.start or 0
    yield head("206 Partial Content", ETag=ETAG, Content_Range=f"bytes {start}-{SIZE + 8}/{SIZE + 9}") + DATA[start:]


def _sized(size: int) -> Answer:
    """HEAD and GET state `size`, then the file comes; a part beyond it does not exist."""

    def send(request: Request) -> Iterator[bytes]:
        if request.start is not None and request.start >= SIZE:
            yield head("416 Range Not Satisfiable", Content_Range=f"bytes */{SIZE}", Content_Length=0)
            return
        start = request.start or 0
        ranged = {"Content_Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
        yield head("206 Partial Content" if start else "200 OK", Content_Length=size - start, ETag=ETAG, **ranged)
        if request.method == "GET":
            yield DATA[start:]

    return send


def api(body: Any, **headers: Any) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return raw(head(Content_Length=len(data), **headers) + data)


SURVIVED = ""
REFUSED_ADDRESS = r"Expected: an http or https address"
SLOW = (
    r"[\d,]+ bytes per second over 0.3 seconds, 3 times in a row\. Expected: at least 1,024|no complete answer within"
)

CASES: list[tuple[str, Answer, str]] = [
    # files: what still gives the file
    ("file: no length, ended by the connection", whole(ETag=ETAG), SURVIVED),
    ("file: chunked", get(raw(head(Transfer_Encoding="chunked", ETag=ETAG) + chunked(DATA[:9], DATA[9:]))), SURVIVED),
    ("file: chunked, with extensions and a trailer", get(raw(
        head(Transfer_Encoding="chunked", ETag=ETAG) + b"%x;a=b\r\n" % SIZE + DATA + b"\r\n0\r\nX-Sum: 1\r\n\r\n"
    )), SURVIVED),
    ("file: a length of superscript digits", whole(Content_Length="\xb2\xb2", ETag=ETAG), SURVIVED),
    ("file: a negative length", whole(Content_Length="-5", ETag=ETAG), SURVIVED),
    ("file: a length of 5,000 digits", whole(Content_Length="9" * 5000, ETag=ETAG), SURVIVED),
    ("file: HEAD states no bytes", lambda r: iter([head(Content_Length=0)]) if r.method == "HEAD" else whole()(r),
     SURVIVED),
    ("file: packed by the server's own account", whole(Content_Encoding="gzip", ETag=ETAG), SURVIVED),
    ("file: the connection ends after half of the rest, ten times", get(first(10, _half)), SURVIVED),
    ("file: an empty reply, three times", get(first(3, raw(b""))), SURVIVED),
    ("file: 503, Retry-After in superscript", get(first(3, raw(head("503 Busy", Retry_After="\xb2")))), SURVIVED),
    ("file: 503, Retry-After negative", get(first(3, raw(head("503 Busy", Retry_After="-1")))), SURVIVED),
    ("file: 429, Retry-After of 400 digits", get(first(3, raw(head("429 Busy", Retry_After="9" * 400)))), SURVIVED),
    ("file: 503, Retry-After in the year 9999", get(first(3, raw(
        head("503 Busy", Retry_After="Fri, 31 Dec 9999 23:59:59 GMT")))), SURVIVED),
    ("file: 503, Retry-After no date", get(first(3, raw(
        head("503 Busy", Retry_After="Fri, 99 Dec 99999 23:59:59 +9999")))), SURVIVED),
    ("file: 503 with an endless body", get(first(3, endless(b"x" * 4096, head("503 Busy")))), SURVIVED),
    ("file: another part than the one requested", get(first(1, _half, first(3, _other_part))), SURVIVED),
    ("file: the server knows no parts", get(first(4, _half, whole(ETag=ETAG))), SURVIVED),
    ("file: a redirect", get(first(1, raw(head("302 Found", Location="/elsewhere")))), SURVIVED),
    ("file: five redirects", get(first(5, raw(head("307 Moved", Location="?again")))), SURVIVED),
    ("file: a redirect with an endless body", get(first(1, endless(b"x" * 4096, head("301 Moved", Location="/y")))),
     SURVIVED),
    ("file: an ETag of escape sequences", whole(ETag='"\x1b]0;owned\x07"'), SURVIVED),
    # files: what is refused
    ("file: a body longer than HEAD states", get(raw(head(ETag=ETAG) + DATA + b"more")), r"more than the \d+,\d+ bytes"),
    ("file: a chunked body longer than HEAD states",
     get(raw(head(Transfer_Encoding="chunked", ETag=ETAG) + chunked(DATA, b"more"))), r"more than the \d+,\d+ bytes that"),
    ("file: a stated length longer than HEAD's", get(raw(head(Content_Length=SIZE + 4, ETag=ETAG) + DATA + b"more")),
     r"the server states \d+,\d+ bytes, then \d+,\d+ \(10 times\)"),
    ("file: HEAD states more than there is", _sized(SIZE + 100), r"no more than what has arrived.* \(10 times\)"),
    ("file: Content-Range of another total", get(_other_total), r"the server states .* bytes, then .* \(10 times\)"),
    ("file: a length of an exabyte", _sized(10**18 - 1), r"a file of 999,.* bytes\. Expected: at most"),
    ("file: an endless body", endless(b"x" * 65536, head(ETag=ETAG)), r"more than the .* bytes that a file may have"),
    ("file: an empty file", raw(head(Content_Length=0)), r"an empty file\. Expected: at least 1 byte"),
    ("file: an empty file without a length", raw(head()), r"an empty file\. Expected: at least 1 byte"),
    ("file: a byte now and then", get(raw(head(Content_Length=SIZE, ETag=ETAG), b"x", pause=0.02)), SLOW),
    ("file: a byte a connection", get(lambda request: _one_byte(request)), SLOW),
    ("file: a header byte now and then", raw(b"HTTP/1.1 200 OK\r\nX-A: ", b"x", pause=0.02), SLOW),
    ("file: a header now and then", raw(b"HTTP/1.1 200 OK\r\n", b"X-A: x\r\n", pause=0.02), r"100 headers|" + SLOW),
    ("file: 100 Continue for ever", raw(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.02), SLOW),
    ("file: a chunk size that never ends",
     get(raw(head(Transfer_Encoding="chunked", ETag=ETAG), b"0", pause=0.02)), SLOW),
    ("file: trailers that never end", get(raw(
        head(Transfer_Encoding="chunked", ETag=ETAG) + chunked(DATA[:5], end=b"0\r\n"), b"X: y\r\n", pause=0.02)), SLOW),
    ("file: 10,000 headers", raw(b"HTTP/1.1 200 OK\r\n" + b"X-A: x\r\n" * 10_000 + b"\r\n"), r"100 headers"),
    ("file: a header of 1 MB", raw(b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 1_000_000 + b"\r\n\r\n"), r"65536 bytes"),
    ("file: no HTTP", raw(b"\x16\x03\x01\x02\x00" * 50 + b"\r\n\r\n"), r"no new byte in 30 tries"),
    ("file: an empty reply, always", raw(b""), r"no new byte in 30 tries; the last one: Remote end closed"),
    ("file: 503, always", raw(head("503 Busy", Content_Length=0)), r"no new byte in 30 tries; the last one: status 503"),
    ("file: no byte after the headers", get(lambda r: iter([head(Content_Length=SIZE, ETag=ETAG), None])),  # type: ignore[list-item]
     r"no new byte in \d+ tries; the last one: no byte for|" + SLOW),
    ("file: a redirect to itself", raw(head("302 Found", Location="/x.zip")), r"more than 10 redirects"),
    ("file: a redirect to file:", raw(head("302 Found", Location="file:///etc/passwd")), REFUSED_ADDRESS),
    ("file: a redirect to ftp:", raw(head("302 Found", Location="ftp://127.0.0.1/x")), REFUSED_ADDRESS),
    ("file: a redirect to data:", raw(head("302 Found", Location="data:application/zip;base64,UEs=")), REFUSED_ADDRESS),
    ("file: a redirect to no address", raw(head("302 Found", Location="http://[::1/x")), REFUSED_ADDRESS),
    ("file: a redirect of bytes that are no UTF-8", raw(head("302 Found", Location="gopher://\xff\xfe")), REFUSED_ADDRESS),
    ("file: a redirect that says nowhere", raw(head("302 Found")), r"the server answers 302 Found"),
    ("file: 404 with escape sequences and direction marks",
     raw(head("404 \x1b[31mNo\x07 \xe2\x80\xae file", Content_Length=0)), r"the server answers 404 .*No.*Needed: the file"),
    ("file: 404 with a reason of 60 KB", raw(head("404 " + "x" * 60_000, Content_Length=0)), r"answers 404 x{50,99}…\. N"),
    ("file: 404 with an endless body", endless(b"x" * 4096, head("404 Not Found")), r"the server answers 404 Not Found"),
    ("file: 204", raw(head("204 No Content")), r"the server answers 204 No Content"),
    ("file: 304", raw(head("304 Not Modified")), r"the server answers 304 Not Modified"),
    ("file: 101", raw(head("101 Switching Protocols")), r"the server answers 101 Switching"),
    ("file: a web page", api(b"<html>Sign in</html>" * 50), r"not a sound zip file"),
    ("file: a part nobody requested", get(raw(head("206 Partial", ETag=ETAG, Content_Range="bytes \xb2-3/4") + DATA)),
     r"another part than the one requested \(10 times\)"),
    ("file: another file at each request", lambda r: iter([head(ETag=f'"{time.monotonic_ns()}"', Content_Length=SIZE),
     DATA if r.method == "GET" else b""]), r"the file changed on the server meanwhile \(10 times\)"),
    # the API: what still gives the records
    ("api: sound", api({"corpora": [RECORD]}), SURVIVED),
    ("api: packed", api(gzip.compress(json.dumps({"corpora": [RECORD]}).encode()), Content_Encoding="gzip"), SURVIVED),
    ("api: rows in superscript digits", api({"corpora": [{**RECORD, "alignment_pairs": "²"}]}), SURVIVED),
    ("api: rows of 5,000 digits", api({"corpora": [{**RECORD, "alignment_pairs": "9" * 5000}]}), SURVIVED),
    ("api: names that lead out of the store", api({"corpora": [
        RECORD, {**RECORD, "corpus": "../../etc"}, {**RECORD, "version": "/tmp/x"}, {**RECORD, "corpus": "x" * 5000}
    ]}), SURVIVED),
    ("api: names with escape sequences", api({"corpora": [RECORD, {**RECORD, "corpus": "\x1b[31mC\u202e"}]}), SURVIVED),
    # the API: what is refused
    ("api: an answer too large", api({"corpora": [RECORD] * 1000}), r"an answer of more than"),
    ("api: an endless answer", endless(b" " * 4096, head()), r"an answer of more than"),
    ("api: an answer too large once unpacked", api(gzip.compress(b" " * (8 << 20)), Content_Encoding="gzip"),
     r"an answer of more than"),
    ("api: packed in an unknown way", api(b"\x0b\x02\x80", Content_Encoding="br"), r"found Content-Encoding br"),
    ("api: packed twice", api(gzip.compress(gzip.compress(b"{}")), Content_Encoding="gzip, gzip"), r"gzip, gzip"),
    ("api: packed by its own account only", api({"corpora": []}, Content_Encoding="gzip"), r"the answer is no JSON"),
    ("api: a byte now and then", raw(head(), b" ", pause=0.02), SLOW),
    ("api: a web page", api(b"<html>"), r"the answer is no JSON \(10 times\)"),
    ("api: nothing", api(b""), r"the answer is no JSON"),
    ("api: nested 30,000 deep", api(b"[" * 30_000), r"the answer is no JSON"),
    ("api: a number of 10,000 digits", api(b'{"corpora": ' + b"1" * 10_000 + b"}"), r"the answer is no JSON"),
    ("api: bytes that are no UTF-8", api(b'{"corpora": ["\xff\xfe"]}'), r"the answer is no JSON"),
    ("api: cut off", raw(head(Content_Length=500) + b'{"corpora": ['), r"no new byte in 30 tries|the answer is no JSON"),
    ("api: a list", api([RECORD]), r"not that of an OPUS API"),
    ("api: a text", api("corpora"), r"not that of an OPUS API"),
    ("api: null", api(None), r"not that of an OPUS API"),
    ("api: corpora of numbers", api({"corpora": [1, 2]}), r"not that of an OPUS API"),
    ("api: corpora of null", api({"corpora": None}), r"not that of an OPUS API"),
    ("api: a record without an address", api({"corpora": [{k: v for k, v in RECORD.items() if k != "url"}]}), r"'url'"),
    ("api: an address that is a number", api({"corpora": [{**RECORD, "url": 5}]}), r"not that of an OPUS API"),
    ("api: an address that is a list", api({"corpora": [{**RECORD, "url": ["x"]}]}), r"not that of an OPUS API"),
    ("api: a name that is an object", api({"corpora": [{**RECORD, "corpus": {}}]}), r"not that of an OPUS API"),
    ("api: a redirect to file:", raw(head("302 Found", Location="file:///etc/passwd")), REFUSED_ADDRESS),
    ("names: no list", api({"corpora": {"C": 1}}), r"not that of an OPUS API"),
    ("names: a list of numbers", api({"corpora": [1]}), r"not that of an OPUS API"),
    ("names: a list at the top", api(["C"]), r"not that of an OPUS API"),
]  # fmt: skip


class Server:
    """Answers by `answer` on loopback; every connection is closed after it."""

    def __init__(self, answer: Answer):
        self._answer, self._count, self._end = answer, 0, threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._end.set()
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._socket.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(PATIENCE)
            text = b""
            while b"\r\n\r\n" not in text:
                if not (piece := connection.recv(65536)):
                    return
                text += piece
            self._count += not text.startswith(b"HEAD")
            for piece in self._answer(Request(text, self._count)):
                if piece is None:  # silence
                    self._end.wait(PATIENCE)
                if self._end.is_set():
                    return
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


def inject(name: str, answer: Answer, folder: Path) -> str:
    """Let a server answer so: "" where the file or the records arrived, else the sentence that the user sees."""
    server = Server(answer)
    with ExitStack() as stack:
        stack.callback(server.close)
        stack.enter_context(patch.multiple(transport, **LIMITS))
        stack.enter_context(patch.object(download, "LARGEST_FILE", 4 << 20))
        stack.enter_context(patch.dict("os.environ", {"OPUS_URL": f"{server.url}/opusapi/", "NO_PROXY": "*"}))
        try:
            if name.startswith("file:"):
                (got,) = download_all([DownloadJob(f"{server.url}/x.zip", folder / "x.zip")], check_zip)
                assert got.file.read_bytes() == DATA
            elif name.startswith("api:"):
                (offer,) = offered(Pair.parse("de-en"), "moses")
                assert (offer.corpus, offer.version, offer.url) == ("C", "v1", RECORD["url"])
            else:
                check_known(["C/v1"])
        except UserError as error:
            return str(error)
    return SURVIVED


def figures(folder: Path) -> dict[str, int]:
    """How many answers are injected, how many of them are survived, and how many refused in one sentence."""
    outcomes = []
    for number, (name, answer, _) in enumerate(CASES):
        (folder / str(number)).mkdir(parents=True)
        outcomes.append(inject(name, answer, folder / str(number)))
    survived = outcomes.count(SURVIVED)
    return {"injected": len(outcomes), "survived": survived, "refused": len(outcomes) - survived}


@pytest.mark.parametrize(("name", "answer", "expected"), CASES, ids=[name for name, _, _ in CASES])
def test_it_is_survived_or_refused_in_one_sentence(name: str, answer: Answer, expected: str, tmp_path: Path) -> None:
    before = tmp_path / "other.zip"
    before.write_bytes(DATA)
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(inject(name, answer, tmp_path))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it does not end"
    (outcome,) = found
    if isinstance(outcome, BaseException):
        raise outcome
    if expected == SURVIVED:
        assert outcome == SURVIVED
    else:
        assert re.search(expected, outcome), outcome
        assert outcome == printable(outcome)
        assert "\n" not in outcome
        assert len(outcome) < 1000
    assert before.read_bytes() == DATA
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".zip" and file.read_bytes() != DATA]


@pytest.mark.parametrize(
    "answer",
    [
        raw(b""),
        raw(head("503 Busy", Content_Length=0)),
        raw(head("404 Not Found", Content_Length=0)),
        raw(head("302 Found", Location="file:///etc/passwd")),
        get(raw(head(Content_Length=SIZE - len(PART), ETag=ETAG), b"x", pause=0.05)),
        get(raw(b"")),
        get(raw(head("206 Partial", ETag=ETAG, Content_Range=f"bytes {len(PART)}-{SIZE - 1}/{SIZE}") + DATA)),
    ],
)
def test_what_an_earlier_run_has_received_is_not_lost(answer: Answer, tmp_path: Path) -> None:
    part = cached_path(tmp_path / "x.zip", ETAG, SIZE).with_suffix(".part")
    part.write_bytes(PART)
    assert inject("file: resumed", answer, tmp_path) != SURVIVED
    assert part.read_bytes().startswith(PART)
    assert inject("file: resumed", sound, tmp_path) == SURVIVED


def test_the_documented_bounds_are_those_of_the_code() -> None:
    text = (Path(__file__).parent.parent / "SECURITY.md").read_text(encoding="utf-8")
    t = transport
    for row in (
        f"{download.LARGEST_FILE >> 30} GiB; {download.SPARE_DISK >> 20} MiB, looked at before and every {download.DISK_EVERY >> 20} MiB",
        f"| a JSON answer, packed or not | {t.LARGEST_ANSWER >> 20} MiB |",
        f"| {t.SLOWEST:,} bytes per second on average over {t.RATE_WINDOW:g} seconds, three times in a row |",
        f"| {t.CONNECT_TIMEOUT:g}, {t.READ_TIMEOUT:g} and {t.RATE_WINDOW:g} seconds |",
        f"| {t.TRIES}; {t.UNREACHABLE}; {t.WRONG} |",
        f"| {t.LONGEST_RETRY_AFTER:g} seconds |",
        f"| {t.REDIRECTS}, to http and https only",
    ):
        assert row in text
    assert t.SLOW_WINDOWS == 3


def test_every_kind_of_answer_is_there() -> None:
    names = [name for name, _, _ in CASES]
    assert len(set(names)) == len(names)
    assert sum(expected == SURVIVED for _, _, expected in CASES) >= 20
    assert sum(expected != SURVIVED for _, _, expected in CASES) >= 50
