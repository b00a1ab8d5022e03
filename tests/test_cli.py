"""The command `isogloss`: its verbs, what they print, their exit codes, and the skeletons they write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assets.cli import KINDS, VERBS, build_parser, main
from assets.commands import COMMANDS
from assets.locations import RunLocation, remember, resolve_location
from pipelines.config import RECIPES, find
from pipelines.storage.store import Store
from tests.support.graph import TINY, environment
from tests.support.models import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, in which nothing was used before."""
    for name in ("RECIPE", "STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(
    *args: str, home: Path, code: str = "from assets.cli import main; sys.exit(main())"
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"import sys; {code}", *args]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True)


def test_every_verb_has_a_function_a_help_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert [verb.name for verb in VERBS] == list(COMMANDS)
    for verb in VERBS:
        with pytest.raises(SystemExit) as end:
            main([verb.name, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert f"usage: isogloss {verb.name}" in shown
        assert f"isogloss {verb.name}" in shown.partition("examples:")[2] or verb.name in ("home", "completion")


def test_examples_parse() -> None:
    lines = [line.strip() for verb in VERBS for line in verb.examples.splitlines() if "$(" not in line]
    assert len(lines) > 15
    for line in lines:
        build_parser().parse_args(line.split()[1:])


def test_help_names_the_exit_codes_and_loads_neither_torch_nor_dagster_nor_arrow(tmp_path: Path) -> None:
    heavy = "{'torch', 'dagster', 'pyarrow', 'duckdb', 'pydantic', 'rich'}"
    code = (
        "from assets.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        f"print('loaded', sorted({heavy} & set(sys.modules)))"
    )
    shown = run("--help", home=tmp_path, code=f"\n{code}").stdout
    assert shown.rstrip().endswith("loaded []")
    assert all(f"\n  {number} " in shown for number in (0, 1, 2, 130))


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["align", "nothing.yaml"], 1, "recipe nothing.yaml: no such file."),
        (["check", "nothing.yaml"], 1, "recipe nothing.yaml: no such file."),
        (["corpus", "sample", "--until", "x"], 1, "--until: found 'x'. Expected: eval_text, raw_bitext"),
        (["ledger", "--store", "empty"], 1, "empty: found no bitext. Expected: a store with a corpus."),
        (["eval", "sample", "--store", "empty"], 1, "empty"),
        (["new", "filter", "Bad-Name"], 1, "isogloss new: found the name 'Bad-Name'."),
        (["report", "--store", "empty"], 1, "run empty: found no metrics.json"),
    ],
)
def test_a_mistake_ends_in_a_sentence(
    args: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("args", [[], ["fly"], ["train", "--only", "x"], ["push"], ["new", "house", "x"]])
def test_wrong_usage_is_code_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert "usage: isogloss" in capsys.readouterr().err


def test_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in listed] == sorted(path.name for path in RECIPES.glob("*.yaml"))
    for item in listed:
        assert Path(item["path"]).is_file()
        assert 20 < len(item["description"]) <= 120
        assert item["description"].endswith(".")
    assert main(["recipes"]) == 0
    assert "sample.yaml       The default: " in capsys.readouterr().out


def test_check_says_what_a_recipe_would_do_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(TINY)]) == 0
    assert capsys.readouterr().out.startswith("Recipe tiny is sound. Nothing was downloaded or written.\npairs: deu")
    assert main(["check", str(TINY), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["recipe"], found["is_sound"]) == ("tiny", True)
    assert found["pairs"] == ["deu_Latn-eng_Latn", "eng_Latn-swh_Latn"]
    assert found["filters"] == ["char_length", "length_ratio", "identical", "markup"]
    assert list(folder.iterdir()) == []


def test_check_of_a_model_lists_findings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model").mkdir()
    assert main(["check", "model", "--json"]) == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out) if shown.out else {"can_be_aligned": False}
    assert found["can_be_aligned"] is False


