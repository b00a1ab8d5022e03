import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.runner import STAGES
from pipelines.storage.store import PER_PAIR, Store
from tests.support.opus_server import Mirror

RECIPE = """
extends: sample.yaml
corpus:
  pairs: [en-de, en-sw]
  sources: [{sample: {rows: 400, noise: {untranslated: 0.05, duplicate: 0.05}}}]
  filters: [identical]
  dev_rows: 10
  budget: {rows: 500}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_made_and_ends_in_a_table(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "store"
    assert main([str(recipe), "--store", str(folder)]) == 0
    shown = capsys.readouterr()
    rows = dict(re.findall(r"^(\S+-\S+) +(.*)$", shown.out, re.MULTILINE))
    raw, clean, deduped, decontaminated, instructions = rows["deu_Latn-eng_Latn"].split()
    assert (raw, clean, deduped, decontaminated) == ("400", "380", "360", "360")
    assert int(instructions.replace(",", "")) > 1_000
    assert rows["eng_Latn-swh_Latn"].split()[:3] == ["100", "95", "90"]
    assert re.search(r"training_mix: \d+ bitext, \d+ instructions, 18 dev, of a budget of 500", shown.out)
    assert "training_mix: 500 rows (" in shown.err
    made = Store(folder).require("training_mix")
    assert made.rows["bitext"] + made.rows["instructions"] == 500

    assert main([str(recipe), "--store", str(folder)]) == 0
    assert capsys.readouterr().err.count(", unchanged (") == len(STAGES) - 1  # no task data
    assert main(["verify", str(folder)]) == 0
    assert "0 damaged or missing" in capsys.readouterr().out

    other = tmp_path / "other"
    assert main([str(recipe), "--store", str(other)]) == 0
    for stage in (stage for stage in STAGES if stage.asset != "task_data"):
        for pair in ("deu_Latn-eng_Latn", "eng_Latn-swh_Latn") if stage.per_pair else (None,):
            one, two = (Store(place).require(stage.asset, pair) for place in (folder, other))
            assert (stage.asset, pair, one.files) == (stage.asset, pair, two.files)


def test_one_pair_alone_leaves_the_mix_for_later(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recipe), "--store", str(tmp_path / "store"), "--pair", "sw-en"]) == 0
    assert "The training mix needs all 2 pairs: run without --pair to make it." in capsys.readouterr().out
    store = Store(tmp_path / "store")
    assert store.manifest("instructions", "eng_Latn-swh_Latn")
    assert store.manifest("raw_bitext", "deu_Latn-eng_Latn") is None
    assert store.manifest("training_mix") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml", "--store", "s"], "error: recipe nothing.yaml: no such file. Expected:"),
        (["RECIPE", "--store", "s", "--pair", "en-fr"], "error: --pair: found eng_Latn-fra_Latn. Expected: deu_Latn-"),
        (["RECIPE", "--store", "s", "--pair", "en"], "error: pair 'en': found 1 languages."),
        (["RECIPE", "--store", "."], "the folder is not empty and is not a store."),
        (["verify", "s"], "no manifest in it."),
    ],
)
def test_a_mistake_ends_in_a_sentence(
    recipe: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(recipe) if word == "RECIPE" else word for word in arguments]) == 1
    assert message in capsys.readouterr().err


def test_refresh_finds_nothing_new_offline_and_then_makes_the_corpus(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["refresh", str(recipe), "--store", str(tmp_path / "store")]) == 0
    assert "looking for newer releases: nothing new" in capsys.readouterr().err
    assert Store(tmp_path / "store").manifest("training_mix")


def test_prune_removes_what_the_lock_no_longer_names(
    opus_server: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opus_server.add("Docs/v1", "de-en", b"alt\n", b"old\n")
    (tmp_path / "docs.yaml").write_text("corpus: {pairs: [de-en], sources: [{opus: {corpora: [Docs]}}]}\n")
    arguments = [str(tmp_path / "docs.yaml"), "--store", str(tmp_path / "store")]
    until = ["--until", "raw_bitext"]
    assert main([*arguments, *until]) == 0
    opus_server.add("Docs/v1", "de-en", b"alt\n", b"old\n", latest=False)
    opus_server.add("Docs/v2", "de-en", b"neu\n", b"new\n")
    assert main(["refresh", *arguments, *until]) == 0
    assert "new releases for deu_Latn-eng_Latn" in capsys.readouterr().err
    for count in (1, 0):
        assert main(["prune", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == f"{count} downloads removed"
        assert all("/Docs/v1/" in line for line in lines[:-1])
    (kept,) = (tmp_path / "store" / "sources" / "downloads").rglob("*.zip")
    assert kept.parent.name == "v2"


def test_verify_fails_on_a_damaged_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(tmp_path, "x")
    with store.writing("base_model") as out:
        (out.path / "model.safetensors").write_bytes(b"weights")
        out.commit("f", {})
    (store.folder("base_model") / "model.safetensors").write_bytes(b"wrights")
    assert main(["verify", str(tmp_path)]) == 1
    wrong, right = (hashlib.sha256(text).hexdigest()[:12] for text in (b"wrights", b"weights"))
    assert capsys.readouterr().out == (
        f"base_model/model.safetensors is damaged: its SHA-256 is {wrong}…, not {right}…\n"
        f"1 files compared, 1 damaged or missing\n"
        f"Fix: 'python -m pipelines verify {tmp_path} --repair', then the command that made the store.\n"
    )


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(
        words in shown
        for words in ("RECIPE --store DIR [--pair", "refresh RECIPE", "prune RECIPE", "verify STORE", "OPUS_URL")
    )


def test_stages_cover_every_asset_that_is_text() -> None:
    assert [stage.asset for stage in STAGES if stage.per_pair] == list(PER_PAIR)
    assert STAGES[-1].asset == "training_mix"


def test_the_command_needs_neither_torch_nor_dagster(recipe: Path, tmp_path: Path) -> None:
    blocked = (
        "import sys, runpy\n"
        "for name in ('torch', 'dagster', 'transformers', 'datasets'): sys.modules[name] = None\n"
        f"sys.argv = ['pipelines', {str(recipe)!r}, '--store', {str(tmp_path / 'store')!r}]\n"
        "runpy.run_module('pipelines', run_name='__main__')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", blocked],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "training_mix:" in run.stdout
