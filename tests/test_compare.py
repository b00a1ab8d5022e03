"""Comparisons: what may be compared, that cells are computed once, and that the table says what the cells say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from alignment_train.__main__ import main
from alignment_train.comparison import cells as one
from alignment_train.comparison import compare
from alignment_train.config import TrainConfig
from alignment_train.trainer import Trainer
from pipelines.config import METHODS, read_recipe
from pipelines.report import comparison
from pipelines.report.comparison import Row
from pipelines.results.evaluation_result import EvaluationResult
from pipelines.statistics import STUDENT, over_runs
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store
from pipelines.storage.verification import verify
from tests.support.fake_metrics import result
from tests.support.models import ROOT

TINY = ROOT / "tests" / "data" / "tiny.yaml"
ENGLISH = "loss/eng_Latn/nats_per_token"
BEST = "retrieval/best/recall@1"
XNLI, PAWSX, XCOPA = (f"{task}/deu_Latn/acc" for task in ("xnli", "pawsx", "xcopa"))
SHORT = "train: {steps: 3, checkpoint_every: 100}\n"
BESIDE = "language_model: {rows: 8}"


def written(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.yaml").write_text(text)
    return str(folder / f"{name}.yaml")


def method(folder: Path, name: str, objective: str, extends: object = TINY, more: str = "steps: 3") -> str:
    return written(
        folder, name, f"extends: {extends}\ntrain: {{{more}, objectives: [{{{objective}}}, {{{BESIDE}}}]}}\n"
    )


@pytest.fixture(scope="module")
def store(unbroken: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A copy of the tiny recipe's."""
    return Store(shutil.copytree(unbroken[0], tmp_path_factory.mktemp("compare") / "store"))


def cells(store: Store) -> dict[str, int]:
    """When the manifest of each cell was written."""
    return {
        str(file.relative_to(store.root)): file.stat().st_mtime_ns for file in store.root.glob("cells/*/manifest.json")
    }


def table(store: Store) -> dict[str, Any]:
    return json.loads((store.root / "compare" / "table.json").read_text())


