"""python -m alignment_train base|probe|control|train|merge|eval|push RECIPE --store DIR: a step of the tensor half.

On several devices: python -m torch.distributed.run --nproc-per-node N -m alignment_train train RECIPE --store DIR.
python -m alignment_train compare RECIPE... --store DIR: several recipes or methods over several seeds, in one table.
python -m alignment_train report RUN...: evaluations that are there, in one table.
python -m alignment_train check MODEL|RECIPE: what a base model is, and whether it can be aligned.
"""

import argparse
import os
import sys
from contextlib import ExitStack

from pipelines.errors import printable, run_command

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MODELS = ("align_model", "merged_model", "control_model")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 with one sentence where the recipe, the store or the machine cannot serve."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _main(words))


def _main(words: list[str]) -> int:
    if words[:1] == ["compare"]:
        return _compare(words[1:])
    if words[:1] == ["report"]:
        return _report(words[1:])
    if words[:1] == ["check"]:
        return _check(words[1:])
    parser = argparse.ArgumentParser(prog="python -m alignment_train", description=__doc__)
    parser.add_argument("command", choices=["base", "probe", "control", "train", "merge", "eval", "all", "push"], help=(
        "base: load or make base_model; probe: write layer_probe; control: train control_model; train: train "
        "align_model (these three make base_model where it is missing or out of date, and control and train make "
        "layer_probe where a layer is 'auto'); merge: make merged_model of its adapter and another; eval: write "
        "evaluation; all: base, control, train, merge where the recipe has it, and eval; push: upload a model to a hub"
    ))  # fmt: skip
    parser.add_argument("recipe", help="a YAML file, or the name of a built-in recipe")
    parser.add_argument("--store", required=True, help="where the training mix is: a folder, or s3://bucket/prefix")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--to", metavar="USER/NAME", help="push: where to")
    parser.add_argument("--asset", choices=MODELS, default="align_model", help="push: which model (%(default)s)")
    parser.add_argument("--private", action="store_true", help="push: make a private repository, where there is none")
    given = parser.parse_args(words)
    if (given.command == "push") != bool(given.to):
        parser.error("push needs --to, and only push has it")
    if given.command == "push":
        _push(given.recipe, given.store, given.to, given.asset, given.private)
    else:
        _run(given.command, given.recipe, given.store, given.device)
    return 0


def _push(recipe_path: str, root: str, to: str, asset: str, private: bool) -> None:
    from alignment_train.push import push
    from pipelines.config import read_recipe
    from pipelines.storage.store import Store

    recipe = read_recipe(recipe_path)
    print(printable(push(recipe, Store.open(root, recipe.name, create=False), to, asset, private)))


