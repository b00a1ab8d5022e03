"""A store's shared copy at an address such as `s3://bucket/prefix`: small texts, and the files of datasets.

`<asset>/<pair>/manifest.json` says what the dataset is; its files lie beside it in a folder named by their content, so
that old and new never mix: what an upload that was killed left behind is no dataset, and the next one goes on from it.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.errors import UserError
from pipelines.fetching.paths import filesystem, inside

BLOCK = 4 << 20  # bytes read at a time
AT_ONCE = 8  # transfers: small files cost a round trip each, large ones fill the line


class RemoteError(UserError):
    """The address cannot be reached, lacks a file it should have, or holds one that is not what it should be."""


class Remote:
    """Everything of one store at its address. Paths are relative to it; `digests` are SHA-256 by a file's path."""

    def __init__(self, address: str):
        self.address = address.rstrip("/")

    def read(self, path: str) -> bytes | None:
        """The small file at `path`; None where there is nothing, Unreadable where it is too large to be ours."""
        try:
            with self._files().open(self._at(path), "rb") as source:
                return files.read_bounded(source)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(path, error) from None

    def write(self, path: str, text: str) -> None:
        """Put `text` at `path` in one request: a reader sees the old text or the new one."""
        try:
            self._files().pipe_file(self._at(path), text.encode())
        except OSError as error:
            raise self._failed(path, error) from None

    def names(self, path: str = "") -> list[str]:
        """Names of the files and folders right below `path`, in sorted order."""
        place = self._at(path)
        try:
            found = self._files().ls(place, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failed(path, error) from None
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != place)

    def publish(self, key: str, folder: Path, digests: Mapping[str, str], manifest: str) -> None:
        """Upload the files of `folder`, then the manifest, which makes them the dataset `key`; then drop the old ones.

        A file that a killed upload brought there whole is not sent again.
        """
        shared, content = self._files(), _content(digests)
        place = f"{key}/{content}"
        try:
            there = self._sizes(place)

            def send(name: str) -> None:
                if there.get(name) == (folder / name).stat().st_size:
                    return
                with (folder / name).open("rb") as source, shared.open(self._at(f"{place}/{name}"), "wb") as out:
                    while block := source.read(BLOCK):
                        out.write(block)

            _all(send, digests)
            self.write(f"{key}/manifest.json", manifest)
            for name in self.names(key):
                if name not in (content, "manifest.json"):
                    shared.rm(self._at(f"{key}/{name}"), recursive=True)
        except OSError as error:
            raise self._failed(key, error) from None

    def fetch(self, key: str, folder: Path, digests: Mapping[str, str], names: Iterable[str]) -> None:
        """Have the files `names` of the dataset `key` in `folder`, each as `digests` says, downloaded where it is not.

        digests: of all files of the dataset, by which its place is known.
        """
        place = f"{key}/{_content(digests)}"

        def bring(name: str) -> None:
            target = folder / name
            if target.is_file() and files.digest_once(target) == digests[name]:
                return
            if files.leaves(target, folder):
                raise RemoteError(
                    f"{target}: is, or lies behind, a symbolic link. Allowed: files of this program alone in its "
                    f"working copy. Fix: delete the folder {folder}."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
            try:
                with fresh.open("wb", buffering=0) as out:
                    found = self._digest(f"{place}/{name}", lambda block: _append(out, block, fresh))
                if found != digests[name]:
                    raise RemoteError(
                        f"store {self.address}: {key}/{name} has SHA-256 {found[:12]}… Needed: {digests[name][:12]}…, "
                        f"as its manifest says. Run 'python -m pipelines verify {self.address} --repair', then the "
                        f"command that made the store: it rebuilds this dataset."
                    )
                fresh.replace(target)
                files.remember_digest(target, found)
            finally:
                fresh.unlink(missing_ok=True)

        _all(bring, names)

    def discard(self, key: str) -> None:
        """Remove a dataset, its manifest first, so that it is made and uploaded anew."""
        shared = self._files()
        try:
            for name in sorted(self.names(key), key=lambda name: name != "manifest.json"):
                shared.rm(self._at(f"{key}/{name}"), recursive=True)
        except OSError as error:
            raise self._failed(key, error) from None

    def faults(self, key: str, digests: Mapping[str, str]) -> dict[str, str]:
        """{file: "missing" or "damaged"} of the dataset `key`, each file read whole."""
        place, out = f"{key}/{_content(digests)}", {}
        there = self._sizes(place)
        for name, expected in digests.items():
            if name not in there:
                out[name] = "is missing"
            elif self._digest(f"{place}/{name}", lambda block: None) != expected:
                out[name] = "is damaged"
        return out

    def _sizes(self, place: str) -> dict[str, int]:
        """Bytes of every file below a folder, by its path in it."""
        start = self._at(place)
        found = self._files().find(start, detail=True)  # some file systems answer with a slash before the path
        return {name[name.index(start) + len(start) + 1 :]: facts["size"] for name, facts in found.items()}

    def _digest(self, path: str, take: Callable[[bytes], Any]) -> str:
        """Give the blocks of a file to `take`; their SHA-256."""
        digest = hashlib.sha256()
        try:
            with self._files().open(self._at(path), "rb") as source:
                while block := source.read(BLOCK):
                    digest.update(block)
                    take(block)
        except _DiskError as error:
            raise error.cause from None
        except FileNotFoundError:
            raise RemoteError(
                f"store {self.address}: {path} is gone. Needed: what the manifest names. Run again: another machine "
                f"may have replaced it meanwhile; if not, run 'python -m pipelines verify {self.address} --repair'."
            ) from None
        except OSError as error:
            raise self._failed(path, error) from None
        return digest.hexdigest()

    def _files(self) -> Any:
        return filesystem(self.address)

    def _at(self, path: str) -> str:
        return inside(f"{self.address}/{path}".rstrip("/"))

    def _failed(self, path: str, error: OSError) -> RemoteError:
        return RemoteError(
            f"store {self.address}: {path or 'it'} cannot be read or written: {error}. Needed: a bucket that exists "
            f"and may be read and written. Check the address, the AWS_* variables and AWS_ENDPOINT_URL."
        )


class _DiskError(Exception):
    """An OSError of this machine's disk, while a file is read from the address."""

    def __init__(self, cause: OSError):
        super().__init__(str(cause))
        self.cause = cause


def _append(out: FileIO, block: bytes, file: Path) -> None:
    view = memoryview(block)
    try:
        while view:
            view = view[out.write(view) :]
    except OSError as error:
        raise _DiskError(OSError(error.errno, error.strerror, str(file))) from None


def _content(digests: Mapping[str, str]) -> str:
    """The name of the folder of just these files."""
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()[:16]


def _all(do: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(do, list(names)):
            pass