def test_corpus_ledger_verify_and_prune_share_recipe_and_store(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["corpus", str(TINY), "--store", "run1", "--until", "clean_bitext"]) == 0
    assert "deu_Latn-eng_Latn  600    576" in capsys.readouterr().out
    store = Store(folder / "run1")
    assert store.manifest("clean_bitext", "deu_Latn-eng_Latn")
    assert store.manifest("training_mix") is None
    assert resolve_location() == RunLocation(TINY, str(folder / "run1"))

    assert main(["ledger"]) == 0  # the recipe and the store used last
    assert "step" in capsys.readouterr().out
    assert main(["ledger", "--json", "--html", "ledger.html"]) == 0
    ledger = json.loads(capsys.readouterr().out)
    assert set(ledger) == {"deu_Latn-eng_Latn", "eng_Latn-swh_Latn"}
    assert all(row["into"] - row["dropped"] == row["kept"] for rows in ledger.values() for row in rows)
    assert "<html" in Path("ledger.html").read_text()

    assert main(["verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []
    shard = next((folder / "run1" / "raw_bitext").rglob("data-*.arrow"))
    shard.write_bytes(b"damaged")
    assert main(["verify", "--json"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault["asset"] == "raw_bitext"
    assert main(["verify", "--repair"]) == 0
    assert "Repaired." in capsys.readouterr().out
    assert main(["prune"]) == 0
    assert capsys.readouterr().out == "0 downloads removed\n"


def test_the_trainer_gets_recipe_store_and_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("alignment_train.__main__.main", lambda args: calls.append(args) or 0)
    at = [str(TINY), "--store", str(folder / "s")]
    for args in (
        ["train", str(TINY), "--store", "s"],
        ["train", "--only", "base_model", "--device", "cpu"],
        ["eval"],
        ["push", "--to", "me/model", "--private"],
        ["compare", "a.yaml", "b.yaml", "--store", "s", "--seeds", "2", "--methods"],
    ):
        if args[0] == "compare":
            for name in ("a.yaml", "b.yaml"):
                Path(name).write_text(f"extends: {TINY}\n")
        assert main(args) == 0
    assert calls == [
        ["control", *at],
        ["train", *at],
        ["base", *at, "--device", "cpu"],
        ["eval", *at],
        ["push", *at, "--to", "me/model", "--asset", "align_model", "--private"],
        ["compare", "a.yaml", "b.yaml", *at[1:], "--seeds", "2", "--jobs", "1", "--methods"],
    ]


def test_training_stops_at_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("alignment_train.__main__.main", lambda args: calls.append(args[0]) or 130)
    assert main(["train", str(TINY), "--store", "s"]) == 130
    assert calls == ["control"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("argcomplete")
    assert main(["completion", shell]) == 0
    assert "isogloss" in capsys.readouterr().out


def test_completion_completes_verbs(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    code = "import os; from assets.cli import main\nmain()"
    env = {**environment(tmp_path), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out")}
    env |= {"COMP_LINE": "isogloss re", "COMP_POINT": "11", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SHELL": "bash"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    assert (tmp_path / "out").read_text().split() == ["report", "refresh", "recipes"]


def test_control_characters_of_a_name_are_not_obeyed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "evil\x1b[2J.yaml"]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_the_last_store_is_that_of_its_recipe(folder: Path) -> None:
    (folder / "home").mkdir()
    remember(RunLocation(TINY, "/somewhere"))
    assert resolve_location().store == "/somewhere"
    assert resolve_location("sample.yaml") == RunLocation(find("sample.yaml").resolve(), str(folder / "store"))


@pytest.mark.slow
def test_skeletons_pass_their_tests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        assert main(["new", kind, f"my_{kind}"]) == 0
        assert f"Test it: python -m pytest tests/test_my_{kind}.py" in capsys.readouterr().out
    assert main(["new", "filter", "my_filter"]) == 1
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    files = [path for part in ("plugins", "tests") for path in folder.joinpath(part).rglob("*.py")]
    assert len(files) == 6 + len(KINDS)
    rules = ["--isolated", "--line-length", "120"]
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", *rules, *files], check=True)
