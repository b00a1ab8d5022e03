"""The command line `isogloss VERB [RECIPE] [--store DIR]`. A verb loads what it needs; `--help` loads neither torch
nor Dagster."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

DESCRIPTION = "Align the languages of a multilingual language model: corpus, training, evaluation, report."
EPILOG = """RECIPE is a YAML file, or the name of a built-in recipe (isogloss recipes). Without one, $RECIPE, the recipe
used last or sample.yaml is taken. DIR is a folder or an address such as s3://bucket/prefix. Without one, $STORE, the
store used last with this recipe or ./store is taken.

exit codes:
  0    success
  1    something failed or was found: an invalid recipe, a model that cannot be aligned, a damaged store
  2    wrong usage of the command line
  130  interrupted (Ctrl-C, SIGTERM); finished work is kept, and the same command resumes

examples:
  isogloss align                              everything, on the embedded sample
  isogloss check my.yaml                      is this recipe sound, and what would it do?
  isogloss align my.yaml --store /data/run1   corpus, training and evaluation of a recipe of your own
  isogloss ui                                 lineage, tables and plots of the last run, in Dagster
"""


class Verb(NamedTuple):
    """A verb of the command line: what it does, its examples, its options, and the function of assets.commands."""

    name: str
    help: str
    examples: str
    add_options: Callable[[argparse.ArgumentParser], None]


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is documented in `isogloss --help`."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(args)
    from pipelines.errors import run_command

    command = import_module("assets.commands").COMMANDS[options.verb]
    return run_command(lambda: command(options))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="isogloss", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name,
            help=verb.help,
            description=verb.help[0].upper() + verb.help[1:] + ".",
            epilog=f"examples:\n{verb.examples}" if verb.examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_options(sub)
    return parser


class _Version(argparse.Action):
    """Print the version of the installed distribution, which is read only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        from pipelines.errors import printable

        print(printable(f"isogloss {version('isogloss')}"))
        parser.exit()


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a YAML file, or the name of a built-in recipe")


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="the folder or s3:// address of the data")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")


