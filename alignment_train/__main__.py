"""python -m alignment_train base|control|train|eval RECIPE --store DIR: one step of a recipe's tensor half.

On several devices: python -m torch.distributed.run --nproc-per-node N -m alignment_train train RECIPE --store DIR.
"""

import argparse
import os
import sys
from contextlib import ExitStack

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 with one sentence where the recipe, the store or the machine cannot serve."""
    parser = argparse.ArgumentParser(prog="python -m alignment_train", description=__doc__)
    parser.add_argument("command", choices=["base", "control", "train", "eval", "all"], help=(
        "base: load or make base_model; control: train control_model; train: train align_model (and base_model where "
        "it is missing or out of date); eval: write evaluation; all: these four"
    ))  # fmt: skip
    parser.add_argument("recipe", help="a YAML file, or the name of a built-in recipe")
    parser.add_argument("--store", required=True, help="where the training mix is: a folder, or s3://bucket/prefix")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    given = parser.parse_args(argv)
    try:
        _run(given.command, given.recipe, given.store, given.device)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(command: str, recipe_path: str, root: str, device: str | None) -> None:
    from alignment_train import ranks
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

    with ExitStack() as stack:
        progress = Progress(None if ranks.first() else stack.enter_context(open(os.devnull, "w")))
        if ranks.first():
            stack.enter_context(store.writer())
        dagster = stack.enter_context(dagster_pipes())
        stack.enter_context(progress)
        stack.callback(ranks.leave)
        trainer = Trainer(recipe, store, device, progress.tell, dagster)
        steps = {
            "base_model": trainer.base,
            "control_model": trainer.control,
            "align_model": trainer.align,
            "evaluation": lambda: evaluate(recipe, store, trainer.models(), progress.tell),
        }
        wanted = {
            "base": ["base_model"],
            "control": ["base_model", "control_model"],
            "train": ["base_model", "align_model"],
            "eval": ["evaluation"],
            "all": list(steps),
        }[command]
        for asset in wanted:
            if asset == "evaluation" and not ranks.first():
                continue
            progress.start(f"{asset} on {trainer.device}, {trainer.precision}")
            before = store.manifest(asset)
            manifest = steps[asset]()
            made = f"done, {manifest.seconds:.0f} s of work" if manifest != before else "unchanged"
            progress.finish(f"{made}, in {store.where(asset)}")


if __name__ == "__main__":
    sys.exit(main())
