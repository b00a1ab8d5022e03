"""Packages of OPUS releases: fetched whole or as far as is needed, kept, looked into, and read."""

import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.fetching.download import (
    WORKERS,
    DownloadedFile,
    DownloadJob,
    Remote,
    cached_path,
    download_all,
    probe_all,
)
from pipelines.fetching.ranged import Ranged, Unranged
from pipelines.fetching.transport import DownloadError
from pipelines.files import sha256
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback
from pipelines.sources._files import Codes, Rows, batches
from pipelines.sources._moses import NOT_STATED, Moses, check_zip, licence
from pipelines.sources._releases import Release, offered
from pipelines.sources.tmx import read_tmx
from pipelines.text.text_files import BLOCK, check_sizes, reading, streams

RANGED_FROM = 64 << 20  # bytes of a package below which it always comes whole
SPARED = 0.5  # share of a package's rows that must be spared for a part of it to be fetched; parts come twice
ENDINGS = {"moses": "txt.zip", "tmx": "tmx.gz"}


def _base(release: Release, home: Path) -> Path:
    ending = ENDINGS[release.format]
    return home / "downloads" / "opus" / release.corpus / release.version / f"{release.package}.{ending}"


def place(release: Release, home: Path) -> Path:
    """Where it is kept: a file, or a folder of blocks where only a part was fetched."""
    file = cached_path(_base(release, home), release.etag, release.size)
    return file if release.window is None else file.with_name(f"{file.name}.blocks")


def whole(file: Path, release: Release) -> bool:
    return file.is_file() and sha256(file) == release.sha256


def probed(releases: list[Release]) -> list[Release]:
    remotes = probe_all([release.url for release in releases])
    return [
        release.model_copy(update={"etag": remote.etag, "size": remote.size or 0})
        for release, remote in zip(releases, remotes, strict=True)
    ]


def states(releases: list[Release]) -> list[tuple[Any, ...]]:
    return [(*release.identity, release.etag, release.size) for release in releases]


def fetched(
    wanted: list[tuple[Release, int | None]], pair: Pair, home: Path, on_progress: ProgressCallback
) -> list[Release]:
    """The releases, of each so many rows at least, with what is known only of what is here: ETag, size, SHA-256, rows
    and licence. All of one format."""
    out = _begun(wanted, pair, home)
    left = [i for i, release in enumerate(out) if release is None]
    jobs = [DownloadJob(wanted[i][0].url, _base(wanted[i][0], home)) for i in left]
    for i, got in zip(left, download_all(jobs, _check(wanted[0][0]), on_progress) if left else [], strict=True):
        out[i] = _looked_into(wanted[i][0], got, pair)
    done = [release for release in out if release]
    return _with_licences([release for release in done if release.format == "tmx"], pair, home) or done


def _looked_into(release: Release, got: DownloadedFile, pair: Pair) -> Release:
    """What is known only of the whole file."""
    known: dict[str, Any] = {"etag": got.etag, "size": got.size, "sha256": got.sha256, "window": None}
    if release.format == "tmx":
        rows = sum(len(src) for src, _ in _units(got.file, release, pair))
        return release.model_copy(update={**known, "rows": rows})
    with zipfile.ZipFile(got.file) as package:
        rows = _moses(package, release).count()
        return release.model_copy(update={**known, "rows": rows, "licence": licence(package)})


def _begun(wanted: list[tuple[Release, int | None]], pair: Pair, home: Path) -> list[Release | None]:
    """Of large packages of which the beginnings are enough, these; None for those that must come whole."""
    out: list[Release | None] = [None] * len(wanted)
    few = [
        i
        for i, (release, rows) in enumerate(wanted)
        if release.format == "moses" and rows and release.rows and 2 * rows < SPARED * release.rows
    ]
    remotes = dict(zip(few, probe_all([wanted[i][0].url for i in few]), strict=True))
    large = [i for i, remote in remotes.items() if remote.etag and (remote.size or 0) >= RANGED_FROM]
    stop = threading.Event()

    def one(i: int) -> Release | None:
        release, rows = wanted[i]
        size = remotes[i].size or 0
        release = release.model_copy(update={"etag": remotes[i].etag, "size": size, "window": rows, "sha256": ""})
        try:
            with _ranged(release, home, lambda: release.url, stop) as package:
                check_sizes(release.url, package.infolist())
                for _ in _moses(package, release).read(pair, release.name, rows):
                    pass
                return release.model_copy(update={"licence": licence(package)})
        except Unranged:
            shutil.rmtree(place(release, home), ignore_errors=True)
            return None
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            shutil.rmtree(place(release, home), ignore_errors=True)
            raise DownloadError(
                f"{release.url}: not a sound zip file: {error}. Needed: a Moses package. Report it to the server."
            ) from None
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(WORKERS) as pool:
        for i, release in zip(large, pool.map(one, large), strict=True):
            out[i] = release
    return out


