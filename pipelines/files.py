"""Files on disk: written whole or not at all, on the disk before they count, and checked before they are used."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import ValidationError

from pipelines.errors import UserError

T = TypeVar("T")

LARGEST_JSON = 64 << 20
"""Bytes of a manifest, lock file or other JSON of ours; more is refused before it is parsed."""

DIGESTS = "digests.json"
"""Beside the files of a checkpoint: their SHA-256 by name."""

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
FULL = (errno.ENOSPC, errno.EDQUOT)
NO_DIRECTORY_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)  # file systems that have none
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

TEMPORARY = re.compile(r"\..+?\.(\d+)(\.[0-9a-f]{8})?")
"""Names of temporary files: `.<name>.<process id>.<random>`; earlier versions left out the random part."""

SETTLED = 100_000_000
"""Nanoseconds since its last change from which a file's state identifies its content: clocks tick in milliseconds."""


def sha256(file: Path) -> str:
    """SHA-256 of a file, read in full."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Unreadable(UserError):
    """A file is not what was written. The message is the cause alone: who knows the cure names file and cure."""


class _Digests:
    """SHA-256 by path and file state: of a file that does not change, computed once per process."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def get(self, file: Path) -> str:
        path = os.fspath(file)
        with self._guard:
            lock = self._locks.setdefault(path, threading.Lock())
        with lock:  # several threads read the same dataset: one computes
            state = self._state(path)
            known = self._known.get(path)
            if known and known[0] == state:
                return known[1]
            digest = sha256(file)
            self._put(path, state, digest)
            return digest

    def put(self, file: Path, digest: str) -> None:
        self._put(os.fspath(file), self._state(os.fspath(file)), digest)

    def _put(self, path: str, state: tuple[int, ...], digest: str) -> None:
        if time.time_ns() - max(state[1:3]) > SETTLED:
            self._known[path] = (state, digest)

    @staticmethod
    def _state(path: str) -> tuple[int, ...]:
        about = os.stat(path)
        return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev


_digests = _Digests()


def digest_once(file: Path) -> str:
    """SHA-256 of a file: computed at the first use in this process, and again only where the file has changed.

    A change is seen by size, times and inode. A disk that corrupts a file without any of these is noticed by the next
    process.
    """
    return _digests.get(file)


def remember_digest(file: Path, digest: str) -> None:
    """Take `digest`, just computed while `file` was written, for the first `digest_once`."""
    _digests.put(file, digest)


def fault(folder: Path, name: str, expected: str, root: Path | None = None) -> str | None:
    """What is wrong with the file `name` of `folder`, or None where its SHA-256 is `expected`.

    root: a folder that the file must not leave through a symbolic link.
    """
    file = folder / name
    if root is not None and leaves(file, root):
        return "is a symbolic link to a place outside the store"
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            return "is no regular file"
        actual = digest_once(file)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    return None if actual == expected else f"is damaged: its SHA-256 is {actual[:12]}…, not {expected[:12]}…"


