"""Every fault of `tests.support.faults` at every point of a small run -> docs/reliability.md: what is guaranteed, and
how often it held.

python -m benchmarks.reliability [--out docs/reliability.md] [--every N] [--jobs N]

A run of tests/data/faults.yaml is broken off at each flush, rename and write; each file of the finished store has a bit
flipped. `--every 10` tries one point in ten. About an hour on two cores; tests/test_fault_injection.py tries a few
points in less than a minute.
"""

import argparse
import importlib
import multiprocessing
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pyarrow as pa

from benchmarks.rival import machine
from benchmarks.table import markdown
from pipelines import files
from pipelines.__main__ import main as pipelines_main
from pipelines.errors import UserError
from pipelines.fetching import lock
from pipelines.schema import BITEXT
from pipelines.storage.manifest import parse_manifest
from pipelines.storage.provenance import commit
from pipelines.storage.store import Store
from tests.support import faults
from tests.support.faults import Fault, Outcome

ROWS = 1_000_000  # of the dataset that the cost of checks is measured on
ROUNDS = 10  # of processes that start at once
LIMITS = (200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)  # bytes that a file may have
OUTCOMES: tuple[Outcome, ...] = ("resumed", "refused", "harmless", "failed")
Case = Callable[[Path], tuple[Outcome, str]]
"""Given a folder of its own, what became of a fault, and the output."""

TEXT = """# Reliability

Written by `python -m benchmarks.reliability{options}` at commit {commit} ({machine}; {minutes:.0f} minutes). Faults
are injected into runs of [tests/data/faults.yaml](../tests/data/faults.yaml), which goes through every stage, by
patching `os` and `open` in a forked process ([tests/support/faults.py](../tests/support/faults.py)).
[tests/test_fault_injection.py](../tests/test_fault_injection.py) tries a fixed choice of these points in every test
run.

## What is guaranteed

- **A run that is killed, loses power or fills the disk loses nothing that was finished**, and the same command
  afterwards ends with the same bytes as a run that was never broken off. A dataset is written beside its place,
  flushed to the disk (content, then names), renamed into place, and the folder above is flushed. Until then the old
  one counts.
- **A damaged file is not used.** A file is compared with its SHA-256 before its first use in a process (again when
  its size, times or inode change). A manifest has a digest of itself, the lock file one of each entry, a checkpoint
  one of each of its files. The error names the file and the command that repairs it.
- **`python -m pipelines verify STORE`** compares everything: datasets, downloads, checkpoints, the lock file and
  `store.json`. **`--repair`** moves damaged datasets to `.damaged/` in the store and removes damaged downloads,
  checkpoints and entries of the lock file, so that the command that made the store rebuilds these and nothing else.
  It does not rebuild them itself: that takes the recipe, and may take hours. A store at an address has its damaged
  datasets removed.
- **A damaged checkpoint** is removed with a sentence; the training goes on from an earlier one, or from its
  beginning.
- **A full disk, a read-only disk and a missing permission** end a command in one sentence with path, cause and cure.
  A finished store on a read-only or full disk can be read, verified and reported on, and running its recipe ends as
  "unchanged".
- **Several processes that start at once** on a new folder share the store; one writes at a time, others wait or say
  who writes.
- **A store from somebody else writes nothing outside itself.** File names in manifests and in the lock file, names of
  pairs and cells must stay below the store; symbolic links that leave it are refused; JSON is bounded to 64 MiB.

## What is not

- A disk that corrupts a file *while* a process uses it, without a change of size or times, is noticed by the next
  process.
- Two machines that write to one address at once are not kept apart.
- The content of Arrow files is checked against the manifest, not for being well-formed: read stores only of people
  you trust not to craft Arrow files.
- Files that no step reads (`state.json`, `README.md`, plots, `report.html`) may be damaged without a run noticing;
  `verify` does.

## Figures

{table}

"Resumed": the next run ended with the bytes of an unbroken one; a full disk and a limit also had to end in a
sentence. "Refused": a sentence names the damaged file, and after `verify --repair` the store was rebuilt to the same
bytes where a run could rebuild it. "No effect": the result was that of an undamaged run.

## Costs

{costs}

## What failed

{failures}"""


