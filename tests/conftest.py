"""Fixtures that several test files use."""

from collections.abc import Iterator

import pytest

from pipelines import download
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
