"""Two processes over gloo do what one does with the same batches."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from alignment_train.losses import gathered
from alignment_train.objectives.contrastive import same_texts, text_number
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.objectives.prompt import Prompt
from alignment_train.training.fsdp import FsdpModel
from tests.support.models import ROOT, tiny
from tests.support.ranked import adapted, main
from tests.test_train import plan, run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of one process, which is this, and of two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    clean = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*TORCHRUN, str(ROOT / "tests" / "support" / "ranked.py"), str(two)]
    done = subprocess.Popen(command, env=clean, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    main(one)
    said, _ = done.communicate(timeout=600)
    assert done.returncode == 0, said
    return one, two


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").open()]


@pytest.mark.parametrize("way", ["data", "fsdp"])
def test_the_gradient_of_two_is_that_of_one(both: tuple[Path, Path], way: str) -> None:
    one, two = torch.load(both[0] / "data" / "first.pt"), torch.load(both[1] / way / "first.pt")
    assert one.keys() == two.keys()
    assert one.pop("held") == 1
    assert two.pop("held").item() == pytest.approx(1 if way == "data" else 0.5, abs=0.01)
    assert len(one) > 10
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-5, atol=1e-6 * max(1, float(value.abs().max()))), name
    assert max(float(value.abs().max()) for value in one.values()) > 0.01


@pytest.mark.parametrize("way", ["data", "fsdp"])
def test_losses_counts_and_figures_of_two_are_those_of_one(both: tuple[Path, Path], way: str) -> None:
    one, two = log(both[0] / "data" / "whole"), log(both[1] / way / "whole")
    assert [line["step"] for line in two] == [line["step"] for line in one] == list(range(5))
    exact = {"tokens", "rows", "learning_rate"}
    near = {name for line in one for name in line if name.startswith(("gradient_", "effective_rank/"))}
    assert {"gradient_cosine/contrastive/language_model", "effective_rank/contrastive"} <= near
    for before, after in zip(one, two, strict=True):
        assert {name: after[name] for name in exact} == {name: before[name] for name in exact}
        assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
        for name in near & set(before):
            assert after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("way", ["data", "fsdp"])
def test_two_killed_processes_resume_to_the_weights_of_unbroken_ones(both: tuple[Path, Path], way: str) -> None:
    whole, resumed = (torch.load(both[1] / way / f"{name}.pt") for name in ("whole", "resumed"))
    alone, start = torch.load(both[0] / "data" / "whole.pt"), tiny().lm.state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name])
        assert torch.allclose(value, alone[name], atol=1e-4), name
    assert not torch.allclose(whole["lm_head.weight"], start["lm_head.weight"], atol=1e-3)
    folder = both[1] / way / "broken"
    assert [path.name for path in folder.glob("step-*")] == ["step-00000004"]
    shapes = {name: list(value.shape) for name, value in start.items()}
    with safe_open(folder / "step-00000004" / "model.safetensors", "pt") as file:
        assert {name: file.get_slice(name).get_shape() for name in file.keys()} == shapes  # noqa: SIM118


@pytest.mark.parametrize("way", ["data", "fsdp"])
def test_language_means_are_equal_in_all_processes_and_after_resuming(both: tuple[Path, Path], way: str) -> None:
    one, two, resumed = (
        torch.load(both[place] / way / f"{name}.pt")
        for place, name in ((0, "means"), (1, "means"), (1, "means_resumed"))
    )
    for name in ("numbers", "means", "counts"):
        assert len(one[name]) == 1
        assert torch.equal(two[name][0], two[name][1])
        assert torch.equal(two[name], resumed[name])
        torch.testing.assert_close(two[name][0], one[name][0], rtol=1e-3, atol=1e-4)
    assert two["counts"].min() > 12
    assert two["means"].abs().max() > 0.01


def test_a_training_of_whole_models_goes_on_with_divided_ones(both: tuple[Path, Path]) -> None:
    whole, continued = (torch.load(both[1] / "fsdp" / f"{name}.pt") for name in ("whole", "continued"))
    assert all(torch.allclose(value, continued[name], atol=1e-4) for name, value in whole.items())


def test_divided_adapters_and_parts_of_objectives_train_as_whole_ones(both: tuple[Path, Path]) -> None:
    one, two = (torch.load(folder / "fsdp" / "parts.pt") for folder in both)
    start = adapted().lm.state_dict()
    assert one.keys() == two.keys() == start.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-4), name
        assert torch.equal(value, start[name]) != ("lora_" in name), name


def test_divided_blocks_that_are_checkpointed_train_as_whole_ones_beside_frozen_embeddings(
    both: tuple[Path, Path],
) -> None:
    one, two = (torch.load(folder / "fsdp" / "blocks.pt") for folder in both)
    start = tiny("gemma2").lm.state_dict()
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-4), name
        assert torch.equal(value, start[name]) == name.endswith(("embed_tokens.weight", "lm_head.weight")), name


def test_alone_nothing_is_gathered() -> None:
    rows = torch.ones(2, 3)
    assert gathered(rows) is rows


def test_a_text_has_one_number_everywhere_and_pairs_that_share_one_are_known() -> None:
    assert text_number("drei") == text_number("drei") != text_number("drei ")
    assert 0 <= text_number("") < 1 << 63
    pairs = torch.tensor([[text_number(a), text_number(b)] for a, b in (("a", "x"), ("b", "y"), ("a", "z"))])
    assert same_texts(pairs).tolist() == [[True, False, True], [False, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Prompt.model_validate({"rows": 16}), "train.objectives.prompt: found 2 processes, but its loss needs the"),
        (
            LanguageModel.model_validate({"rows": 15}),
            "train.objectives.language_model.rows: found 15 with 2 processes. Expected: a multiple of 2, because "
            "batches are divided equally. Fix: set rows to 16.",
        ),
    ],
)
def test_batches_that_cannot_be_divided_are_refused(tmp_path: Path, monkeypatch, objective, message: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=message):
        run(tmp_path, plan(objectives=[objective]))


def test_an_older_torch_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment_train.training.fsdp.FORCE_SUM", "not_there_yet")
    with pytest.raises(ValueError, match="train.parallel: found fsdp with torch .* Expected: torch 2.9 or newer"):
        FsdpModel(tiny(), [], "float32")