class Row(NamedTuple):
    fault: str
    where: str
    outcomes: Counter[str]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/reliability.md"))
    parser.add_argument("--every", type=int, default=1, help="try one point in so many (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only the rows whose names have one of these words")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        corpus, whole = _finished(work)
        rows, failures = list[Row](), list[str]()
        for (fault, where), cases in _cases(work, corpus, whole, options.every).items():
            if options.only and not any(word in f"{fault} {where}" for word in options.only):
                continue
            found = _tried(work, cases, options.jobs)
            rows.append(Row(fault, where, Counter(outcome for outcome, _ in found.values())))
            failures += [
                f"{fault}, {where}, {name}:\n{output}" for name, (what, output) in found.items() if what == "failed"
            ]
            print(rows[-1], file=sys.stderr, flush=True)
        for row in (*_every_byte(work, whole), *_tables()):
            if not options.only or any(word in row.fault for word in options.only):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
        costs = _costs(work)
    words = "".join(f" --{name} {getattr(options, name)}" for name in ("every",) if getattr(options, name) != 1)
    text = TEXT.format(
        options=words,
        commit=commit()[:12],
        machine=machine(),
        minutes=(time.monotonic() - began) / 60,
        table=_table(rows),
        costs=costs,
        failures="\n".join(map(_line, failures)) or "Nothing.",
    )
    files.write_atomically(options.out, text.rstrip() + "\n")
    print(f"{options.out}: {sum(row.outcomes.total() for row in rows):,} faults, {len(failures)} failures")
    return 1 if any(row.outcomes["failed"] for row in rows) else 0


def _finished(work: Path) -> tuple[Path, Path]:
    """A store up to the training mix, and one with everything, that nothing happened to."""
    corpus, whole = work / "corpus", work / "whole"
    assert faults.run(corpus, [faults.corpus(corpus)]).status == 0
    faults.copy(corpus, whole)
    assert faults.run(whole, [faults.training(whole)]).status == 0
    return corpus, whole


def _tried(work: Path, cases: dict[str, Case], jobs: int) -> dict[str, tuple[Outcome, str]]:
    numbers = count()

    def one(case: Case) -> tuple[Outcome, str]:
        folder = work / f"case{next(numbers)}"
        folder.mkdir()
        try:
            return case(folder / "store")
        except AssertionError as error:
            return "failed", str(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(cases, pool.map(one, cases.values()), strict=True))


def _cases(work: Path, corpus: Path, whole: Path, every: int) -> dict[tuple[str, str], dict[str, Case]]:
    """Cases by name, by kind of fault and the run that it is injected into."""
    texts, models = faults.hashes(corpus), faults.hashes(whole)
    trained = {name: digest for name, digest in models.items() if not name.startswith(("control_model", "evaluation"))}
    counted = work / "counted"
    made = faults.run(counted, [faults.corpus(counted)])
    taught = faults.run(counted, [faults.training(counted, "train")])
    shutil.rmtree(counted)

    def fresh(fault: Fault, store: Path) -> tuple[Outcome, str]:
        return faults.outcome_of_fault(store, [faults.corpus(store)], fault, texts)

    def continued(fault: Fault, store: Path) -> tuple[Outcome, str]:
        return faults.outcome_of_fault(faults.copy(corpus, store), [faults.training(store, "train")], fault, trained)

    def points(kind: Any, names: list[str], case: Callable[[Fault, Path], tuple[Outcome, str]]) -> dict[str, Case]:
        return {f"{at} {name}": partial(case, Fault(kind, at)) for at, name in list(enumerate(names))[::every]}

    ends = _first_and_last(taught.writes)
    paths = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file())
    return {
        ("kill before a flush or rename", "corpus"): points("kill", made.operations, fresh),
        ("power failure at a flush or rename", "corpus"): points("power", made.operations, fresh),
        ("kill before a flush or rename", "training"): points("kill", taught.operations, continued),
        ("power failure at a flush or rename", "training"): points("power", taught.operations, continued),
        ("disk full at a write", "corpus, every write"): points("full", made.writes, fresh),
        ("disk full at a write", "training, first and last of every file"): {
            f"{at} {taught.writes[at]}": partial(continued, Fault("full", at)) for at in ends[::every]
        },
        ("file size limit, compiled code included", "training"): {
            f"{limit} bytes": partial(continued, Fault("limit", limit)) for limit in LIMITS
        },
        ("flipped bit", "every file of a finished store"): {
            path: partial(_flipped, whole, path, models) for path in paths[::every]
        },
        ("flipped bit", "every file of a checkpoint"): _checkpoints(work, corpus, trained, taught.operations),
        ("read-only disk", "every command on a finished store"): {
            words[1] if words[0] != "pipelines" or len(words) < 4 else "pipelines": partial(_read_only, whole, words)
            for words in _commands(Path("STORE"))
        },
        ("four processes start at once", "new store"): {f"round {n}": partial(_at_once, texts) for n in range(ROUNDS)},
    }  # fmt: skip


