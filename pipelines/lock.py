"""The lock file of a store's sources: what "latest" was when it was first asked for, until a refresh moves it."""

import copy
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.redaction import redact_all
from pipelines.remote import Remote
from pipelines.store import write_atomically

SHARED = ".shared"  # beside a lock file: the address whose lock file it is a copy of


def read(home: Path, source: str) -> dict[str, Any]:
    """What the lock file below `home` says of `source`; empty where it says nothing."""
    return _whole(home).get(source, {})


@contextmanager
def editing(home: Path, source: str) -> Iterator[dict[str, Any]]:
    """`read`, to be changed in place: one thread and process at a time, saved on a clean exit and only if changed.

    Secrets in addresses are not saved: whoever downloads takes the address from the recipe or the server again.
    """
    with _guarded(home):
        whole = _whole(home)
        before = copy.deepcopy(whole.setdefault(source, {}))
        yield whole[source]
        if whole[source] != before:
            text = json.dumps(redact_all(whole), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            if (home / SHARED).exists():
                Remote((home / SHARED).read_text()).write("lock.json", text)
            write_atomically(home / "lock.json", text)


def share(home: Path, address: str) -> None:
    """Have the lock file below `home` as it is at `address`, and from now on put every change of it there, too."""
    with _guarded(home):
        write_atomically(home / SHARED, address)
        if text := Remote(address).read("lock.json"):
            write_atomically(home / "lock.json", text)


@contextmanager
def _guarded(home: Path) -> Iterator[None]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock.json.guard").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _whole(home: Path) -> dict[str, Any]:
    file = home / "lock.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: not readable as JSON: {error}. Allowed: what this program wrote. Restore the file, or delete it "
            f"to take the releases that are latest now."
        ) from None
