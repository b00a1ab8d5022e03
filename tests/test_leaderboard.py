import json
from pathlib import Path
from typing import Any

import pytest

from alignment_train.__main__ import main
from pipelines.files import sha256
from pipelines.report import leaderboard
from pipelines.report.table import change_cell, figure_cell
from pipelines.results.comparison import compared
from pipelines.results.measures import measure
from tests.support.fake_metrics import DE, SW, scored


def run(
    folder: Path, name: str, recall: float, seed: int = 0, rank: float = 30.0, steps: int = 9, texts: str = "t"
) -> str:
    """An evaluation folder in which recall@1 was 10 % and is `recall`, and an accuracy 50 % and 40 %."""
    models: dict[str, Any] = {
        model: {f"retrieval/{pair}/recall@1": scored(rate, 200) for pair in (DE, SW)}
        | {"xcopa/swh_Latn/acc": scored(acc, 300)}
        for model, rate, acc in (("control", 0.1, 0.5), ("aligned", recall, 0.4))
    }
    ranks = "representation/swh_Latn/effective_rank/layer=1"
    models["base"], models["aligned"][ranks] = {ranks: {"value": 30.0}}, {"value": rank}
    folder.mkdir(parents=True)
    metrics = {**models, **compared(models, "eng_Latn", {}), "pivot": "eng_Latn"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    recipe = {"name": name, "seed": seed, "train": {"steps": steps}}
    manifest = {
        "asset": "evaluation", "fingerprint": str(folder), "recipe": recipe,
        "files": {"metrics.json": sha256(folder / "metrics.json")},
        "inputs": {"eval_text": texts, "base_model": "b"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(folder)


def found(places: list[str]) -> list[leaderboard.Line]:
    return leaderboard.lines(leaderboard.read(places))


def test_cells_have_the_unit_of_their_measure() -> None:
    chrf, acc = measure("translation", "chrF"), measure("xcopa", "acc")
    assert figure_cell({"value": 31.25, "low": 30.0, "high": 32.5}, chrf).text == "31.2 (30.0 to 32.5)"
    change = {"value": 1.25, "low": 0.5, "high": 2.0}
    assert change_cell(change, chrf, "better") == ("+1.2 points (+0.5 to +2.0), better", "better")
    change = {"value": 0.05, "low": 0.01, "high": 0.09}
    assert change_cell(change, acc, "no significant difference") == ("+5.0 points (+1.0 to +9.0)", "")


def test_a_gain_that_is_not_above_chance_is_not_called_better(tmp_path: Path):
    place = Path(run(tmp_path / "a", "a", 0.2))
    metrics = json.loads((place / "metrics.json").read_text())
    for rate, ending in ((0.1, ", better"), (0.4, ", better, but not above chance")):
        constant = {f"retrieval/{pair}/recall@1": {"value": rate, "n": 200} for pair in (DE, SW)}
        (place / "metrics.json").write_text(json.dumps({**metrics, "constant": constant}))
        manifest = json.loads((place / "manifest.json").read_text())
        manifest["files"]["metrics.json"] = sha256(place / "metrics.json")
        (place / "manifest.json").write_text(json.dumps(manifest))
        assert leaderboard.leaderboard_table(found([str(place)])).texts()[0][4].endswith(ending)


def test_recipes_are_sorted_by_their_first_figure_and_those_with_a_guard_come_last(tmp_path: Path):
    places = [run(tmp_path / "a", "low", 0.2), run(tmp_path / "b", "collapsed", 0.9, rank=1.0, steps=8),
              run(tmp_path / "c", "high", 0.4, steps=7)]  # fmt: skip
    lines = found(places)
    assert [line.name for line in lines] == ["high", "low", "collapsed"]
    assert lines[2].guards == ["collapsed representation"]
    table = leaderboard.leaderboard_table(lines)
    rows = [[text.replace("\u00a0", " ") for text in row] for row in table.texts()]
    assert table.head == ["recipe", "runs", "verdict", "recall@1", "change", "XCOPA acc", "change"]
    assert rows[0][:3] == ["high", "1", "mixed"]
    assert rows[0][3].startswith("40.0 % (")
    assert rows[0][4].startswith("+30.0 points (+")
    assert rows[0][4].endswith(", better")
    assert rows[0][6].startswith("−10.0 points (")
    assert rows[0][6].endswith(", worse")


def test_seeds_of_one_recipe_are_one_line_with_an_interval_over_runs_and_items(tmp_path: Path):
    seeds = [run(tmp_path / str(seed), f"one_{seed}", 0.3 + 0.05 * seed, seed) for seed in range(3)]
    [line] = found(seeds)
    assert (line.name, len(line.runs)) == ("one_0, one_1, one_2", 3)
    change = line.changes["retrieval/all/recall@1"]
    assert change["value"] == pytest.approx(0.25)
    over_seeds = 4.3027 * 0.05 / 3**0.5
    assert change["high"] - change["value"] > over_seeds
    assert change["high"] - change["value"] < 1.3 * over_seeds


def test_recipes_of_one_name_are_numbered_and_different_texts_are_noted(tmp_path: Path):
    lines = found([run(tmp_path / "a", "same", 0.3), run(tmp_path / "b", "same", 0.2, steps=7, texts="u")])
    assert [line.name for line in lines] == ["same", "same (2)"]
    assert "These runs have 2 different eval texts" in " ".join(leaderboard.notes(lines))


def test_the_command_prints_markdown_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place, page = run(tmp_path / "run", "a|b <script>", 0.4), tmp_path / "board.html"
    assert main(["report", place, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(
        "| recipe | runs | verdict | recall@1 | change | XCOPA acc | change |\n| --- | ---: | --- |"
    )
    assert "| a\\|b &lt;script> | 1 | mixed |" in printed
    text = page.read_text()
    assert "a|b &lt;script&gt;" in text
    assert text.count("<script") == 1


def test_what_is_no_evaluation_or_twice_the_same_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    place = run(tmp_path / "run", "one", 0.4)
    assert main(["report", str(tmp_path)]) == 1
    assert (
        "found no metrics.json and no manifest.json. Expected: a store that has an evaluation"
        in capsys.readouterr().err
    )
    assert main(["report", place, place]) == 1
    assert "found the same evaluation as" in capsys.readouterr().err