def test_the_table_says_what_the_cells_say_and_no_cell_is_made_twice(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    two = [
        method(tmp_path, "contrast", "contrastive: {rows: 8}"),
        method(tmp_path, "last_layer", "contrastive: {rows: 8, layer: 2}"),
    ]
    call = ["compare", *two, "--store", str(store.root), "--seeds", "2", "--device", "cpu"]
    assert main(call) == 0
    made = cells(store)
    assert len(made) == 1 + 3 * 2  # base, and of each seed control and two methods
    found = table(store)
    assert [row["name"] for row in found["rows"]][:2] == ["base", "control"]
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["contrast"]["layers"]["trained"] == [1, 1]
    assert found["chance"] == pytest.approx(1 / 40)

    held: dict[tuple[str, int], dict[str, Any]] = {}
    for seed in (0, 1):
        for name in ("contrast", "last_layer", "control"):
            recipe = read_recipe(two[0 if name == "control" else ("contrast", "last_layer").index(name)])
            trainer = Trainer(recipe.model_copy(update={"seed": seed}), store, "cpu")
            cell = one.make(trainer, "control" if name == "control" else "aligned")
            held[name, seed] = one.metrics(store, cell).to_json()
            assert "config.json" not in cell.files  # the model is not kept
            assert cell.numbers["steps"] == 3
    english = {key: found["control" if key[0] == "control" else "aligned"][ENGLISH] for key, found in held.items()}
    assert len({metric["value"] for metric in english.values()}) == 6  # seeds and methods differ
    own = [english["contrast", seed]["value"] for seed in (0, 1)]
    shown = rows["contrast"]["figures"][ENGLISH]
    assert shown["each"] == own
    assert shown["value"] == pytest.approx(sum(own) / 2)
    assert shown["high"] - shown["value"] == pytest.approx(12.7062 * abs(own[0] - own[1]) / 2, rel=1e-4)
    against = [own[seed] / english["control", seed]["value"] - 1 for seed in (0, 1)]
    assert rows["contrast"]["against_control"][ENGLISH]["each"] == pytest.approx(against)
    pairs = ("deu_Latn-eng_Latn", "eng_Latn-swh_Latn")
    for seed in (0, 1):
        metrics = held["last_layer", seed]
        layer = rows["last_layer"]["layers"]["best"][seed]
        dev = [sum(metrics["dev"][f"retrieval/{p}/recall@1/layer={at}"]["value"] for p in pairs) for at in range(3)]
        assert dev[layer] == max(dev)
        recall = sum(metrics["aligned"][f"retrieval/{p}/recall@1/layer={layer}"]["value"] for p in pairs) / 2
        assert rows["last_layer"]["figures"][BEST]["each"][seed] == pytest.approx(recall)

    printed = capsys.readouterr().out
    assert (store.root / "compare" / "table.md").read_text() in printed
    assert f"{shown['value']:.2f} ({shown['low']:.2f} to {shown['high']:.2f})" in printed
    assert (store.root / "compare" / "trade_off.png").read_bytes().startswith(b"\x89PNG")
    html = (store.root / "compare" / "compare.html").read_text()
    assert "://" not in html
    assert "last_layer" in html
    assert verify(store)[1] == []

    before = (store.root / "compare" / "manifest.json").stat().st_mtime_ns
    assert main(call) == 0
    assert cells(store) == made
    assert (store.root / "compare" / "manifest.json").stat().st_mtime_ns == before
    assert capsys.readouterr().err.count("unchanged") == 7

    method(tmp_path, "contrast", "contrastive: {rows: 8, temperature: 0.2}")
    assert main(call) == 0
    again = cells(store)
    assert {name: when for name, when in again.items() if name in made} == made
    assert len(again) == len(made) + 2  # of the changed method, one a seed
    assert table(store)["rows"][1] == found["rows"][1]

    assert main([*call, "--keep"]) == 0
    assert len(cells(store)) == len(again)
    assert len(list(store.root.glob("cells/*/model.safetensors"))) == 6


def test_a_method_that_fails_leaves_the_others_their_rows(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    call = [method(tmp_path, "sound", "contrastive: {rows: 8}"), method(tmp_path, "vast", "contrastive: {rows: 99999}")]
    assert main(["compare", *call, "--store", str(store.root), "--seeds", "1", "--device", "cpu"]) == 1
    rows = {row["name"]: row for row in table(store)["rows"]}
    assert "at least one batch of 99999" in rows["vast"]["failed"]["0"]
    assert rows["vast"]["figures"] == {}
    assert rows["sound"]["figures"][ENGLISH]["value"] > 0
    assert "vast (1 of 1 seeds failed)" in capsys.readouterr().out


def test_several_at_a_time_make_the_same_table_each_cell_once(
    unbroken: tuple[Path, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipes = [
        method(tmp_path, "sound", "contrastive: {rows: 8}"),
        method(tmp_path, "twin", "contrastive: {rows: 8}"),
        method(tmp_path, "vast", "contrastive: {rows: 99999}"),
    ]
    found = []
    for jobs in (1, 2):
        own = Store(shutil.copytree(unbroken[0], tmp_path / f"store{jobs}"))
        (own.root / ".scratch" / "cells" / "of_an_older_recipe").mkdir(parents=True)
        call = ["compare", *recipes, "--store", str(own.root), "--seeds", "1", "--device", "cpu"]
        assert main([*call, "--jobs", str(jobs)]) == 1
        assert len(cells(own)) == 3  # base, control and what two recipes have in common
        assert not (own.root / ".scratch" / "cells" / "of_an_older_recipe").exists()
        found.append(table(own)["rows"])
    assert "twin, seed 0, 2 at a time on cpu: done" in capsys.readouterr().err
    for alone, beside in zip(*found, strict=True):
        assert beside["name"] == alone["name"]
        assert beside["failed"] == alone["failed"]
        for key, figure in alone["figures"].items():
            assert beside["figures"][key]["value"] == pytest.approx(figure["value"], rel=1e-4)
    assert main([*call, "--jobs", "0"]) == 1
    assert "--jobs: found 0. Allowed: 1 or more" in capsys.readouterr().err


def test_methods_are_laid_over_a_recipe_and_the_store_of_what_it_extends_serves(tmp_path: Path):
    short = written(tmp_path, "short", f"extends: {TINY}\n{SHORT}")
    common, recipes, owners = compare.read([short], ["contrastive", "lens"])
    assert (common.name, list(recipes), owners) == ("short", ["contrastive", "lens"], ["short", "tiny"])
    config = TrainConfig.of(recipes["lens"])
    assert [objective.name for objective in config.objectives] == ["lens", "instruction", "language_model"]
    assert config.steps == 3
    assert config.base == TrainConfig.of(read_recipe(TINY)).base
    own = written(tmp_path, "own", "train: {objectives: [{contrastive: {rows: 4}}]}\n")
    assert list(compare.read([short], [own])[1]) == ["own"]
    with pytest.raises(ValueError, match="method lense: no such file. Expected: a path, or one of afp.yaml"):
        compare.read([short], ["lense"])


@pytest.mark.parametrize("base", ["sample.yaml", "opus8.yaml"])
def test_every_built_in_method_is_sound_and_shares_the_control_of_all_but_retain_and_prompt(base: str):
    _, recipes, _ = compare.read([base], [])
    assert sorted(recipes) == sorted(file.stem for file in METHODS.glob("*.yaml"))
    assert len(recipes) >= 11
    controls = compare._controls(recipes)
    assert {control.name: control.of for control in controls if control.name != "control"} == {
        "control of retain": ["retain"],
        "control of prompt": ["prompt"],
    }
    pairs = {
        name: next(o.rows for o in TrainConfig.of(recipe).objectives if o.is_alignment)
        for name, recipe in recipes.items()
    }
    assert set(pairs.values()) == {48}, "every method sees the same rows"


def test_steps_hold_for_all_in_place_of_what_recipes_say(tmp_path: Path):
    one = method(tmp_path, "one", "contrastive: {rows: 8}", more="steps: 50")
    with pytest.raises(ValueError, match="found 50 micro-batches"):
        compare.read([one, str(TINY)])
    common, recipes, _ = compare.read([one, str(TINY)], steps=2)
    assert [TrainConfig.of(recipe).steps for recipe in (common, *recipes.values())] == [2, 2, 2]
    assert TrainConfig.of(recipes["one"]).objectives[0].rows == 8
    with pytest.raises(ValueError, match="--steps: found 0. Allowed: 1 or more"):
        compare.read([one], steps=0)


def test_what_must_be_alike_is_named_where_it_is_not(tmp_path: Path):
    one = method(tmp_path, "one", "contrastive: {rows: 8}")
    for name, text, place in (
        ("corpora", "corpus: {dev_rows: 41}", "corpus.dev_rows"),
        ("seeds", "seed: 5", "seed"),
        ("bases", "train: {base: {seed: {steps: 25}}}", "train.base"),
        ("evals", "eval: [{loss: {source: {sample: {split: heldout}}}}]", "eval"),
        ("lengths", "train: {max_length: 32}", "train.max_length"),
    ):
        other = written(tmp_path, name, f"extends: {TINY}\n{text}\n")
        with pytest.raises(ValueError, match=rf"recipe {name}: differs from tiny in {place}\. Allowed:"):
            compare.read([one, other])
    more = method(tmp_path, "more", "contrastive: {rows: 8}", more="steps: 30")
    with pytest.raises(ValueError, match=r"recipe more: found 30 micro-batches .* at most 24, as tiny has"):
        compare.read([one, more])
    with pytest.raises(ValueError, match="extend no recipe in common"):
        compare.read([one, "sample.yaml"])
    with pytest.raises(ValueError, match="found one twice"):
        compare.read([one, one])
    with pytest.raises(ValueError, match="--methods: found with 2 recipes. Allowed: one recipe"):
        compare.read([one, str(TINY)], ["lens"])


@pytest.mark.parametrize("seeds", [0, 21])
def test_the_number_of_seeds_has_bounds(seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", str(TINY), "--store", str(tmp_path), "--seeds", str(seeds)]) == 1
    assert f"--seeds: found {seeds}. Allowed: 1 to 20." in capsys.readouterr().err


def test_a_store_without_a_base_model_is_refused_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", str(TINY), "--store", str(tmp_path / "empty")]) == 1
    error = capsys.readouterr().err
    assert "nothing is in it. Expected: a store with a corpus" in error
    assert not (tmp_path / "empty").exists()
    assert "make align" in error


def test_better_and_worse_follow_from_the_interval_over_seeds():
    def cell(role: str, recall: float, loss: float) -> tuple[EvaluationResult, Manifest]:
        figures = {
            **{f"retrieval/deu_Latn-eng_Latn/recall@1/layer={layer}": {"value": recall / 2**layer} for layer in (0, 1)},
            ENGLISH: {"value": loss, "low": loss - 0.1, "high": loss + 0.1},
        }
        asked = {known: {"value": recall} for known in (XNLI, PAWSX)}
        asked[XCOPA] = {"value": recall, "low": recall - 0.3, "high": recall + 0.3}  # of few items
        metrics = {role: figures | asked, "trained_layer": 1}
        metrics["dev"] = {k: v for k, v in figures.items() if k != ENGLISH}
        metrics["chance"] = {XNLI: 1 / 3, PAWSX: 0.5}
        numbers = {"steps": 3, "tokens/contrastive": 100, "tokens/language_model": 20, "rows/contrastive": 8}
        return result(metrics), Manifest(asset="cells", fingerprint="f", seconds=2.0, numbers=numbers)

    rows = [
        Row("base", "base", cells={0: cell("base", 0.1, 2.0)}),
        Row("control", "control", of=["good", "bad"], cells={s: cell("control", 0.1, 2.0 + s / 100) for s in range(3)}),
        Row("bad", "aligned", control="control", cells={s: cell("aligned", 0.05, 2.5 + s / 100) for s in range(3)}),
        Row(
            "good", "aligned", control="control",
            cells={s: cell("aligned", 0.4 + s / 50, 2.0 + [0.02, 0.0, 0.03][s]) for s in range(3)},
        ),
    ]  # fmt: skip
    found = comparison.summary(rows, "eng_Latn", [0, 1, 2])
    assert [row["name"] for row in found["rows"]] == ["base", "control", "good", "bad"]
    _, _, good, bad = found["rows"]
    assert good["figures"][BEST]["value"] == pytest.approx(0.42)
    half = good["figures"][BEST]["high"] - 0.42
    assert half == pytest.approx(4.3027 * 0.02 / 3**0.5)
    assert good["figures"]["retrieval/trained/recall@1"]["value"] == pytest.approx(0.21)
    assert good["against_control"][BEST]["value"] == pytest.approx(0.32)
    assert (good["against_control"][BEST]["told"], bad["against_control"][BEST]["told"]) == ("better", "worse")
    assert good["against_control"][ENGLISH]["told"] == "no significant difference"
    benchmarks = [good["against_control"][f"{task}/mean/acc"]["told"] for task in ("xnli", "pawsx", "xcopa")]
    assert benchmarks == ["better", "better, but not above chance", "no significant difference"], "42 % of 33 and of 50"
    assert good["against_control"]["xcopa/mean/acc"]["value"] == pytest.approx(0.32)
    assert bad["against_control"][ENGLISH]["told"] == "worse"
    assert bad["against_base"][ENGLISH]["value"] == pytest.approx(0.255)
    assert (good["tokens"], good["rows"], good["seconds"]["value"]) == (120, 8, 2.0)
    table = comparison.comparison_table({**found, "recipe": "planted"})
    head, lines = table.head, [[text.replace("\u00a0", " ") for text in row] for row in table.texts()]
    assert lines[2][head.index("recall@1, best layer")] == "42.0 % (37.0 to 47.0), layer 0, better"
    assert lines[3][head.index("recall@1, best layer")] == "5.0 % (5.0 to 5.0), layer 0, worse"
    assert lines[0][head.index("English loss")] == "2.00 (1.90 to 2.10)"
    assert comparison.picture({**found, "recipe": "planted"}) is not None


def test_the_interval_over_runs_is_students():
    assert over_runs([1.0, 2.0, 3.0]) == pytest.approx({"value": 2, "low": 2 - 2.484165, "high": 2 + 2.484165, "n": 3})
    assert over_runs([5.0]) == {"value": 5.0, "n": 1}
    assert sorted(STUDENT, reverse=True) == list(STUDENT)
    assert STUDENT[8] == 2.2622  # 9 degrees of freedom, in Student's own table


def test_effective_ranks_are_compared_at_the_same_layer():
    def cell(role: str, trained: int, ranks: dict[int, float]) -> tuple[EvaluationResult, Manifest]:
        key = "representation/deu_Latn/effective_rank"
        figures = {f"{key}/layer={layer}": {"value": rank} for layer, rank in ranks.items()}
        metrics = {role: {**figures, key: {"value": ranks[trained]}}, "trained_layer": trained, "dev": {}}
        return result(metrics), Manifest(asset="cells", fingerprint="f", seconds=2.0, numbers={"steps": 3})

    rows = [
        Row("base", "base", cells={0: cell("base", 3, {1: 25.0, 3: 30.0})}),
        Row("control", "control", of=["low"], cells={0: cell("control", 3, {1: 20.0, 3: 28.0})}),
        Row("low", "aligned", control="control", cells={0: cell("aligned", 1, {1: 18.0, 3: 27.0})}),
    ]
    low = next(row for row in comparison.summary(rows, "eng_Latn", [0])["rows"] if row["name"] == "low")
    rank = "representation/mean/effective_rank"
    assert low["figures"][rank]["value"] == 18.0
    assert low["against_control"][rank]["value"] == pytest.approx(18 / 20 - 1)
    assert low["against_base"][rank]["value"] == pytest.approx(18 / 25 - 1)


def test_a_task_has_a_figure_of_the_languages_it_was_taught_in_and_one_of_the_others():
    found = {"eng_Latn": 0.8, "deu_Latn": 0.3, "swh_Latn": 0.1}
    metrics = {
        "aligned": {f"intents/{lang}/acc": {"value": value} for lang, value in found.items()},
        "chance": dict.fromkeys((f"intents/{lang}/acc" for lang in found), 0.1),
        "task_groups": {"intents": {"source": ["eng_Latn"], "transfer": ["deu_Latn", "swh_Latn"]}},
    }
    own, _ = comparison.figures(result(metrics), "aligned", "eng_Latn")
    assert {key: (item["value"], item["guessed"]) for key, item in own.items()} == {
        "intents/source/acc": (0.8, 0.1),
        "intents/transfer/acc": (pytest.approx(0.2), pytest.approx(0.1)),
    }
    cell = result({**metrics, "base": metrics["aligned"]}), Manifest(asset="c", fingerprint="f")
    row = Row("base", "base", cells={0: cell})
    table = comparison.comparison_table({**comparison.summary([row], "eng_Latn", [0]), "recipe": "planted"})
    [line] = table.texts()
    assert table.head[1:3] == [
        "INTENTS acc, languages trained in (chance 10.0 %)",
        "INTENTS acc, languages not trained in (chance 10.0 %)",
    ]
    assert line[1:3] == ["80.0\u00a0%", "20.0\u00a0%"]
