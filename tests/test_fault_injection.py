"""A disk that fails at a fixed choice of points; `python -m benchmarks.reliability` tries all of them."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.__main__ import main
from tests.support import faults
from tests.support.faults import Fault, Kind, Result


class Finished(NamedTuple):
    """Stores that nothing happened to, and what was done to make them."""

    corpus: Path
    """Up to the training mix."""
    whole: Path
    corpus_run: Result
    training_run: Result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("finished")
    corpus, whole = root / "corpus", root / "whole"
    made = faults.run(corpus, [faults.corpus(corpus)])
    assert made.status == 0, made.output
    faults.copy(corpus, whole)
    trained = faults.run(whole, [faults.training(whole)])
    assert trained.status == 0, trained.output
    return Finished(corpus, whole, made, trained)


def test_nothing_takes_its_name_before_its_content_is_on_the_disk(finished: Finished) -> None:
    assert [made.unflushed for made in (finished.corpus_run, finished.training_run)] == [[], []]
    renamed = {line.partition(" ")[2] for line in finished.training_run.operations if line.startswith("rename ")}
    assert {"base_model", "align_model", "control_model", "evaluation"} <= renamed


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
@pytest.mark.parametrize("kind", ["kill", "power"])
def test_a_corpus_broken_off_at_a_flush_or_rename_ends_as_an_unbroken_one(
    finished: Finished, tmp_path: Path, kind: Kind, share: float
) -> None:
    store = tmp_path / "store"
    at = int(share * len(finished.corpus_run.operations))
    expected = faults.hashes(finished.corpus)
    assert faults.outcome_of_fault(store, [faults.corpus(store)], Fault(kind, at), expected)[0] == "resumed"


def base_alone(finished: Finished) -> dict[str, str]:
    """Hashes of a store up to base_model."""
    found = faults.hashes(finished.whole)
    return {name: digest for name, digest in found.items() if name.partition("/")[0] in faults.ORDER[:8]}


@pytest.mark.parametrize("place", ["unfinished/model.safetensors", "step-00000004", "rename base_model"])
def test_a_training_broken_off_at_a_flush_or_rename_ends_with_the_weights_of_an_unbroken_one(
    finished: Finished, tmp_path: Path, place: str
) -> None:
    store = faults.copy(finished.corpus, tmp_path / "store")
    at = next(at for at, line in enumerate(finished.training_run.operations) if line.endswith(place))
    commands = [faults.training(store, "base")]
    found, output = faults.outcome_of_fault(store, commands, Fault("power", at), base_alone(finished))
    assert found == "resumed", output


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_disk_that_fills_up_ends_a_corpus_in_a_sentence_and_loses_nothing(
    finished: Finished, tmp_path: Path, share: float
) -> None:
    store = tmp_path / "store"
    at = int(share * len(finished.corpus_run.writes))
    expected = faults.hashes(finished.corpus)
    found, output = faults.outcome_of_fault(store, [faults.corpus(store)], Fault("full", at), expected)
    assert found == "resumed", output
    assert "No space left on device. Free space on that disk" in output


@pytest.mark.parametrize("fault", [Fault("full", 60), Fault("limit", 2000), Fault("limit", 20_000)])
def test_a_disk_that_fills_up_ends_a_training_in_a_sentence_and_loses_nothing(
    finished: Finished, tmp_path: Path, fault: Fault
) -> None:
    store = faults.copy(finished.corpus, tmp_path / "store")
    found, output = faults.outcome_of_fault(store, [faults.training(store, "base")], fault, base_alone(finished))
    assert found == "resumed", output


PAIR = "deu_Latn-eng_Latn"
REFUSED = [
    "store.json",
    "eval_text/data/data-00000.arrow",
    f"raw_bitext/{PAIR}/data/data-00000.arrow",
    f"raw_bitext/{PAIR}/manifest.json",
    f"decontaminated_bitext/{PAIR}/data/data-00000.arrow",
    "training_mix/bitext/data-00000.arrow",
    "base_model/model.safetensors",
    "base_model/tokenizer.json",
    "base_model/config.json",
    "align_model/model.safetensors",
    "align_model/log.jsonl",
    "evaluation/metrics.json",
    "evaluation/manifest.json",
]
HARMLESS = [
    ".writer",
    f"raw_bitext/{PAIR}/data/state.json",
    f"clean_bitext/{PAIR}/rejected/data-00000.arrow",
    "training_mix/README.md",
    "evaluation/report.html",
]
"""Files that no later step reads: they are for people and for `datasets.load_from_disk`."""


@pytest.mark.parametrize("file", REFUSED)
def test_a_flipped_bit_is_refused_by_name_and_repaired(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str], file: str
) -> None:
    store = faults.copy(finished.whole, tmp_path / "store")
    found, output = faults.outcome_of_flip(store, file, faults.hashes(finished.whole))
    assert found == "refused", output
    capfd.readouterr()
    assert main(["verify", str(store), "--repair"]) == 0
    said = capfd.readouterr().out
    assert file in said
    if file == "store.json":
        assert "store.json: written again for recipe 'faults'" in said
    if file == "evaluation/metrics.json":
        again = faults.run(store, [faults.training(store, "eval")])
        assert again.status == 0, again.output
        assert faults.hashes(store) == faults.hashes(finished.whole)


@pytest.mark.parametrize("file", HARMLESS)
def test_a_flipped_bit_in_what_no_step_reads_changes_nothing_and_is_found_by_verify(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str], file: str
) -> None:
    store = faults.copy(finished.whole, tmp_path / "store")
    found, output = faults.outcome_of_flip(store, file, faults.hashes(finished.whole))
    assert found == "harmless", output
    capfd.readouterr()
    assert main(["verify", str(store)]) == (0 if file == ".writer" else 1)
    assert file == ".writer" or f"{file} is damaged" in capfd.readouterr().out


def test_repair_makes_the_next_run_rebuild_what_is_damaged_and_nothing_else(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = faults.copy(finished.whole, tmp_path / "store")
    damaged = [f"clean_bitext/{PAIR}/data/data-00000.arrow", "align_model/model.safetensors"]
    for file in damaged:
        faults.flip(store / file)
    assert main(["verify", str(store), "--repair"]) == 0
    said = capfd.readouterr().out
    assert f"clean_bitext/{PAIR}: moved to .damaged/clean_bitext/{PAIR}" in said
    assert "align_model: moved to .damaged/align_model" in said
    again = faults.run(store, [faults.corpus(store), faults.training(store)])
    assert again.status == 0, again.output
    unchanged = [line.partition(":")[0] for line in again.output.splitlines() if "unchanged" in line]
    assert [name.split()[0] for name in unchanged] == [
        "eval_text", "raw_bitext", "deduped_bitext", "decontaminated_bitext", "instructions", "training_mix",
        "base_model", "control_model", "evaluation",
    ]  # fmt: skip
    assert faults.hashes(store) == faults.hashes(finished.whole)
    assert main(["verify", str(store)]) == 0


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "log.jsonl"])
def test_a_damaged_checkpoint_is_named_and_the_training_begins_again(
    finished: Finished, tmp_path: Path, file: str
) -> None:
    store = faults.copy(finished.corpus, tmp_path / "store")
    renames = [at for at, line in enumerate(finished.training_run.operations) if "step-00000004" in line]
    commands = [faults.training(store, "base")]
    assert faults.run(store, commands, Fault("kill", renames[0] + 2)).status == faults.KILLED
    [checkpoint] = (store / ".scratch" / "base_model").glob("*/step-00000004")
    faults.flip(checkpoint / file)
    again = faults.run(store, commands)
    assert again.status == 0, again.output
    assert f"Checkpoint {checkpoint}: {file} is damaged: its SHA-256" in again.output
    assert "training starts from the beginning" in again.output
    assert faults.hashes(store) == base_alone(finished)


def test_a_finished_store_on_a_read_only_disk_is_used_and_work_is_refused(
    finished: Finished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = faults.copy(finished.whole, tmp_path / "store")
    for lock in (True, False):
        if not lock:
            (store / ".writer").unlink()
        used = faults.run(store, [faults.corpus(store), faults.training(store)], Fault("read-only"))
        assert used.status == 0, used.output
        assert used.output.count("unchanged") == len(faults.ORDER)
    looked = [["pipelines", "verify", str(store)], ["pipelines", "ledger", str(store)]]
    looked.append(["alignment_train", "report", str(store), "--html", str(tmp_path / "page.html")])
    assert faults.run(store, looked, Fault("read-only")).status == 0
    shutil.rmtree(store / "training_mix")
    work = faults.run(store, [faults.corpus(store)], Fault("read-only"))
    assert work.is_refusal(f"error: {store}: Read-only file system. The file system is read-only: mount it for writing")
