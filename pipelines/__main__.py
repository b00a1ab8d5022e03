"""A recipe -> its training mix, without Dagster and without torch."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipelines.config import Recipe, read_recipe
from pipelines.errors import UserError, printable, quoted, run_command
from pipelines.files import write_atomically
from pipelines.languages import Pair
from pipelines.progress import Progress
from pipelines.report import ledger as ledger_report
from pipelines.report.flow import total
from pipelines.runner import STAGES, needed, side_by_side
from pipelines.stages import collect
from pipelines.stages.budget import words
from pipelines.storage import verification
from pipelines.storage.manifest import Manifest
from pipelines.storage.store import Store

USAGE = """python -m pipelines RECIPE --store DIR [--pair PAIR ...] [--until ASSET]
                                                                make the recipe's corpus, up to the training mix
       python -m pipelines refresh RECIPE --store DIR           first look for newer releases of unpinned corpora
       python -m pipelines prune RECIPE --store DIR             remove downloads that the lock no longer names
       python -m pipelines ledger STORE [--html FILE]           what every step dropped, and rows to look at
       python -m pipelines verify STORE [--repair]              compare every file of a store with its SHA-256, and
                                                                set aside what is damaged, to be made again"""

ASSETS = [stage.asset for stage in STAGES]
EPILOG = """RECIPE is a YAML file, or the name of a built-in recipe such as sample.yaml. What is there and unchanged is
not made again. OPUS_URL names the OPUS server, https://opus.nlpl.eu/opusapi/ unless set."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A mistake of the user ends in a sentence, not in a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = words.pop(0) if words and words[0] in ("refresh", "prune", "verify", "ledger") else "make"
    parser = argparse.ArgumentParser(
        prog="python -m pipelines", usage=USAGE, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if command in ("verify", "ledger"):
        parser.add_argument("store", metavar="STORE", help="a folder that this program filled, or its address")
        if command == "verify":
            parser.add_argument(
                "--repair", action="store_true", help="move damaged datasets to .damaged/: the next run rebuilds them"
            )
        if command == "ledger":
            parser.add_argument("--html", metavar="FILE", type=Path, help="write a page with plots and samples as well")
    else:
        parser.add_argument("recipe", metavar="RECIPE", help="a YAML file or the name of a built-in recipe")
        parser.add_argument(
            "--store", metavar="DIR", required=True, help="where everything is kept: a folder, or s3://bucket/prefix"
        )
        if command == "make":
            parser.add_argument(
                "--pair", metavar="PAIR", action="append", default=[], help="only this pair, such as en-de; repeatable"
            )
        if command != "prune":
            parser.add_argument(
                "--until", metavar="ASSET", choices=ASSETS, default=ASSETS[-1], help="the last one to make"
            )
    return run_command(partial(_run, command, parser.parse_args(words)), "error: ")


def _run(command: str, options: argparse.Namespace) -> int:
    if command == "verify":
        return _verify(options.store, options.repair)
    if command == "ledger":
        return _ledger(options.store, options.html)
    if command == "prune":
        return _prune(options.recipe, options.store)
    only = getattr(options, "pair", [])
    return _make(options.recipe, options.store, only, options.until, command == "refresh")


def _make(path: str, folder: str, only: Sequence[str], until: str, refresh: bool) -> int:
    recipe = read_recipe(path)
    pairs = _chosen(recipe, only)
    for note in recipe.notes():
        print(printable(f"note: {note}"), file=sys.stderr)
    store = Store.open(folder, recipe.name)
    made: dict[str, dict[str, Manifest]] = {}
    with store.writer(), Progress() as progress:
        if refresh:
            progress.start("looking for newer releases")
            moved = collect.refresh(recipe, store, on_progress=progress.update)
            progress.finish(f"news for {', '.join(map(str, moved))}" if moved else "nothing new")
        for stage in needed(recipe):
            if ASSETS.index(stage.asset) > ASSETS.index(until):
                break
            if only and stage.asset == "training_mix":
                continue
            asset = stage.asset
            before = {pair: store.manifest(asset, pair) for pair in (pairs if stage.per_pair else [None])}
            progress.start(asset)
            if stage.per_pair:
                found = side_by_side(pairs, partial(stage.make, recipe, store), progress.update, store)
            else:
                found = [stage.make(recipe, store, None, progress.update)]
            same = sum(manifest == before[pair] for pair, manifest in zip(before, found, strict=True))
            rows = f"{sum(map(_rows, found)):,} rows" + (f" in {len(found)} pairs" if stage.per_pair else "")
            changes = "unchanged" if same == len(found) else f"{same} pairs unchanged" if same else ""
            progress.finish(", ".join(filter(None, [rows, changes])))
            made[asset] = {str(pair) if pair else "all": manifest for pair, manifest in zip(before, found, strict=True)}
    print(printable(table(made)))
    if only and until == ASSETS[-1]:
        print(f"The training mix needs all {len(recipe.corpus.pairs)} pairs: run without --pair to make it.")
    return 0


def _ledger(place: str, html: Path | None) -> int:
    store = Store(place)
    found, talks = ledger_report.ledgers(store), ledger_report.conversations(store)
    if not found:
        raise UserError(f"store {place}: no bitext in it. Allowed: what 'python -m pipelines' filled. Check the path.")
    print(printable(ledger_report.table(total(list(found.values())))))
    for title, ledger in talks.items():
        print(printable(f"\n{title}\n{ledger_report.table(ledger)}"))
    if dropped := ledger_report.dropped_examples(store):
        print(printable(f"\n{dropped}"))
    if html:
        write_atomically(html, ledger_report.page(store))
        print(printable(f"Plots and samples: {html.absolute()}"))
    return 0


def _chosen(recipe: Recipe, only: Sequence[str]) -> list[Pair]:
    chosen = [Pair.parse(spec) for spec in only] or recipe.corpus.pairs
    if strange := [str(pair) for pair in chosen if pair not in recipe.corpus.pairs]:
        raise UserError(
            f"--pair: found {', '.join(strange)}. Allowed: {', '.join(map(str, recipe.corpus.pairs))}. Choose one of "
            f"these or add the pair to the recipe."
        )
    return chosen


def _rows(manifest: Manifest) -> int:
    return manifest.numbers.get("rows_out", manifest.rows.get("data", 0))


def table(made: dict[str, dict[str, Manifest]]) -> str:
    """Rows per pair and stage as plain text; `made` is {asset: {pair, or "all" for the whole recipe: manifest}}."""
    per_pair = [asset for asset, found in made.items() if "all" not in found]
    pairs = list(dict.fromkeys(pair for asset in per_pair for pair in made[asset]))
    lines = [["rows", *(asset.removesuffix("_bitext") for asset in per_pair)]]
    lines += [[pair, *(f"{_rows(made[asset][pair]):,}" for asset in per_pair)] for pair in pairs]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    out = []
    for first, *others in lines:
        numbers = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        out.append("  ".join([first.ljust(widths[0]), *numbers]))
    if mix := made.get("training_mix", {}).get("all"):
        parts = ", ".join(f"{rows:,} {part}" for part, rows in mix.rows.items())
        out.append(f"training_mix: {parts}, of a budget of {mix.numbers['budget']:,}")
        out.append(words(mix.numbers))
    return "\n".join(out)


def _prune(path: str, folder: str) -> int:
    recipe = read_recipe(path)
    store = Store.open(folder, recipe.name, create=False)
    with store.writer():
        gone = collect.prune(recipe, store)
    for name in gone:
        print(quoted(name, 4096))
    print(f"{len(gone):,} downloads removed")
    return 0


def _verify(place: str, repair: bool) -> int:
    store = Store(place)
    compared, faults = verification.verify(store)
    for fault in faults:
        print(quoted(fault, 4096))
    print(printable(f"{compared:,} files compared, {len(faults):,} damaged or missing"))
    if not faults:
        return 0
    if not repair:
        print(printable(f"Fix: {store.repair_command}, then the command that made the store."))
        return 1
    for line in verification.repair(store):
        print(quoted(line, 4096))
    print("Repaired. Run the command that made the store again: it rebuilds what was damaged, and nothing else.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
