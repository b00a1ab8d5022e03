"""A whole mirror of OPUS -> shards: wall time and peak memory of the main command, once as it is and once doubled.

python -m benchmarks.corpus MIRROR [--work DIR] [--out DIR] [--rows N]

MIRROR is a folder in the layout of an OPUS server, with opusapi.json. It is served on loopback by a process of its own,
and every Moses package of it is downloaded, filtered with the filters of sample.yaml, deduplicated (exact and near),
decontaminated, turned into instructions and mixed. Doubled, every line stands twice, the second time with a number at
its end: so the rows are distinct, and what must be held per row or per pair shows.
"""

import argparse
import io
import json
import multiprocessing
import shutil
import sys
import zipfile
from multiprocessing.connection import Connection
from pathlib import Path

import yaml

from benchmarks.rival import WORK, machine, measured
from benchmarks.table import markdown
from pipelines.languages import Pair
from pipelines.storage.store import Store
from tests.support.opus_server import Mirror, package

CORPUS = {
    "filters": ["char_length", "length_ratio", "script", "identical", "markup", "lid", "translation_score"],
    "dedup": {"near": 0.8},
    "instructions": ["translate"],
    "allow_empty": True,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, help="folder for corpus.md and corpus.json")
    parser.add_argument("--rows", type=int, default=999_999, help="the budget of the mix")
    options = parser.parse_args(arguments)
    folder = (options.work / "corpus").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = [run(options.mirror, folder, options.rows, times) for times in (1, 2)]
    text = report(found)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "corpus.md").write_text(text + "\n")
        (options.out / "corpus.json").write_text(json.dumps({"machine": machine(), "runs": found}, indent=1) + "\n")
    return 0


def run(mirror: Path, folder: Path, rows: int, times: int) -> dict:
    """Everything of the mirror to shards, each line `times` times."""
    records = [r for r in json.loads((mirror / "opusapi.json").read_text()) if r["preprocessing"] == "moses"]
    pairs = sorted({Pair.parse([r["source"], r["target"]]) for r in records})
    corpora = sorted({f"{r['corpus']}/{r['version']}" for r in records})
    recipe = folder / f"mirror{times}.yaml"
    corpus = {**CORPUS, "pairs": [list(pair) for pair in pairs], "sources": [{"opus": {"corpora": corpora}}]}
    recipe.write_text(yaml.safe_dump({"corpus": {**corpus, "budget": {"rows": rows}}}))
    store = folder / f"store{times}"
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(mirror, times, there), daemon=True)
    server.start()
    try:
        url = here.recv()
        print(f"{len(records)} packages of {len(pairs)} pairs, {times} x", file=sys.stderr, flush=True)
        took = measured([sys.executable, "-m", "pipelines", recipe, "--store", store], OPUS_URL=f"{url}/opusapi/")
    finally:
        server.terminate()
        server.join()
    made = Store(store)
    stages: dict[str, dict] = {}
    for asset, pair in made.datasets():
        manifest = made.require(asset, pair)
        stage = stages.setdefault(asset, {"rows": 0, "seconds": 0.0})
        stage["rows"] += manifest.numbers.get("rows_out", 0)
        stage["seconds"] += manifest.seconds
    return {
        "times": times, "packages": len(records), "pairs": len(pairs), "rows": stages["raw_bitext"]["rows"],
        "seconds": round(took.seconds, 1), "peak_bytes": took.peak_bytes, "stages": stages,
    }  # fmt: skip


def serve(mirror: Path, times: int, tell: Connection) -> None:
    """Be the server of a mirror until terminated; its address is the first thing told."""
    server = Mirror()
    for record in json.loads((mirror / "opusapi.json").read_text()):
        if record["preprocessing"] == "moses":
            path = "/" + record["url"].lstrip("/")
            data = (mirror / record["url"]).read_bytes()
            server.files[path] = data if times == 1 else repeated(data)
            server.records.append(
                {**record, "url": server.url + path, "alignment_pairs": times * record["alignment_pairs"]}
            )
    tell.send(server.url)
    server.release.wait()


def repeated(data: bytes) -> bytes:
    """A Moses package with every line a second time, ` 2` at its end."""
    members = {}
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        for name in source.namelist():
            content = source.read(name)
            if name not in ("README", "LICENSE"):
                content = content.removesuffix(b"\n") + b"\n"
                content += content.replace(b"\n", b" 2\n")
            members[name] = content
    return package(members)


def report(found: list[dict]) -> str:
    cells = [
        [f"{r['rows']:,} rows, {r['pairs']} pairs", f"{r['seconds']:.0f}", f"{r['rows'] / r['seconds']:,.0f}",
         f"{r['peak_bytes'] / 2**20:,.0f}", *(f"{r['stages'][asset]['rows']:,}" for asset in SHOWN)]
        for r in found
    ]  # fmt: skip
    memory = found[-1]["peak_bytes"] / found[0]["peak_bytes"]
    return "\n\n".join(
        [
            f"`python -m benchmarks.corpus MIRROR`: {found[0]['packages']} packages, {machine()}.",
            markdown(["corpus", "seconds", "rows/s", "peak MiB", *SHOWN], cells),
            f"Doubled, it needs {memory:.2f} times the memory.",
        ]
    )


SHOWN = ("clean_bitext", "deduped_bitext", "instructions", "training_mix")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