@contextmanager
def _ranged(
    release: Release, home: Path, address: Callable[[], str], stop: threading.Event | None = None
) -> Iterator[zipfile.ZipFile]:
    remote = Remote(release.url, release.etag, release.size, "")
    with Ranged(remote, place(release, home), address, stop) as file, zipfile.ZipFile(file) as package:
        yield package


def _moses(package: zipfile.ZipFile, release: Release) -> Moses:
    return Moses(package, release.name, release.package, (release.src, release.tgt))


def read(release: Release, pair: Pair, home: Path, most: int | None) -> Iterator[pa.RecordBatch]:
    """BITEXT batches of the first `most` rows of what is kept of a release."""
    if release.window is not None:
        with _ranged(release, home, lambda: _address(release, pair)) as package:
            yield from _moses(package, release).read(pair, release.name, most)
        return
    file = place(release, home)
    if release.format == "tmx":
        left = most
        for batch in batches(_units(file, release, pair), pair, release.name):
            yield batch.slice(0, left)
            if left is not None and (left := left - batch.num_rows) <= 0:
                return
        return
    with zipfile.ZipFile(file) as package:
        yield from _moses(package, release).read(pair, release.name, most)


def _address(release: Release, pair: Pair) -> str:
    """Where the server has it now."""
    urls = {offer.identity: offer.url for offer in offered(pair, release.format)}
    return urls.get(release.identity, release.url)


def fetched_again(releases: list[Release], pair: Pair, home: Path) -> None:
    """Bring back kept files that were deleted, just as the lock has them, from where the server has them now."""
    jobs = [
        DownloadJob(
            _address(release, pair),
            _base(release, home),
            DownloadedFile(release.etag, release.size, release.sha256, place(release, home)),
        )
        for release in releases
    ]
    download_all(jobs, _check(releases[0]))


def _units(file: Path, release: Release, pair: Pair) -> Iterator[Rows]:
    codes = Codes({release.src: pair.src, release.tgt: pair.tgt})
    for where, stream in streams(str(file), (".tmx",)):
        with reading(where):
            yield from read_tmx(stream, pair, f"{release.name}, {release.package}", codes)


def _check_gzip(file: Path) -> None:
    """ValueError where `file` is no gzip file, is a bomb, or its CRC does not match."""
    with file.open("rb") as raw:
        if raw.read(2) != b"\x1f\x8b":
            raise UserError("not a gzip file. Needed: a TMX package. Report it to the server.")
    for where, stream in streams(str(file), (".tmx",)):
        with reading(where):
            while stream.read(BLOCK):
                pass


def _check(release: Release) -> Callable[[Path], None]:
    return check_zip if release.format == "moses" else _check_gzip


def _with_licences(releases: list[Release], pair: Pair, home: Path) -> list[Release]:
    """TMX packages hold no licence: that of the Moses package beside each."""
    beside = {offer.identity: offer for offer in offered(pair, "moses")} if releases else {}
    return [
        release.model_copy(update={"licence": _licence(offer, home) if offer else NOT_STATED})
        for release, offer in ((release, beside.get(release.identity)) for release in releases)
    ]


def _licence(offer: Release, home: Path) -> str:
    """Read from the Moses package without the rest of it, where the server lets us."""
    (remote,) = probe_all([offer.url])
    part = offer.model_copy(update={"etag": remote.etag, "size": remote.size or 0, "window": 0})
    try:
        if not (remote.etag and remote.size):
            raise Unranged(offer.url)
        with _ranged(part, home, lambda: offer.url) as package:
            return licence(package)
    except Unranged:
        (got,) = download_all([DownloadJob(offer.url, _base(offer, home))], check_zip)
        with zipfile.ZipFile(got.file) as package:
            return licence(package)
    finally:
        shutil.rmtree(place(part, home), ignore_errors=True)
