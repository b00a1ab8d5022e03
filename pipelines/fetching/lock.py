"""The lock file of a store's sources: what "latest" was when it was first asked for, until a refresh moves it.

`{"opus": {key: entry}, "hub": {...}, "sha256": {"opus": {key: digest}}}`: a digest beside each entry, so that a damaged
one is noticed, and so that a user may still delete an entry, or its digest after a change by hand.
"""

import copy
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines import files
from pipelines.errors import UserError
from pipelines.fetching.redaction import redact_all
from pipelines.storage.remote import Remote

FILE = "lock.json"
DIGESTS = "sha256"
_shared: dict[Path, str] = {}
"""Folders whose lock file is a copy of one at an address. Not read from a file: who wrote it could choose where."""


class LockError(UserError):
    """The lock file is damaged."""


def read(home: Path, source: str, entry: TypeAdapter[Any] | None = None) -> dict[str, Any]:
    """What the lock file below `home` says of `source`; empty where it says nothing.

    entry: what each entry must be; LockError where one is not.
    """
    entries = _whole(home).get(source, {})
    _check(home / FILE, source, entries, entry)
    return entries


@contextmanager
def editing(home: Path, source: str, entry: TypeAdapter[Any] | None = None) -> Iterator[dict[str, Any]]:
    """`read`, to be changed in place: one thread and process at a time, saved on a clean exit and only if changed.

    Secrets in addresses are not saved: whoever downloads takes the address from the recipe or the server again.
    """
    with _guarded(home):
        whole = _whole(home)
        _check(home / FILE, source, whole.setdefault(source, {}), entry)
        before = copy.deepcopy(whole[source])
        yield whole[source]
        if whole[source] != before:
            _save(home, whole)


def _save(home: Path, sections: dict[str, Any]) -> None:
    """Write the lock file, here and where it is a copy of one at an address."""
    sections = redact_all(sections)
    digests = {name: {key: _digest(value) for key, value in section.items()} for name, section in sections.items()}
    text = json.dumps({**sections, DIGESTS: digests}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if address := _shared.get(home):
        Remote(address).write(FILE, text)
    files.write_atomically(home / FILE, text)


def share(home: Path, address: str) -> None:
    """Have the lock file below `home` as it is at `address`, and from now on put every change of it there, too."""
    with _guarded(home):
        _shared[home] = address
        try:
            data = Remote(address).read(FILE)
        except files.Unreadable as error:
            raise _damaged(f"{address}/{FILE}", str(error)) from None
        if data:
            _parsed(f"{address}/{FILE}", data)
            files.write_atomically(home / FILE, data.decode())


def damaged_entries(home: Path) -> list[tuple[str, str]]:
    """(source, key) of the entries that are not as they were written."""
    sections, digests = _sections(home)
    return _changed(sections, digests)


def drop(home: Path, entries: list[tuple[str, str]]) -> None:
    """Remove entries: they are looked up anew."""
    with _guarded(home):
        sections, _ = _sections(home)
        for source, key in entries:
            sections[source].pop(key, None)
        _save(home, sections)


@contextmanager
def _guarded(home: Path) -> Iterator[None]:
    files.make_folder(home)
    with open(files.open_private(home / ".lock.json.guard", os.O_RDWR), "r+") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _whole(home: Path) -> dict[str, Any]:
    """The sections; LockError where an entry is not as it was written."""
    sections, digests = _sections(home)
    if changed := _changed(sections, digests):
        source, key = changed[0]
        raise LockError(
            f"{home / FILE}: the entry '{key}' of '{source}' was changed after it was written. Expected: what this "
            f"program wrote. Fix: 'python -m pipelines verify STORE --repair' removes the entry, and the release that "
            f"is latest now is taken; or, where you changed it by hand, delete its line below '{DIGESTS}'."
        )
    return sections


def _sections(home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        data = files.read_small(home / FILE)
    except FileNotFoundError:
        return {}, {}
    except files.Unreadable as error:
        raise _damaged(str(home / FILE), str(error)) from None
    return _parsed(str(home / FILE), data)


def _parsed(where: str, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        sections = files.parse_json(data, dict)
        digests = sections.pop(DIGESTS, {})
        for name, section in [*sections.items(), *((DIGESTS, item) for item in (digests, *_values(digests)))]:
            if not isinstance(section, dict):
                raise files.Unreadable(f"holds {type(section).__name__} in '{name}', not an object")
    except files.Unreadable as error:
        raise _damaged(where, str(error)) from None
    return sections, digests


def _values(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else []


def _changed(sections: dict[str, Any], digests: dict[str, Any]) -> list[tuple[str, str]]:
    """(source, key) of entries with another digest, and of those without one where a digest has lost its entry.

    An entry alone without a digest is one of an earlier version or of a user, a digest alone one of a deleted entry.
    """
    entries = {(source, key): value for source, section in sections.items() for key, value in section.items()}
    known = {(source, key): digest for source, section in digests.items() for key, digest in section.items()}
    renamed = bool(known.keys() - entries.keys())
    return [
        place for place, value in entries.items() if (renamed if place not in known else known[place] != _digest(value))
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _check(file: Path, source: str, entries: dict[str, Any], entry: TypeAdapter[Any] | None) -> None:
    if entry is None:
        return
    for key, value in entries.items():
        try:
            entry.validate_python(value)
        except ValidationError as error:
            raise _damaged(f"{file}: the entry '{key}' of '{source}'", files.first_cause(error)) from None


def _damaged(where: str, cause: str) -> LockError:
    return LockError(
        f"{where} {cause}. Expected: what this program wrote. Fix: restore the file, or delete it to take the releases "
        f"that are latest now."
    )
