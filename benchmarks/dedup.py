"""Near-duplicate removal at two sizes, and beside text-dedup's and datatrove's MinHash on the same rows and cores.

python -m benchmarks.dedup [--rows 1000000 10000000] [--rivals 1000000] [--against text-dedup datatrove] [--out DIR]

A row is three sentences of the sample's grammar on each side, so chosen that no two rows share two in the same places;
none is doubled. One row in 25 is a copy of an earlier one with 1 to 14 characters replaced; whether it is a near
duplicate (Jaccard similarity of at least 0.8) is then measured. Ours is the whole stage: it reads shards, removes exact
and near duplicates of pairs and writes shards. The rivals read the same rows, both sides as one text, from Parquet and
write what they keep; they have as many bands and values in each, and shingles as they come (five words).
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.rival import WORK, Measured, environment, machine, measured
from benchmarks.table import markdown
from pipelines import sample_grammar
from pipelines.config import Recipe
from pipelines.engine import CORES
from pipelines.languages import Pair
from pipelines.schema import BITEXT
from pipelines.stages import dedup
from pipelines.storage.store import Store
from pipelines.text.near import banding, distinct, shared, shingles, size

PAIR = Pair("deu_Latn", "eng_Latn")
THRESHOLD = 0.8
SENTENCES = 24_989  # a prime below the number of ids, so that the third sentence tells two rows with equal first apart
SPREAD = 611_953  # coprime to SENTENCES: neighbouring rows have nothing in common
BATCH = 20_000
PLANTED = 25  # one row in so many
MOST_EDITS = 14
NEAR, FAR, OWN = "planted-near", "planted-far", "grammar"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT_DEDUP = ("text-dedup==0.4.0",)
# Without regex, spaCy, tokenizers and an xxhash that takes texts, datatrove 0.10.1 does not import or run.
DATATROVE = ("datatrove==0.10.1", "regex", "spacy", "tokenizers", "pyarrow", "xxhash<4")
DATATROVE_RUN = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

if __name__ == "__main__":
    data, work = sys.argv[1:3]
    bands, width, tasks = map(int, sys.argv[3:])
    config = MinhashConfig(num_buckets=bands, hashes_per_bucket=width)
    for number, (count, steps) in enumerate([
        (tasks, [ParquetReader(data), MinhashDedupSignature(f"{work}/signatures", config)]),
        (bands, [MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets", config=config)]),
        (1, [MinhashDedupCluster(f"{work}/buckets", f"{work}/remove", config=config)]),
        (tasks, [ParquetReader(data), MinhashDedupFilter(f"{work}/remove"), ParquetWriter(f"{work}/kept")]),
    ]):
        LocalPipelineExecutor(steps, tasks=count, workers=min(count, tasks), logging_dir=f"{work}/logs/{number}").run()
"""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["stage"]:  # in a process of its own, whose memory is measured
        dedup.run(recipe(), Store(arguments[1]), PAIR)
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dedup", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rivals", type=int, default=1_000_000, help="rows for the rivals; 0 leaves them out")
    parser.add_argument("--against", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, help="folder for dedup.md and dedup.json")
    options = parser.parse_args(arguments)
    folder = (options.work / "dedup").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    lines = []
    for rows in sorted({*options.rows, *filter(None, [options.rivals])}):
        store = Store.open(folder / str(rows), recipe().name)
        planted = write(store, rows)
        print(f"{rows:,} rows written", file=sys.stderr, flush=True)
        lines.append(ours(store, rows, planted))
        print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
        if rows == options.rivals:
            for run in (RIVALS[name] for name in options.against):
                lines.append(rival(run, store, folder / "rivals", rows, planted, options.work.absolute()))
                print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
        shutil.rmtree(store.root)
    whole = {"machine": machine(), "threshold": THRESHOLD, "banding": banding(THRESHOLD), "runs": lines}
    text = report(whole)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "dedup.md").write_text(text + "\n")
        (options.out / "dedup.json").write_text(json.dumps(whole, indent=1) + "\n")
    return 0


def recipe() -> Recipe:
    corpus = {"pairs": [str(PAIR)], "sources": ["sample"], "dedup": {"near": THRESHOLD}}
    return Recipe.model_validate({"name": "dedup", "corpus": corpus})


