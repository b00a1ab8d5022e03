"""A recipe -> its training mix, without Dagster and without torch."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipelines.config import Recipe, read_recipe
from pipelines.errors import EXIT_FAILED, EXIT_OK, UserError, printable, quoted, run_command
from pipelines.files import write_atomically
from pipelines.languages import Pair
from pipelines.progress import Progress
from pipelines.report import ledger as ledger_report
from pipelines.report.flow import total
from pipelines.runner import STAGES, Stage, needed, side_by_side
from pipelines.stages import collect
from pipelines.stages.budget import words
from pipelines.storage import verification
from pipelines.storage.manifest import LedgerRow, Manifest
from pipelines.storage.store import Store
from pipelines.terminal import print_json, print_table

USAGE = """python -m pipelines RECIPE --store DIR [--pair PAIR ...] [--until ASSET]
                                                                make the recipe's corpus, up to the training mix
       python -m pipelines refresh RECIPE --store DIR           first look for newer releases of unpinned corpora
       python -m pipelines prune RECIPE --store DIR             remove downloads that the lock no longer names
       python -m pipelines ledger STORE [--html FILE] [--json]  rows that every step dropped, with examples
       python -m pipelines verify STORE [--repair] [--json]     compare every file of a store with its SHA-256, and
                                                                set damaged datasets aside, to be rebuilt"""

ASSETS = [stage.asset for stage in STAGES]
EPILOG = """RECIPE is a YAML file, or the name of a built-in recipe such as sample.yaml. Unchanged datasets are kept.
OPUS_URL names the OPUS server, https://opus.nlpl.eu/opusapi/ unless set. The command `isogloss` has the same verbs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A mistake of the user ends in a sentence, not in a traceback."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    command = args.pop(0) if args and args[0] in ("refresh", "prune", "verify", "ledger") else "make"
    return run_command(partial(_run, command, _parser(command).parse_args(args)), "error: ")


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines", usage=USAGE, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if command in ("verify", "ledger"):
        parser.add_argument("store", metavar="STORE", help="the folder or address of a store")
        add_store_options(parser, command)
        return parser
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or the name of a built-in recipe")
    parser.add_argument(
        "--store", metavar="DIR", required=True, help="where everything is kept: a folder, or s3://bucket/prefix"
    )
    add_corpus_options(parser, command)
    return parser


def add_corpus_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of `make` and `refresh`; `prune` has none."""
    if command == "make":
        parser.add_argument(
            "--pair", metavar="PAIR", action="append", default=[], help="only this pair, such as en-de; repeatable"
        )
    if command != "prune":
        parser.add_argument(
            "--until", metavar="ASSET", choices=ASSETS, default=ASSETS[-1], help=f"last asset: {', '.join(ASSETS)}"
        )


def add_store_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Add the options of `verify` and `ledger`."""
    if command == "verify":
        parser.add_argument(
            "--repair", action="store_true", help="move damaged datasets to .damaged/: the next run rebuilds them"
        )
    else:
        parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page with plots and samples")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(command: str, args: argparse.Namespace) -> int:
    if command == "verify":
        return verify_store(args.store, args.repair, args.json)
    if command == "ledger":
        return show_ledger(args.store, args.html, args.json)
    if command == "prune":
        return prune_downloads(args.recipe, args.store)
    return make_corpus(args.recipe, args.store, getattr(args, "pair", []), args.until, command == "refresh")


def make_corpus(
    path: str | Path, folder: str, pairs: Sequence[str] = (), until: str = ASSETS[-1], refresh: bool = False
) -> int:
    """Make a recipe's corpus up to an asset and print its rows; of some pairs alone, all but the training mix.

    Args:
        path: The recipe, as `read_recipe` takes it.
        folder: The store.
        pairs: Language pairs of the recipe, such as `en-de`; all where empty.
        until: The last asset to make.
        refresh: Whether to look for newer releases of unpinned corpora first.
    """
    recipe = read_recipe(path)
    selected = _selected_pairs(recipe, pairs)
    for note in recipe.notes():
        print(printable(f"note: {note}"), file=sys.stderr)
    store = Store.open(folder, recipe.name)
    manifests: dict[str, dict[str, Manifest]] = {}
    with store.writer(), Progress() as progress:
        if refresh:
            _refresh(recipe, store, progress)
        for stage in needed(recipe):
            if ASSETS.index(stage.asset) > ASSETS.index(until):
                break
            if pairs and stage.asset == "training_mix":
                continue
            manifests[stage.asset] = _make_asset(stage, recipe, store, selected, progress)
    _print_rows(manifests)
    if pairs and until == ASSETS[-1]:
        print(f"The training mix needs all {len(recipe.corpus.pairs)} pairs: run without --pair to make it.")
    return EXIT_OK


def _refresh(recipe: Recipe, store: Store, progress: Progress) -> None:
    progress.start("looking for newer releases")
    changed = collect.refresh(recipe, store, on_progress=progress.update)
    progress.finish(f"new releases for {', '.join(map(str, changed))}" if changed else "nothing new")


