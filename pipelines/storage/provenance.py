"""Versions of the code and of the libraries that made a dataset."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def installed(distribution: str) -> str:
    """Return the version of an installed distribution, or "" where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


@cache
def commit() -> str:
    """Return the git commit of this code, with `-dirty` where files differ from it; "" outside a checkout.

    An installed package may lie inside the working tree of another repository, whose commit would be wrong.
    """
    root = Path(__file__).resolve().parents[2]

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "pipelines/storage/provenance.py")
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""
