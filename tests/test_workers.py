"""Processes beside each other: which device each gets, and what is said when one is killed."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from alignment_train.comparison import workers
from pipelines.config import read_recipe
from pipelines.storage.store import Store
from tests.support.models import ROOT

RECIPE = read_recipe(ROOT / "tests" / "data" / "tiny.yaml")


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "_make", killed)
    with workers.workers(2, Store(tmp_path), "cpu") as beside:
        beside.begin(RECIPE, "base", False, "a")
        beside.begin(RECIPE, "base", False, "a")
        assert len(beside._begun) == 1, "a fingerprint is made once"
        with pytest.raises(
            workers.WorkerKilledError, match=r"2 trained at once\. Cells that were done are kept\. .* smaller --j"
        ):
            beside.finish("a")
        with pytest.raises(BrokenProcessPool):
            beside._begun["a"].result()


def test_processes_share_all_gpus_unless_one_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(workers, "choose_device", lambda asked: torch.device(asked or "cuda"))
    assert workers._devices(None) == workers._devices("cuda") == ["cuda:0", "cuda:1"]
    assert workers._devices("cuda:1") == ["cuda:1"]
    assert workers._devices("cpu") == ["cpu"]
