"""Other people's tools, each in an environment of its own, and commands measured from outside."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

WORK = Path("build/benchmarks")
"""Where the benchmarks keep environments and data unless told otherwise; git does not see it."""


class Measured(NamedTuple):
    """One command: wall time in seconds and the largest resident memory of any of its processes, in bytes."""

    seconds: float
    peak_bytes: int


def environment(work: Path, name: str, *requirements: str) -> Path:
    """The Python of an environment that has just `requirements`; made if it is not there."""
    folder = work / "environments" / name
    python, done = folder / "bin" / "python", folder / ".done"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {', '.join(requirements)} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text(wanted)
    return python.absolute()


LAUNCH = """
import json, resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.run(sys.argv[2:]).returncode
found = [code, time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
json.dump(found, open(sys.argv[1], "w"))
"""
"""A small process between us and the command: the kernel counts to a process's peak that of the one which began it."""


def measured(command: Sequence[str | Path], cwd: Path | None = None, **environ: str) -> Measured:
    """Run a command to its end; RuntimeError with what it said where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        launch = [sys.executable, "-S", "-c", LAUNCH, str(told), *map(str, command)]
        ran = subprocess.run(
            launch, cwd=cwd, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        code, seconds, peak = json.loads(told.read_text()) if told.exists() else (ran.returncode, 0.0, 0)
    if code:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {code}:\n{ran.stdout[-3000:]}")
    return Measured(seconds, peak << (10 if sys.platform == "linux" else 0))


def machine() -> str:
    """The processor and how many cores of it are at hand."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {models[0] if models else 'an unnamed processor'}"


def own_peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (10 if sys.platform == "linux" else 0)
