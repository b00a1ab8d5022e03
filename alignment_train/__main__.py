"""python -m alignment_train base|probe|control|train|eval RECIPE --store DIR: one step of a recipe's tensor half.

`report RUN...` compares evaluations that are there.
"""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 with one sentence where the recipe, the store or the machine cannot serve."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["report"]:
        return _report(words[1:])
    parser = argparse.ArgumentParser(prog="python -m alignment_train", description=__doc__)
    parser.add_argument("command", choices=["base", "probe", "control", "train", "eval", "all"], help=(
        "base: load or make base_model; probe: write layer_probe; control: train control_model; train: train "
        "align_model (these three make base_model where it is missing or out of date, and control and train make "
        "layer_probe where a layer is 'auto'); eval: write evaluation; all: base, control, train and eval"
    ))  # fmt: skip
    parser.add_argument("recipe", help="a YAML file, or the name of a built-in recipe")
    parser.add_argument("--store", required=True, help="where the training mix is: a folder, or s3://bucket/prefix")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    given = parser.parse_args(words)
    try:
        _run(given.command, given.recipe, given.store, given.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _report(words: list[str]) -> int:
    """Exit code 0; 1 where a run has no evaluation."""
    parser = argparse.ArgumentParser(prog="python -m alignment_train report", description=(
        "Compare evaluations: a leaderboard by recipe as Markdown here, and as one HTML page."
    ))  # fmt: skip
    parser.add_argument("run", nargs="+", help="stores, or evaluation folders of stores")
    parser.add_argument("--html", default="leaderboard.html", help="where to write the page (default: %(default)s)")
    given = parser.parse_args(words)
    try:
        from pathlib import Path

        from alignment_train import leaderboard

        found = leaderboard.lines(leaderboard.read(given.run))
        print(leaderboard.markdown(found))
        Path(given.html).write_text(leaderboard.page(found), encoding="utf-8")
        print(f"Page: {Path(given.html).absolute()}")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(command: str, recipe_path: str, root: str, device: str | None) -> None:
    from alignment_train.config import TrainConfig
    from pipelines.config import read_recipe
    from pipelines.progress import Progress
    from pipelines.store import Store

    recipe = read_recipe(recipe_path)
    config = TrainConfig.of(recipe)
    store = Store.open(root, recipe.name)
    if command != "base" or config.base.seed:  # a named model needs no corpus
        store.require("align_model" if command == "eval" else "training_mix")  # before torch loads, which takes seconds

    from alignment_train.evaluate import run as evaluate
    from alignment_train.report import dagster_pipes
    from alignment_train.stages import Trainer

    with store.writer(), dagster_pipes() as dagster, Progress() as progress:
        trainer = Trainer(recipe, store, device, progress.tell, dagster)
        steps = {
            "base_model": trainer.base,
            "layer_probe": trainer.probe,
            "control_model": trainer.control,
            "align_model": trainer.align,
            "evaluation": lambda: evaluate(recipe, store, trainer.models(), progress.tell),
        }
        ready = ["base_model", "layer_probe"] if config.asks_probe else ["base_model"]
        wanted = {
            "base": ["base_model"],
            "probe": ["base_model", "layer_probe"],
            "control": [*ready, "control_model"],
            "train": [*ready, "align_model"],
            "eval": ["evaluation"],
            "all": [*ready, "control_model", "align_model", "evaluation"],
        }[command]
        for asset in wanted:
            progress.start(f"{asset} on {trainer.device}, {trainer.precision}")
            before = store.manifest(asset)
            manifest = steps[asset]()
            made = f"done, {manifest.seconds:.0f} s of work" if manifest != before else "unchanged"
            progress.finish(f"{made}, in {store.where(asset)}")


if __name__ == "__main__":
    sys.exit(main())
