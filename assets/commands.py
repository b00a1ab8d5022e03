"""One function a verb of `isogloss`: parsed options in, exit code out. The parser is assets/cli.py."""

import argparse
import contextlib
import io
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from alignment_train.config import TrainConfig
from assets.align import align, check_base, plan, run_model_check
from assets.locations import RunLocation, prepare_home, remember, resolve_location
from pipelines.config import RECIPES, read_recipe
from pipelines.errors import EXIT_OK, UserError, printable
from pipelines.terminal import print_json, print_table

RECIPE_SUFFIXES = (".yaml", ".yml")
TRAIN_COMMANDS = {
    "base_model": "base",
    "layer_probe": "probe",
    "control_model": "control",
    "align_model": "train",
    "merged_model": "merge",
}
"""The command of `alignment_train` that makes each asset, after what it needs."""


def _align(args: argparse.Namespace) -> int:
    if args.dry_run:
        return _check_recipe(args.recipe, args.store)
    return align(resolve_location(args.recipe, args.store))


def _ui(args: argparse.Namespace) -> int:
    from assets.ui import open_ui

    return open_ui(resolve_location(args.recipe, args.store), args.host, args.port, args.allow_host)


def _check(args: argparse.Namespace) -> int:
    if args.recipe is None or _is_recipe(args.recipe):
        return _check_recipe(args.recipe, args.store, args.download, args.json)
    flags = ["--trust-remote-code"] if args.trust_remote_code else []
    for name in ("gguf", "revision"):
        flags += [f"--{name}", value] if (value := getattr(args, name)) else []
    code, findings = run_model_check(args.recipe, *flags)
    if args.json:
        print_json({"model": args.recipe, "can_be_aligned": code == EXIT_OK, "findings": _findings(findings)})
    else:
        print(printable(findings), end="")
    return code


def _is_recipe(name: str) -> bool:
    """Whether `check` is given a recipe: a YAML file, or the bare name of a built-in one."""
    path = Path(name)
    return not path.is_dir() and (path.suffix in RECIPE_SUFFIXES or (RECIPES / f"{name}.yaml").is_file())


def _check_recipe(name: str | None, store: str | None, download: bool = False, as_json: bool = False) -> int:
    """Print what a recipe would do, and whether it can; nothing is written, a base model only with `download`."""
    location = resolve_location(name, store)
    recipe = read_recipe(location.recipe)
    config = TrainConfig.of(recipe)
    sections = plan(recipe, config)
    if download and config.base.model:
        code, findings = run_model_check(str(location.recipe))
    else:
        code, findings = check_base(location, config)
    if as_json:
        result = {"recipe": recipe.name, "is_sound": code == EXIT_OK, **sections, "findings": _findings(findings)}
        print_json(result)
        return code
    state = "is sound" if code == EXIT_OK else "cannot be run: see the base model below"
    lines = [f"{section}: {', '.join(map(str, items))}" for section, items in sections.items() if items]
    done = "The base model alone was downloaded." if download else "Nothing was downloaded or written."
    print(printable("\n".join([f"Recipe {recipe.name} {state}. {done}", *lines])))
    print(printable(findings), end="")
    return code


def _findings(text: str) -> list[list[str]]:
    """The lines of `alignment_train check` as [property, value]."""
    return [re.split(r"\s{2,}|: ", line.strip(), maxsplit=1) for line in text.splitlines() if line.strip()]


def _corpus(args: argparse.Namespace) -> int:
    from pipelines.__main__ import ASSETS, make_corpus

    location = _start(args)
    return make_corpus(location.recipe, location.store, args.pair, _asset(args.until, ASSETS))


def _refresh(args: argparse.Namespace) -> int:
    from pipelines.__main__ import ASSETS, make_corpus

    location = _start(args)
    return make_corpus(location.recipe, location.store, until=_asset(args.until, ASSETS), refresh=True)


def _asset(name: str | None, assets: list[str]) -> str:
    if name is not None and name not in assets:
        raise UserError(f"--until: found '{name}'. Expected: {', '.join(assets)}. Fix: name one of these.")
    return name or assets[-1]


def _train(args: argparse.Namespace) -> int:
    location = _start(args)
    merges = TrainConfig.of(read_recipe(location.recipe)).merge is not None
    assets = [args.only] if args.only else ["control_model", "align_model", *(["merged_model"] if merges else [])]
    for asset in assets:
        if code := _alignment_train(TRAIN_COMMANDS[asset], *_at(location), *_device(args)):
            return code
    return EXIT_OK


def _eval(args: argparse.Namespace) -> int:
    return _alignment_train("eval", *_at(_start(args)), *_device(args))


def _push(args: argparse.Namespace) -> int:
    location = resolve_location(args.recipe, args.store)
    private = ["--private"] if args.private else []
    return _alignment_train("push", *_at(location), "--to", args.to, "--asset", args.asset, *private)


