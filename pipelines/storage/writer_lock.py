"""The lock that lets one process at a time write to a store."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines import files
from pipelines.storage.errors import StoreError

FILE = ".writer"


class WriterLock:
    """The writer lock of the store whose files lie below `root`; `address` names the store in messages.

    For a store at an address it excludes writers of this machine only: users must not write to it from two machines at
    once.
    """

    def __init__(self, root: Path, address: str):
        self._root, self._address = root, address
        self._is_held = False
        self._read_only_error: OSError | None = None

    @contextmanager
    def hold(self, patience: float, has_store: Callable[[], bool]) -> Iterator[bool]:
        """Hold the lock; yield False on a read-only or full disk, where nobody can write.

        Args:
            patience: Seconds to wait for another writer, such as a trainer whose parent has just died.
            has_store: Whether the store exists: on a read-only disk it can then still be read.

        Raises:
            StoreError: Another process holds the lock for longer.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor = files.open_private(self._root / FILE, os.O_RDWR)
        except OSError as error:
            if error.errno not in (*files.READ_ONLY, *files.FULL) or not has_store():
                raise
            self._read_only_error = error
            try:
                yield False
            finally:
                self._read_only_error = None
            return
        with open(descriptor, "r+", encoding="utf-8", errors="replace") as file:
            self._acquire(file, patience)
            self._is_held = True
            try:
                yield True
            finally:
                self._is_held = False

    def _acquire(self, file: IO[str], patience: float) -> None:
        """Lock `file` and write the id of this process into it."""
        deadline = time.monotonic() + patience
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"store {self._address}: process {file.read(40).strip() or 'unknown'} is writing to it. "
                    f"Expected: one writer at a time. Fix: wait for it, stop it, or name another store."
                )
            time.sleep(0.1)
        with suppress(OSError):  # only for the message above: a full disk must not prevent reading
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), str(os.getpid()).encode(), 0)

    @contextmanager
    def try_exclude_writers(self) -> Iterator[bool]:
        """Yield whether no other process writes; if so, none starts within the context."""
        if self._is_held:
            yield True
            return
        with open(files.open_private(self._root / FILE, os.O_RDWR), "r+") as file:
            yield _try_lock(file)

    def check_writable(self) -> None:
        """Raise the OSError that kept this process from becoming the writer, if any."""
        if error := self._read_only_error:
            raise OSError(error.errno, error.strerror, str(self._root))


def _try_lock(file: IO[str]) -> bool:
    """Lock `file` for this process until it is closed; return False where another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