def write(store: Store, rows: int) -> dict[str, int]:
    """Fill `clean_bitext`; the number of rows by label, which the column `corpus` holds."""
    counts: dict[str, int] = {NEAR: 0, FAR: 0, OWN: 0}
    with store.writing("clean_bitext", PAIR) as out:
        for batch in generated(rows):
            for item in pc.value_counts(batch["corpus"]).to_pylist():
                counts[item["values"]] += item["counts"]
            out.write(batch)
        out.commit("generated", {})
    return counts


def generated(rows: int) -> Iterator[pa.RecordBatch]:
    """BITEXT batches: the same rows each time, whose planted copies are of rows in earlier batches."""
    sentences = {code: pa.array([sample_grammar.text(i, code) for i in range(SENTENCES)]) for code in PAIR}
    copied = np.zeros(rows, dtype=bool)
    for start in range(0, rows, BATCH):
        numbers = np.arange(start, min(start + BATCH, rows))
        rng = np.random.default_rng(start)
        if start:
            copied[numbers] = rng.random(len(numbers)) < 1 / PLANTED
        here = np.flatnonzero(copied[numbers])
        originals = rng.integers(0, max(start, 1), len(here))
        while copied[originals].any():
            originals = np.where(copied[originals], rng.integers(0, start, len(here)), originals)
        numbers[here] = originals
        columns = [_rows(numbers, sentences[code]) for code in PAIR]
        labels = np.full(len(numbers), OWN, dtype=object)
        if len(here):
            before = [column.take(pa.array(here)) for column in columns]
            after = _edited(before, random.Random(start))
            labels[here] = np.where(_similar(before, after) >= THRESHOLD, NEAR, FAR)
            mask = pa.array(copied[start : start + len(numbers)])
            columns = [pc.replace_with_mask(old, mask, new) for old, new in zip(columns, after, strict=True)]
        names = [pa.array([code] * len(numbers)) for code in PAIR]
        yield pa.record_batch([*columns, *names, pa.array(labels, pa.string())], schema=BITEXT)


def _rows(numbers: np.ndarray, sentences: pa.Array) -> pa.Array:
    place = numbers * SPREAD % SENTENCES**2
    first, second = place % SENTENCES, place // SENTENCES
    third = (first + 7_919 * second) % SENTENCES
    return pc.binary_join_element_wise(*(sentences.take(pa.array(ids)) for ids in (first, second, third)), " ")


def _edited(columns: list[pa.Array], rng: random.Random) -> list[pa.Array]:
    """Each row with 1 to MOST_EDITS letters put in the place of others, on either side."""
    out = []
    for texts in zip(*(column.to_pylist() for column in columns), strict=True):
        sides = [list(text) for text in texts]
        for _ in range(rng.randint(1, MOST_EDITS)):
            side = rng.choice(sides)
            side[rng.randrange(len(side))] = rng.choice(LETTERS)
        out.append(["".join(side) for side in sides])
    return [pa.array(column) for column in zip(*out, strict=True)]


def _similar(before: list[pa.Array], after: list[pa.Array]) -> np.ndarray:
    """The Jaccard similarity, row by row; tests compare the shingles with their definition."""
    old, new = (distinct(shingles(columns, [size(code) for code in PAIR])) for columns in (before, after))
    rows = np.arange(len(before[0]))
    both, of_old, of_new = shared(old, rows, new, rows)
    return both / (of_old + of_new - both)


def ours(store: Store, rows: int, planted: dict[str, int]) -> dict:
    taken = measured([sys.executable, "-m", "benchmarks.dedup", "stage", store.root])
    dropped = dict.fromkeys(planted, 0)
    for row in store.require("deduped_bitext", PAIR).ledger:
        dropped[row.corpus] += row.dropped
    return _line("isogloss", rows, taken, planted, dropped)


