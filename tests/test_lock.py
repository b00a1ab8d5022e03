import json
import os
import threading
from pathlib import Path

import pytest

from pipelines.fetching import lock


def test_an_edit_is_saved_beside_what_other_sources_have(tmp_path: Path) -> None:
    with lock.editing(tmp_path, "opus") as entries:
        entries["Tatoeba"] = ["v1"]
    with lock.editing(tmp_path, "hub") as entries:
        entries["x"] = 1
    assert lock.read(tmp_path, "opus") == {"Tatoeba": ["v1"]}
    text = json.loads((tmp_path / "lock.json").read_text())
    assert {key: text[key] for key in ("hub", "opus")} == {"hub": {"x": 1}, "opus": {"Tatoeba": ["v1"]}}
    assert {key: list(text["sha256"][key]) for key in text["sha256"]} == {"hub": ["x"], "opus": ["Tatoeba"]}


def test_no_change_leaves_the_file_untouched(tmp_path: Path) -> None:
    with lock.editing(tmp_path, "opus") as entries:
        entries["Tatoeba"] = ["v1"]
    os.utime(tmp_path / "lock.json", ns=(1, 1))
    with lock.editing(tmp_path, "opus") as entries:
        entries["Tatoeba"] = ["v1"]
    assert (tmp_path / "lock.json").stat().st_mtime_ns == 1


def test_an_edit_that_fails_is_not_saved(tmp_path: Path) -> None:
    def edit() -> None:
        with lock.editing(tmp_path, "opus") as entries:
            entries["Tatoeba"] = ["v1"]
            raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        edit()
    assert lock.read(tmp_path, "opus") == {}


def test_threads_do_not_lose_each_others_edits(tmp_path: Path) -> None:
    def edit(number: int) -> None:
        with lock.editing(tmp_path, "opus") as entries:
            entries[f"C{number}"] = number

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lock.read(tmp_path, "opus") == {f"C{number}": number for number in range(16)}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("{")
    with pytest.raises(ValueError, match=r"lock\.json is no whole JSON: .* Fix: restore the file, or delete it"):
        lock.read(tmp_path, "opus")