def _first_and_last(writes: list[str]) -> list[int]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, name in enumerate(writes):
        first.setdefault(name, at)
        last[name] = at
    return sorted({*first.values(), *last.values()})


def _flipped(whole: Path, path: str, expected: dict[str, str], store: Path) -> tuple[Outcome, str]:
    """One file damaged: refused and repaired, or of no effect and found by `verify`."""
    outcome, output = faults.outcome_of_flip(faults.copy(whole, store), path, expected)
    if outcome == "failed":
        return outcome, output
    repaired = faults.run(store, [["pipelines", "verify", str(store), "--repair"]])
    if repaired.status or (path not in repaired.output and path not in UNCHECKED):
        return "failed", output + repaired.output
    again = faults.run(store, [faults.corpus(store), faults.training(store)])
    if again.status or faults.hashes(store) != expected:
        return "failed", output + repaired.output + again.output
    return outcome, output


UNCHECKED = (".writer",)


def _every_byte(work: Path, whole: Path) -> Iterable[Row]:
    """A bit of each byte of the files that say what the others are."""

    def tried(data: bytes, read: Callable[[bytes], Any]) -> Iterable[Outcome]:
        expected = read(data)
        for place in range(len(data)):
            flipped = bytearray(data)
            flipped[place] ^= 1
            try:
                yield "harmless" if read(bytes(flipped)) == expected else "failed"
            except UserError:
                yield "refused"

    manifests = [file.read_bytes() for file in sorted(whole.rglob("manifest.json"))]
    found = Counter(outcome for data in manifests for outcome in tried(data, parse_manifest))
    yield Row("flipped bit", f"every byte of {len(manifests)} manifests", found)
    home = work / "sources"
    with lock.editing(home, "opus") as entries:
        entries |= {f"{name} deu_Latn-eng_Latn": [{"version": "v1", "sha256": "0" * 64}] for name in "ABC"}

    def read_lock(data: bytes) -> Any:
        (home / lock.FILE).write_bytes(data)
        return lock.read(home, "opus")

    yield Row("flipped bit", "every byte of a lock file", Counter(tried((home / lock.FILE).read_bytes(), read_lock)))


def _checkpoints(work: Path, corpus: Path, expected: dict[str, str], operations: list[str]) -> dict[str, Case]:
    at = next(at for at, line in enumerate(operations) if line.startswith("rename") and "step-00000004" in line)
    broken = faults.copy(corpus, work / "broken")
    assert faults.run(broken, [faults.training(broken, "train")], Fault("kill", at + 2)).status == faults.KILLED
    [checkpoint] = broken.glob(".scratch/base_model/*/step-*")

    def case(path: str, store: Path) -> tuple[Outcome, str]:
        faults.copy(broken, store)
        faults.flip(store / path)
        again = faults.run(store, [faults.training(store, "train")])
        if again.status or faults.hashes(store) != expected or "It was removed" not in again.output:
            return "failed", again.output
        return "resumed", again.output

    return {
        file.name: partial(case, str(file.relative_to(broken)))
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }


def _commands(store: Path) -> list[list[str]]:
    page = f"{store}.html"
    return [
        faults.corpus(store),
        faults.training(store),
        ["pipelines", "verify", str(store)],
        ["pipelines", "ledger", str(store)],
        ["alignment_train", "report", str(store), "--html", page],
    ]


def _read_only(whole: Path, words: list[str], store: Path) -> tuple[Outcome, str]:
    faults.copy(whole, store)
    command = [word.replace("STORE", str(store)) for word in words]
    result = faults.run(store, [command], Fault("read-only"))
    return ("failed" if result.status else "harmless"), result.output


