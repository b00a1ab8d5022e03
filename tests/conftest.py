"""Fixtures that several test files use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import download
from tests.graph import align
from tests.mirror import Mirror


@pytest.fixture
def opus_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """An OPUS server on loopback, named by OPUS_URL; time-outs and pauses are short."""
    mirror = Mirror()
    monkeypatch.setenv("OPUS_URL", f"{mirror.url}/opusapi/")
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(download, "BACKOFF", 0.001)
    monkeypatch.setattr(download, "LONGEST_BACKOFF", 0.01)
    yield mirror
    mirror.close()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The tiny recipe run by the main command without a break: its store, its Dagster home, what it printed."""
    root = tmp_path_factory.mktemp("unbroken")
    result = align(root / "store", root / "home")
    assert result.returncode == 0, result.stdout + result.stderr
    return root / "store", root / "home", result.stdout
