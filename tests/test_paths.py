import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

from pipelines.fetching import paths
from pipelines.fetching.paths import content_hash, expand, open_binary
from pipelines.languages import Pair
from pipelines.sources.table import Table

FILES = {"a.tsv": b"en\tde\none\teins\n", "deep/b.tsv": b"en\tde\ntwo\tzwei\n", "deep/er/c.txt": b"three"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a bucket on a real S3-compatible server on loopback, with FILES in it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    known = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
        bucket = S3FileSystem(
            endpoint_override=known["AWS_ENDPOINT_URL"], region="us-east-1", allow_bucket_creation=True
        )
        bucket.create_dir("memory")
        for name, data in FILES.items():
            with bucket.open_output_stream(f"memory/tm/{name}") as stream:
                stream.write(data)
        yield "s3://memory/tm"
    server.stop()


@pytest.fixture
def local(tmp_path: Path) -> str:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return str(tmp_path)


@pytest.fixture
def memory() -> str:
    for name, data in FILES.items():
        paths.filesystem("memory://").pipe_file(f"tm/{name}", data)
    return "memory://tm"


@pytest.mark.parametrize("where", ["local", "memory", "s3"])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tsv", ["a.tsv"]),
        ("*.tsv", ["a.tsv"]),
        ("*/*.tsv", ["deep/b.tsv"]),
        ("**/*.tsv", ["a.tsv", "deep/b.tsv"]),
        ("**/*", ["a.tsv", "deep/b.tsv", "deep/er/c.txt"]),
        ("deep/[b-c].tsv", ["deep/b.tsv"]),
    ],
)
def test_a_pattern_finds_the_same_files_everywhere(
    request: pytest.FixtureRequest, where: str, pattern: str, names: list[str]
) -> None:
    root = request.getfixturevalue(where)
    found = expand(f"{root}/{pattern}")
    assert found == [f"{root}/{name}" for name in names]
    for path, name in zip(found, names, strict=True):
        with open_binary(path) as stream:
            assert stream.read() == FILES[name]
            stream.seek(1)
            assert stream.read(2) == FILES[name][1:3]
        assert content_hash(path) == hashlib.sha256(FILES[name]).hexdigest()


@pytest.mark.parametrize("where", ["local", "memory", "s3"])
@pytest.mark.parametrize("pattern", ["b.tsv", "*.csv", "deep", "nowhere/*"])
def test_what_is_not_there_is_an_error(request: pytest.FixtureRequest, where: str, pattern: str) -> None:
    with pytest.raises(
        ValueError, match=r"found no such file.*Allowed: a file, or a pattern of files such as .* Correct"
    ):
        expand(f"{request.getfixturevalue(where)}/{pattern}")


def test_an_address_that_cannot_be_read_is_an_error(s3: str) -> None:
    with pytest.raises(ValueError, match="'nosuch://x/y': .*Needed: an address that can be read"):
        expand("nosuch://x/y")
    with pytest.raises(ValueError, match="'s3://nobucket/\\*': "):
        expand("s3://nobucket/*")


def test_a_relative_path_starts_at_the_working_directory(local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(local)
    assert expand("*.tsv") == ["a.tsv"]
    with pytest.raises(ValueError, match=f"'x.tsv': found no such file below the working directory, {local}"):
        expand("x.tsv")


def test_a_name_with_brackets_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "[x].tsv").write_text("1")
    (tmp_path / "x.tsv").write_text("2")
    assert expand(f"{tmp_path}/[x].tsv") == [f"{tmp_path}/[x].tsv"]


def test_a_changed_file_has_another_hash_and_an_old_one_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    now = time.time()
    file.write_bytes(b"one")
    os.utime(file, (now, now))
    first = content_hash(str(file))
    file.write_bytes(b"two")  # as long, and at the same time
    os.utime(file, (now, now))
    second = content_hash(str(file))
    assert [first, second] == [hashlib.sha256(text).hexdigest() for text in (b"one", b"two")]
    old = time.time() - 100
    os.utime(file, (old, old))
    assert content_hash(str(file)) == second
    monkeypatch.setattr(paths, "open_binary", lambda path: pytest.fail("read again"))
    assert content_hash(str(file)) == second


def test_a_source_reads_from_a_bucket(s3: str, local: str) -> None:
    pair = Pair.parse("en-de")
    here, there = (
        Table(corpus="tm", paths=[f"{root}/**/*.tsv"], columns={"en": "en", "de": "de"}) for root in (local, s3)
    )
    rows = [row for batch in there.fetch(pair, Path()) for row in batch.to_pylist()]
    assert [(row["src"], row["tgt"]) for row in rows] == [("eins", "one"), ("zwei", "two")]
    assert there.pin(pair, Path()) == here.pin(pair, Path())
    assert [file["url"] for file in there.provenance(pair, Path())["tm/local"]["files"]] == [
        f"{s3}/a.tsv",
        f"{s3}/deep/b.tsv",
    ]