def rival(run, store: Store, folder: Path, rows: int, planted: dict[str, int], work: Path) -> dict:
    """Hand the rows to a rival as one Parquet file per core and count what it keeps."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    names = [folder / "data" / f"{number}.parquet" for number in range(CORES)]
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("label", pa.string())])
    writers, seen = [pq.ParquetWriter(name, schema) for name in names], 0
    for batch in store.batches("clean_bitext", PAIR):
        ids = pc.cast(pa.array(np.arange(seen, seen + batch.num_rows)), pa.string())
        text = pc.binary_join_element_wise(batch["src"], batch["tgt"], " ")
        writers[min(seen * CORES // rows, CORES - 1)].write_batch(
            pa.record_batch([ids, text, batch["corpus"]], schema=schema)
        )
        seen += batch.num_rows
    for writer in writers:
        writer.close()
    name, taken, kept = run(folder, work)
    counts = {item["values"]: item["counts"] for item in pc.value_counts(kept).to_pylist()}
    return _line(name, rows, taken, planted, {label: n - counts.get(label, 0) for label, n in planted.items()})


def text_dedup(folder: Path, work: Path) -> tuple[str, Measured, pa.ChunkedArray]:
    bands, width = banding(THRESHOLD)
    python = environment(work, "text-dedup", *TEXT_DEDUP)
    taken = measured(
        [python, "-m", "text_dedup.minhash", "--path", "parquet", "--data_files", folder / "data" / "*.parquet",
         "--split", "train", "--cache_dir", folder / "cache", "--output", folder / "kept", "--column", "text",
         "--idx_column", "id", "--batch_size", "10000", "--threshold", str(THRESHOLD), "--num_perm",
         str(bands * width), "--b", str(bands), "--r", str(width), "--num_proc", str(CORES)],
        HF_HOME=str(folder / "cache"),
    )  # fmt: skip
    found = [pa.ipc.open_stream(path).read_all()["label"] for path in sorted((folder / "kept").glob("*.arrow"))]
    return "text-dedup 0.4.0", taken, pa.chunked_array([chunk for column in found for chunk in column.chunks])


def datatrove(folder: Path, work: Path) -> tuple[str, Measured, pa.ChunkedArray]:
    bands, width = banding(THRESHOLD)
    python = environment(work, "datatrove", *DATATROVE)
    script = folder / "run_datatrove.py"
    script.write_text(DATATROVE_RUN)
    taken = measured([python, script, folder / "data", folder / "datatrove", *map(str, (bands, width, CORES))])
    kept = sorted((folder / "datatrove" / "kept").glob("*.parquet"))
    found = [pc.struct_field(pq.read_table(path)["metadata"].combine_chunks(), "label") for path in kept]
    return "datatrove 0.10.1", taken, pa.chunked_array(found)


RIVALS = {"text-dedup": text_dedup, "datatrove": datatrove}


def _line(name: str, rows: int, taken: Measured, planted: dict[str, int], dropped: dict[str, int]) -> dict:
    """One measured run. Precision counts every dropped row that is no planted near duplicate as wrong."""
    return {
        "tool": name,
        "rows": rows,
        "seconds": round(taken.seconds, 2),
        "microseconds_per_row": round(taken.seconds / rows * 1e6, 2),
        "peak_bytes": taken.peak_bytes,
        "planted": planted,
        "dropped": dropped,
        "recall": dropped[NEAR] / max(planted[NEAR], 1),
        "precision": dropped[NEAR] / max(sum(dropped.values()), 1),
    }


def report(whole: dict) -> str:
    """The table, and what follows from it."""
    runs = whole["runs"]
    bands, width = whole["banding"]
    mine = [run for run in runs if run["tool"] == "isogloss"]
    lines = [
        [
            run["tool"], f"{run['rows']:,}", f"{run['seconds']:,.1f}", f"{run['microseconds_per_row']:.1f}",
            f"{run['peak_bytes'] / 2**30:.2f}", f"{run['recall']:.4f}", f"{run['precision']:.4f}",
        ]
        for run in runs
    ]  # fmt: skip
    said = [
        f"{whole['machine']}. Threshold {whole['threshold']}, {bands} bands of {width} values.",
        markdown(["tool", "rows", "seconds", "µs a row", "peak GiB", "recall", "precision"], lines),
        "Recall and precision are of the planted rows that are near duplicates as we define them: Jaccard similarity "
        "of character shingles of at least 0.8. The rivals compare shingles of five words, and check no candidate.",
    ]
    if len(mine) > 1:
        ratio = mine[-1]["microseconds_per_row"] / mine[0]["microseconds_per_row"]
        said.append(f"Time a row at {mine[-1]['rows']:,} rows over that at {mine[0]['rows']:,}: {ratio:.2f}.")
    for run in runs:
        own = next(item for item in mine if item["rows"] == run["rows"])
        if run is not own:
            said.append(f"{run['tool']} takes {run['seconds'] / own['seconds']:.1f} times as long as isogloss.")
    return "\n\n".join(said)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