def _compare(args: argparse.Namespace) -> int:
    location = resolve_location(args.recipe[0] if args.recipe else None, args.store)
    flags = ["--seeds", str(args.seeds), "--jobs", str(args.jobs), *_device(args)]
    flags += ["--steps", str(args.steps)] if args.steps is not None else []
    flags += ["--keep"] if args.keep else []
    flags += ["--methods", *args.methods] if args.methods is not None else []
    command = ["compare", *(args.recipe or [str(location.recipe)]), "--store", location.store, *flags]
    if not args.json:
        return _alignment_train(*command)
    from pipelines.storage.store import Store

    with contextlib.redirect_stdout(io.StringIO()):
        code = _alignment_train(*command)
    table = Store(location.store).fetched("compare") / "table.json" if code == EXIT_OK else None
    if table:
        print(printable(table.read_text(encoding="utf-8")), end="")
    return code


def _alignment_train(*args: str) -> int:
    """Run a command of `alignment_train` in this process. By name: the graph itself never loads torch."""
    return import_module("alignment_train.__main__").main(list(args))


def _at(location: RunLocation) -> list[str]:
    return [str(location.recipe), "--store", location.store]


def _device(args: argparse.Namespace) -> list[str]:
    return ["--device", args.device] if args.device else []


def _start(args: argparse.Namespace) -> RunLocation:
    """The location of a verb that writes, which is the default of the next one."""
    location = resolve_location(args.recipe, args.store)
    read_recipe(location.recipe)  # a mistake in it is shown before anything is written
    prepare_home()
    remember(location)
    return location


def _report(args: argparse.Namespace) -> int:
    from pipelines.report import leaderboard

    stores = args.store or [resolve_location(args.recipe).store]
    lines = leaderboard.lines(leaderboard.read(stores))
    if args.html:
        Path(args.html).write_text(leaderboard.page(lines), encoding="utf-8")
    if args.json:
        print_json(
            [
                {
                    "recipe": line.name,
                    "runs": [run.where for run in line.runs],
                    "guards": line.guards,
                    "figures": line.figures,
                    "changes": line.changes,
                }
                for line in lines
            ]
        )
        return EXIT_OK
    table = leaderboard.leaderboard_table(lines)
    print_table(table.head, table.texts())
    print(printable("\n".join(["", *table.notes])))
    if args.html:
        print(printable(f"Page: {Path(args.html).absolute()}"))
    return EXIT_OK


def _ledger(args: argparse.Namespace) -> int:
    from pipelines.__main__ import show_ledger

    html = Path(args.html) if args.html else None
    return show_ledger(resolve_location(args.recipe, args.store).store, html, args.json)


def _verify(args: argparse.Namespace) -> int:
    from pipelines.__main__ import verify_store

    return verify_store(resolve_location(args.recipe, args.store).store, args.repair, args.json)


def _prune(args: argparse.Namespace) -> int:
    from pipelines.__main__ import prune_downloads

    location = resolve_location(args.recipe, args.store)
    return prune_downloads(location.recipe, location.store)


def _new(args: argparse.Namespace) -> int:
    from assets.scaffold import write_skeleton

    files = write_skeleton(args.kind, args.name, Path(args.into))
    print(printable("\n".join(str(file) for file in files)))
    print(printable(f"Test it: python -m pytest {files[-1]}"))
    return EXIT_OK


def _recipes(args: argparse.Namespace) -> int:
    rows = []
    for file in sorted(RECIPES.glob("*.yaml")):
        first = file.read_text(encoding="utf-8").split("\n", 1)[0]
        rows.append((file.name, first.removeprefix("# ")))
    if args.json:
        print_json([{"name": name, "description": text, "path": str(RECIPES / name)} for name, text in rows])
    else:
        print_table(("recipe", "what it does"), rows, text_columns=2)
    return EXIT_OK


def _completion(args: argparse.Namespace) -> int:
    try:
        import argcomplete
    except ImportError:
        raise UserError(
            "isogloss completion: argcomplete is not installed. Expected: this package. Fix: pip install argcomplete"
        ) from None
    print(printable(argcomplete.shellcode(["isogloss"], shell=args.shell)))  # type: ignore[attr-defined]
    return EXIT_OK


def _home(args: argparse.Namespace) -> int:
    prepare_home()
    return EXIT_OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "align": _align,
    "ui": _ui,
    "check": _check,
    "corpus": _corpus,
    "train": _train,
    "eval": _eval,
    "compare": _compare,
    "report": _report,
    "ledger": _ledger,
    "verify": _verify,
    "refresh": _refresh,
    "prune": _prune,
    "push": _push,
    "new": _new,
    "recipes": _recipes,
    "completion": _completion,
    "home": _home,
}