def _make_asset(
    stage: Stage, recipe: Recipe, store: Store, pairs: Sequence[Pair], progress: Progress
) -> dict[str, Manifest]:
    """Run one stage; its manifests by pair, or by "all" where it is of the whole recipe."""
    keys: Sequence[Pair | None] = pairs if stage.per_pair else [None]
    before = {pair: store.manifest(stage.asset, pair) for pair in keys}
    progress.start(stage.asset)
    if stage.per_pair:
        manifests = side_by_side(pairs, partial(stage.make, recipe, store), progress.update, store)
    else:
        manifests = [stage.make(recipe, store, None, progress.update)]
    unchanged = sum(manifest == before[pair] for pair, manifest in zip(keys, manifests, strict=True))
    rows = f"{sum(map(_rows, manifests)):,} rows" + (f" in {len(manifests)} pairs" if stage.per_pair else "")
    changes = "unchanged" if unchanged == len(manifests) else f"{unchanged} pairs unchanged" if unchanged else ""
    progress.finish(", ".join(filter(None, [rows, changes])))
    return {str(pair) if pair else "all": manifest for pair, manifest in zip(keys, manifests, strict=True)}


def _selected_pairs(recipe: Recipe, specs: Sequence[str]) -> list[Pair]:
    pairs = [Pair.parse(spec) for spec in specs] or recipe.corpus.pairs
    if unknown := [str(pair) for pair in pairs if pair not in recipe.corpus.pairs]:
        raise UserError(
            f"--pair: found {', '.join(unknown)}. Expected: {', '.join(map(str, recipe.corpus.pairs))}. Fix: name one "
            f"of these or add the pair to the recipe."
        )
    return pairs


def _rows(manifest: Manifest) -> int:
    return manifest.numbers.get("rows_out", manifest.rows.get("data", 0))


def _print_rows(manifests: dict[str, dict[str, Manifest]]) -> None:
    """Print the rows per pair and stage, and the parts of the training mix."""
    per_pair = [asset for asset, by_pair in manifests.items() if "all" not in by_pair]
    pairs = list(dict.fromkeys(pair for asset in per_pair for pair in manifests[asset]))
    if per_pair:
        print_table(
            ["rows", *(asset.removesuffix("_bitext") for asset in per_pair)],
            [[pair, *(f"{_rows(manifests[asset][pair]):,}" for asset in per_pair)] for pair in pairs],
        )
    if mix := manifests.get("training_mix", {}).get("all"):
        parts = ", ".join(f"{rows:,} {part}" for part, rows in mix.rows.items())
        print(printable(f"training_mix: {parts}, of a budget of {mix.numbers['budget']:,}"))
        print(printable(words(mix.numbers)))


def show_ledger(place: str, html: Path | None = None, as_json: bool = False) -> int:
    """Print what every step dropped of a store's rows, with examples; write them as a page to `html`."""
    store = Store(place)
    by_pair, by_title = ledger_report.ledgers(store), ledger_report.conversations(store)
    if not by_pair:
        raise UserError(
            f"store {place}: found no bitext. Expected: a store with a corpus. Fix: check the path, or make the corpus "
            f"with 'isogloss corpus'."
        )
    if html:
        write_atomically(html, ledger_report.page(store))
    if as_json:
        rows = {name: [row.model_dump() for row in ledger] for name, ledger in (by_pair | by_title).items()}
        print_json(rows)
        return EXIT_OK
    _print_ledger(total(list(by_pair.values())))
    for title, ledger in by_title.items():
        print()
        _print_ledger(ledger, title)
    if examples := ledger_report.dropped_examples(store):
        print(printable(f"\n{examples}"))
    if html:
        print(printable(f"Plots and samples: {html.absolute()}"))
    return EXIT_OK


def _print_ledger(rows: Sequence[LedgerRow], title: str = "") -> None:
    """Print one line a step and corpus; steps that changed and dropped nothing are left out."""
    print_table(
        ("step", "corpus", "in", "changed", "dropped", "out"),
        [
            (row.step, row.corpus, f"{row.into:,}", f"{row.changed:,}", f"{row.dropped:,}", f"{row.kept:,}")
            for row in rows
            if row.dropped or row.changed
        ],
        text_columns=2,
        title=title,
    )


def prune_downloads(path: str | Path, folder: str) -> int:
    """Remove the downloads that the lock of a store no longer names, and print them."""
    recipe = read_recipe(path)
    store = Store.open(folder, recipe.name, create=False)
    with store.writer():
        removed = collect.prune(recipe, store)
    for name in removed:
        print(quoted(name, 4096))
    print(f"{len(removed):,} downloads removed")
    return EXIT_OK


def verify_store(place: str, repair: bool = False, as_json: bool = False) -> int:
    """Compare every file of a store with its SHA-256; EXIT_FAILED where one is damaged and not repaired."""
    store = Store(place)
    compared, faults = verification.verify(store)
    repaired = verification.repair(store) if faults and repair else []
    if as_json:
        rows = [
            {"file": fault.file, "asset": fault.asset, "pair": fault.pair, "cause": fault.cause} for fault in faults
        ]
        print_json({"compared": compared, "faults": rows, "repaired": repaired})
        return EXIT_FAILED if faults and not repair else EXIT_OK
    for fault in faults:
        print(quoted(fault, 4096))
    print(printable(f"{compared:,} files compared, {len(faults):,} damaged or missing"))
    if not faults:
        return EXIT_OK
    if not repair:
        print(printable(f"Fix: {store.repair_command}, then the command that made the store."))
        return EXIT_FAILED
    for line in repaired:
        print(quoted(line, 4096))
    print("Repaired. Run the command that made the store again: it rebuilds what was damaged, and nothing else.")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