def _at_once(expected: dict[str, str], store: Path) -> tuple[Outcome, str]:
    context = multiprocessing.get_context("forkserver")
    ready = context.Barrier(4)
    processes = [context.Process(target=_start, args=(str(store), ready)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    return ("harmless" if codes == [0] * 4 and faults.hashes(store) == expected else "failed"), str(codes)


def _start(store: str, ready: Any) -> None:
    ready.wait()
    sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115
    sys.exit(pipelines_main(faults.corpus(Path(store))[1:]))


def _tables() -> Iterable[Row]:
    """Tables of inputs that have tests of their own."""
    yield _tests("hostile store: manifest, lock file, names, links, figures", "tests/test_store_safety.py")
    try:
        server = importlib.import_module("tests.test_hostile_server")
    except ModuleNotFoundError:
        return
    with tempfile.TemporaryDirectory() as folder:
        found = server.figures(Path(folder))
    failed = _tests("", "tests/test_hostile_server.py").outcomes["failed"]
    outcomes = Counter(resumed=found["survived"], refused=found["refused"], failed=failed)
    yield Row("answers of a hostile server", "`tests/test_hostile_server.py`", outcomes)


def _tests(fault: str, file: str) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, f"--junitxml={report}"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        suite = ET.parse(report).getroot()[0].attrib
    broken = int(suite["failures"]) + int(suite["errors"])
    passed = int(suite["tests"]) - broken - int(suite["skipped"])
    return Row(fault, f"`{file}`", Counter(refused=passed, failed=broken))


def _line(failure: str) -> str:
    """One item of a list: the fault and the last line of what the run printed, without this machine's folders."""
    fault, *said = (line for line in failure.splitlines() if line.strip())
    last = re.sub(r"/[^ ']*?/store", "STORE", said[-1] if said else "nothing")
    return f"- {fault.rstrip(':')}: `{last[:300]}`"


def _table(rows: list[Row]) -> str:
    lines = [
        [row.fault, row.where, f"{row.outcomes.total():,}", *(f"{row.outcomes[name]:,}" for name in OUTCOMES)]
        for row in rows
    ]
    total = sum((row.outcomes for row in rows), Counter[str]())
    lines.append(["all", "", f"{total.total():,}", *(f"{total[name]:,}" for name in OUTCOMES)])
    header = [
        "fault",
        "injected into",
        "injected",
        "resumed to the same bytes",
        "refused plainly",
        "no effect",
        "failed",
    ]
    return markdown(header, lines)


def _costs(work: Path) -> str:
    """What checks and flushes cost, on a dataset of ROWS rows."""
    store = Store.open(work / "costs", "costs")
    none: list[str] = []

    def write() -> float:
        began = time.perf_counter()
        with store.writing("raw_bitext", "deu_Latn-eng_Latn") as out:
            for start in range(0, ROWS, 20_000):
                texts = [
                    f"Row {n} of many, {n * 7919 % 104729} and {n * 104729 % 7919}."
                    for n in range(start, start + 20_000)
                ]
                same = [pa.repeat(pa.scalar(text), 20_000) for text in ("deu_Latn", "eng_Latn", "costs/v1")]
                out.write(pa.record_batch([pa.array(texts), pa.array(texts), *same], schema=BITEXT))
            out.commit("f", {})
        return time.perf_counter() - began

    def read() -> float:
        files._digests.__init__()
        began = time.perf_counter()
        for _ in store.batches("raw_bitext", "deu_Latn-eng_Latn"):
            pass
        return time.perf_counter() - began

    with patch.object(files, "sync_tree", lambda folder: none), patch.object(files, "sync_folder", lambda folder: none):
        unflushed = min(write() for _ in range(3))
    flushed = min(write() for _ in range(3))
    with patch.object(files, "fault", lambda *args: None):
        unchecked = min(read() for _ in range(3))
    checked = min(read() for _ in range(3))
    size = store.require("raw_bitext", "deu_Latn-eng_Latn").bytes
    [shard] = store.shards("raw_bitext", "deu_Latn-eng_Latn")
    began = time.perf_counter()
    files.sha256(shard)
    digest = (time.perf_counter() - began) / size * 1e12
    return (
        f"On a dataset of {ROWS:,} rows ({size / 1e6:.0f} MB on disk): SHA-256 {digest:.0f} ms per GB; reading it once "
        f"{unchecked:.2f} s without the check, {checked:.2f} s with it; a second time in a process is not checked. "
        f"Writing it {unflushed:.2f} s without flushes, {flushed:.2f} s with them."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