def _location(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    _store(parser)


def _align(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--dry-run", action="store_true", help="as `isogloss check`: run nothing, write nothing")


def _ui(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", default=3000, type=int, help="TCP port (default: %(default)s)")
    parser.add_argument("--allow-host", default=[], action="append", metavar="NAME", help=(
        "a further name by which browsers reach the UI, such as that of a proxy; repeatable"
    ))  # fmt: skip


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE|MODEL", nargs="?", help=(
        "a recipe; or a model: its folder, a GGUF file or a hub id"
    ))  # fmt: skip
    _store(parser)
    parser.add_argument("--download", action="store_true", help="of a recipe: also check a base model of a hub")
    parser.add_argument("--gguf", metavar="FILE", help="of a model: the GGUF file of a hub id or folder")
    parser.add_argument("--revision", help="of a model: branch, tag or commit on the hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="of a model: run code beside its weights")
    _json(parser)


def _corpus(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--pair", metavar="PAIR", action="append", default=[], help="only this pair, such as en-de")
    parser.add_argument("--until", metavar="ASSET", help="the last asset to make (default: training_mix)")


def _train(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--only", metavar="ASSET", choices=TRAINED, help=(
        f"this model and what it needs alone: {', '.join(TRAINED)}"
    ))  # fmt: skip
    _device(parser)


def _eval(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    _device(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="*", help="recipes that differ in `train` alone")
    _store(parser)
    parser.add_argument("--methods", nargs="*", metavar="METHOD", help=(
        "compare these methods on the recipe: files, or names in assets/recipes/methods; all if none is named"
    ))  # fmt: skip
    parser.add_argument("--steps", type=int, help="steps of every training (default: as the recipes say)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from the recipe's on (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument("--keep", action="store_true", help="also keep each model, in cells/ of the store")
    _device(parser)
    _json(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    _recipe(parser)
    parser.add_argument("--store", metavar="DIR", nargs="+", help="stores, or evaluation folders of stores")
    parser.add_argument("--html", metavar="FILE", help="also write the leaderboard as one HTML page")
    _json(parser)


def _ledger(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--html", metavar="FILE", help="also write a page with plots and samples")
    _json(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--repair", action="store_true", help="set damaged datasets aside: the next run rebuilds them")
    _json(parser)


def _refresh(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--until", metavar="ASSET", help="the last asset to make (default: training_mix)")


def _push(parser: argparse.ArgumentParser) -> None:
    _location(parser)
    parser.add_argument("--to", metavar="USER/NAME", required=True, help="the repository on the hub")
    parser.add_argument("--asset", choices=PUSHED, default="align_model", help="which model (default: %(default)s)")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")


def _new(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="its name in recipes: letters, digits and underscores")
    parser.add_argument("--into", metavar="DIR", default=".", help="a folder (default: the working directory)")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


TRAINED = ("base_model", "layer_probe", "control_model", "align_model", "merged_model")
PUSHED = ("align_model", "merged_model", "control_model")
KINDS = ("recipe", "filter", "source", "objective", "eval", "task", "instruction")
VERBS = (
    Verb(
        "align", "run everything that a recipe says: corpus, training, evaluation, report",
        "  isogloss align\n  isogloss align my.yaml --store /data/run1", _align,
    ),
    Verb(
        "ui", "open Dagster on a recipe and its store",
        "  isogloss ui\n  isogloss ui my.yaml --store /data/run1 --port 3001", _ui,
    ),
    Verb(
        "check", "check a recipe, or whether a base model can be aligned; runs and writes nothing",
        "  isogloss check my.yaml\n  isogloss check google/gemma-3-270m --json", _check,
    ),
    Verb(
        "corpus", "make the corpus, up to the training mix",
        "  isogloss corpus my.yaml --pair en-de\n  isogloss corpus my.yaml --until clean_bitext", _corpus,
    ),
    Verb(
        "train", "train the models on the training mix: base, control and aligned",
        "  isogloss train my.yaml\n  isogloss train my.yaml --only base_model --device cuda:1", _train,
    ),
    Verb("eval", "evaluate the trained models and write the report", "  isogloss eval my.yaml", _eval),
    Verb(
        "compare", "train recipes or methods with several seeds and compare them in one table",
        "  isogloss compare a.yaml b.yaml --seeds 3\n  isogloss compare opus8.yaml --methods contrastive lens --json",
        _compare,
    ),
    Verb(
        "report", "print the leaderboard of evaluations",
        "  isogloss report --store runs/*\n  isogloss report --store run1 run2 --html leaderboard.html", _report,
    ),
    Verb(
        "ledger", "print what every step dropped of the corpus, and why",
        "  isogloss ledger my.yaml\n  isogloss ledger --store /data/run1 --html ledger.html", _ledger,
    ),
    Verb(
        "verify", "compare every file of a store with its SHA-256",
        "  isogloss verify --store /data/run1\n  isogloss verify --store /data/run1 --repair", _verify,
    ),
    Verb(
        "refresh", "look for newer releases of unpinned corpora and remake what they change",
        "  isogloss refresh my.yaml", _refresh,
    ),
    Verb("prune", "remove downloads that the store no longer needs", "  isogloss prune my.yaml", _location),
    Verb("push", "upload a model to a hub", "  isogloss push my.yaml --to user/name --private", _push),
    Verb(
        "new", "write a commented skeleton of a recipe or a plug-in, and its test",
        "  isogloss new filter no_emoji\n  isogloss new recipe my_experiment --into experiments", _new,
    ),
    Verb("recipes", "list the built-in recipes", "  isogloss recipes\n  isogloss recipes --json", _json),
    Verb(
        "completion", "print a script that completes this command in a shell",
        '  eval "$(isogloss completion bash)"', _completion,
    ),
    Verb("home", "create Dagster's folder with its settings ($DAGSTER_HOME, else .dagster)", "", lambda parser: None),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