def write_digests(folder: Path) -> None:
    """Put beside the files of a folder their digests, and all of it on the disk."""
    digests = {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    sync_tree(folder)


def digests_fault(folder: Path) -> str | None:
    """The first file of a folder that is not as `write_digests` saw it, and why; or None."""
    try:
        digests = parse_json(read_small(folder / DIGESTS), dict)
    except FileNotFoundError:
        return f"{DIGESTS} is missing"
    except Unreadable as error:
        return f"{DIGESTS} {error}"
    for name, digest in digests.items():
        if not is_relative(name) or not isinstance(digest, str):
            return f"{DIGESTS} names {name!r}"
        if cause := fault(folder, name, digest, folder):
            return f"{name} {cause}"
    return None


def leaves(path: Path, root: Path) -> bool:
    """Whether `path`, with its symbolic links followed, lies outside `root`."""
    real, base = os.path.realpath(path), _real(os.fspath(root))
    return real != base and not real.startswith(base.rstrip(os.sep) + os.sep)


@cache
def _real(root: str) -> str:
    return os.path.realpath(root)


def is_name(text: str) -> bool:
    """Whether `text` is the name of one file or folder that is not hidden: no path, no drive, nothing unprintable."""
    return is_relative(text) and "/" not in text and not text.startswith(".")


def is_relative(text: str) -> bool:
    """Whether `text` is a path below a folder, on every system: `data/x.arrow`, not `/x`, `../x`, `C:x` or `a//b`."""
    return (
        0 < len(text) <= 1024
        and text.isprintable()
        and "\\" not in text
        and not re.match(r"[A-Za-z]:", text)
        and all(part not in ("", ".", "..") for part in text.split("/"))
    )


def write_atomically(file: Path, text: str) -> None:
    """Write `text` so that a reader, also one after a power failure, sees the old file or the whole new one."""
    make_folder(file.parent)
    with _temporary(file, text) as fresh:
        fresh.replace(file)
    sync_folder(file.parent)


def create_once(file: Path, text: str) -> None:
    """Write `text` where there is no such file yet; of several processes that do so at once, one succeeds."""
    make_folder(file.parent)
    with _temporary(file, text) as fresh:
        try:
            os.link(fresh, file)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if not file.exists():
                os.replace(fresh, file)
    sync_folder(file.parent)


@contextmanager
def _temporary(file: Path, text: str) -> Iterator[Path]:
    """A file beside `file` that holds `text` and is on the disk; removed at the end, however it ends."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with fresh.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` of processes that no longer run."""
    for file in folder.glob(".*"):
        if (found := TEMPORARY.fullmatch(file.name)) and not _runs(int(found[1])) and not file.is_dir():
            file.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file in a folder is a temporary one of ours, of whatever process."""
    return TEMPORARY.fullmatch(name) is not None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link and not what it names; nothing where there is nothing."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it; the new names are on the disk when this returns."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: those that were created, renamed or removed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Put everything in a folder on the disk: the content of the files first, then the names."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(os.path.join(path, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(path))


def open_private(file: Path, flags: int) -> int:
    """A descriptor of a file of ours that must not be a symbolic link: who wrote the link chose what is written to."""
    try:
        return os.open(file, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(
            f"{file}: found a symbolic link. Expected: a file that this program made. Fix: remove the link."
        ) from None


def read_bounded(stream: BinaryIO) -> bytes:
    """All bytes of a small file; Unreadable where they are more than LARGEST_JSON."""
    data = stream.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise Unreadable(f"has more than {LARGEST_JSON:,} bytes")
    return data


def read_small(file: Path) -> bytes:
    """All bytes of a regular file of at most LARGEST_JSON bytes; Unreadable where it is none."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not block
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unreadable("is no regular file")
        return read_bounded(stream)


def parse_json(data: bytes, kind: type[T]) -> T:
    """The JSON in `data`, of type `kind` at its top; Unreadable where it is damaged."""
    names: dict[Any, str] = {dict: "an object", list: "a list"}
    if not data.strip():
        raise Unreadable("is empty")
    try:
        out = json.loads(data.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 at byte {error.start}") from None
    except Unreadable:
        raise
    except json.JSONDecodeError as error:
        raise Unreadable(f"is no whole JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise Unreadable(f"is no JSON of ours: {error}") from None
    except RecursionError:
        raise Unreadable("is nested too deep") from None
    if not isinstance(out, kind):
        raise Unreadable(f"holds {type(out).__name__}, not {names[kind]}")
    return out


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; of two with one name, JSON would silently keep the last."""
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise Unreadable(f"names '{next(name for name in names if names.count(name) > 1)[:80]}' twice in one object")
    return out


def first_cause(error: ValidationError) -> str:
    """The first thing that pydantic found in a file, as the cause of an Unreadable."""
    found = error.errors()[0]
    reason = found.get("ctx", {}).get("error")
    place = ".".join(map(str, found["loc"]))
    return str(reason) if isinstance(reason, UserError) else f"has an unexpected value or name at '{place}'"
