"""Fixtures that several test files use."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and a test runs on each core

import pytest

from pipelines.fetching import transport
from tests.support.graph import align
from tests.support.opus_server import Mirror


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that no core is left with a long one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def opus_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """An OPUS server on loopback, named by OPUS_URL; time-outs and pauses are short."""
    mirror = Mirror()
    monkeypatch.setenv("OPUS_URL", f"{mirror.url}/opusapi/")
    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(transport, "BACKOFF", 0.001)
    monkeypatch.setattr(transport, "LONGEST_BACKOFF", 0.01)
    yield mirror
    mirror.close()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The tiny recipe run by the main command without a break: its store, its Dagster home, what it printed."""
    root = tmp_path_factory.mktemp("unbroken")
    result = align(root / "store", root / "home")
    assert result.returncode == 0, result.stdout + result.stderr
    return root / "store", root / "home", result.stdout