def _compare(words: list[str]) -> int:
    """Exit code 0; 1 where something cannot serve, or a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m alignment_train compare", description=(
        "Train every recipe with every seed on the corpus and base model that the store has, and write into it "
        "compare/table.md and compare.html: every recipe beside base and control. What was computed once is kept."
    ))  # fmt: skip
    parser.add_argument("recipe", nargs="+", help="recipes that differ in `train` alone, all extending one recipe")
    parser.add_argument("--store", required=True, help="where the corpus and base model are: a folder, or an address")
    parser.add_argument("--methods", nargs="*", metavar="METHOD", help=(
        "lay these over the recipe and compare them in its place: files, or names in assets/recipes/methods; all of "
        "these where none is named"
    ))  # fmt: skip
    parser.add_argument("--steps", type=int, help="of every training (default: as the recipes say)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, counted from the recipe's own (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help=(
        "how many to train at a time, each with its share of the cores, or on a GPU in turn (default: 1)"
    ))  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep each cell's model, too: cells/*/ in the store")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    given = parser.parse_args(words)
    from alignment_train.comparison import compare
    from pipelines.storage.store import Store

    compare.check_seeds(given.seeds)
    compare.check_jobs(given.jobs)
    common, recipes, owners = compare.read(given.recipe, given.methods, given.steps)
    store = Store.open(given.store, *owners, create=False)
    for asset in ("training_mix", "eval_text", "base_model"):
        store.require(asset)
    made = compare.run(common, recipes, store, given.seeds, given.keep, given.device, given.jobs)
    print(printable((store.fetched("compare") / "table.md").read_text(encoding="utf-8")))
    print(printable(f"In {store.where('compare')}: table.md, table.json, trade_off.png, compare.html"))
    return 1 if made.numbers["failed"] else 0


def _report(words: list[str]) -> int:
    """Exit code 0; 1 where a run has no evaluation."""
    parser = argparse.ArgumentParser(prog="python -m alignment_train report", description=(
        "Compare evaluations: a leaderboard by recipe as Markdown here, and as one HTML page."
    ))  # fmt: skip
    parser.add_argument("run", nargs="+", help="stores, or evaluation folders of stores")
    parser.add_argument("--html", default="leaderboard.html", help="where to write the page (default: %(default)s)")
    given = parser.parse_args(words)
    from pathlib import Path

    from pipelines.report import leaderboard

    found = leaderboard.lines(leaderboard.read(given.run))
    print(printable(leaderboard.markdown(found)))
    Path(given.html).write_text(leaderboard.page(found), encoding="utf-8")
    print(printable(f"Page: {Path(given.html).absolute()}"))
    return 0


def _check(words: list[str]) -> int:
    """Exit code 0; 1 where the base model cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m alignment_train check", description=(
        "Load a base model as training would, run it on a few tokens, and list what it is, what was changed about it "
        "and what stands in the way. Of a recipe, its settings are compared with the model too."
    ))  # fmt: skip
    parser.add_argument(
        "model", help="the folder of a model, a GGUF file, a hub id, or a recipe (.yaml) that names one"
    )
    parser.add_argument("--gguf", metavar="FILE", help="the GGUF file to take of a hub id or a folder")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that lies beside the weights")
    parser.add_argument("--quiet", action="store_true", help="print problems alone")
    given = parser.parse_args(words)
    from alignment_train.models.check import check

    return check(given.model, given.revision, given.trust_remote_code, given.quiet, given.gguf)


def _run(command: str, recipe_path: str, root: str, device: str | None) -> None:
    from alignment_train.config import TrainConfig
    from alignment_train.training import distributed
    from pipelines.config import read_recipe
    from pipelines.progress import Progress
    from pipelines.storage.store import Store

    recipe = read_recipe(recipe_path)
    config = TrainConfig.of(recipe)
    needs_corpus = command != "base" or config.base.seed is not None  # a named model needs none
    store = Store.open(root, recipe.name, create=not needs_corpus)
    if needs_corpus:
        needed = "align_model" if command in ("merge", "eval") else "training_mix"
        store.require(needed)  # before torch loads, which takes seconds

    from alignment_train.evaluation.evaluate import run as evaluate
    from alignment_train.trainer import Trainer
    from alignment_train.training.progress_log import dagster_pipes

    with ExitStack() as stack:
        progress = Progress(None if distributed.is_main_process() else stack.enter_context(open(os.devnull, "w")))
        if distributed.is_main_process():
            stack.enter_context(store.writer())
        dagster = stack.enter_context(dagster_pipes())
        stack.enter_context(progress)
        stack.callback(distributed.shut_down)
        trainer = Trainer(recipe, store, device, progress.update, dagster)
        steps = {
            "base_model": trainer.base,
            "layer_probe": trainer.probe,
            "control_model": trainer.control,
            "align_model": trainer.align,
            "merged_model": trainer.merge,
            "evaluation": lambda: evaluate(recipe, store, trainer.models(), progress.update),
        }
        ready = ["base_model", "layer_probe"] if config.needs_probe else ["base_model"]
        wanted = {
            "base": ["base_model"],
            "probe": ["base_model", "layer_probe"],
            "control": [*ready, "control_model"],
            "train": [*ready, "align_model"],
            "merge": ["merged_model"],
            "eval": ["evaluation"],
            "all": [*ready, "control_model", "align_model", *(["merged_model"] if config.merge else []), "evaluation"],
        }[command]
        for asset in wanted:
            if asset == "evaluation" and not distributed.is_main_process():
                continue
            progress.start(f"{asset} on {trainer.device}")
            before = store.manifest(asset)
            manifest = steps[asset]()
            made = f"done, {manifest.seconds:.0f} s of work" if manifest != before else "unchanged"
            progress.finish(f"{made}, in {store.where(asset)}")
            if manifest != before and manifest.numbers.get("notes"):
                print(printable(f"Note: {manifest.numbers['notes']}"), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
