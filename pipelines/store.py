"""Shards in, shards out, and the manifest beside them. The only file that knows where things lie in a store."""

import fcntl
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipelines.languages import Pair
from pipelines.registry import Plugin

FORMAT = 1
"""Of shards and manifests; a store of another format is refused."""

PER_PAIR = ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions")
WHOLE = ("eval_text", "training_mix", "base_model", "control_model", "align_model", "evaluation")
SHARD_BYTES = 256 << 20  # uncompressed bytes after which a new shard begins
MAIN = "data"  # the part of a dataset that the next stage reads


class StoreError(ValueError):
    """The store lacks what is asked for, belongs to another recipe, or is being written by another process."""


class LedgerRow(BaseModel):
    """What one step did to the rows of one corpus: into - dropped == kept, always."""

    model_config = ConfigDict(extra="forbid")
    step: str
    corpus: str
    into: int
    dropped: int
    kept: int


class Manifest(BaseModel):
    """What a dataset holds and what it was made from. Written last: without it there is no dataset."""

    model_config = ConfigDict(extra="forbid")
    format: int = FORMAT
    asset: str
    pair: str | None = None
    fingerprint: str
    inputs: dict[str, str] = {}
    rows: dict[str, int] = {}
    ledger: list[LedgerRow] = []
    numbers: dict[str, Any] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    corpora: dict[str, dict[str, Any]] = {}
    files: dict[str, str] = {}
    """SHA-256 of every file by its path below the dataset's folder."""
    bytes: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    commit: str = ""
    recipe: dict[str, Any] = {}

    def content(self, part: str = MAIN) -> str:
        """SHA-256 over the shards of a part: an input by its content, where how it was made does not matter."""
        shards = [sha for file, sha in sorted(self.files.items()) if file.startswith(f"{part}/data-")]
        return hashlib.sha256("".join(shards).encode()).hexdigest()


class Store:
    """A folder that holds everything one recipe makes."""

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()

    @classmethod
    def open(cls, root: str | Path, recipe_name: str) -> "Store":
        """The store at `root`, made if there is none; StoreError where it belongs to another recipe or format."""
        store = cls(root)
        mark = store.root / "store.json"
        wanted = {"recipe": recipe_name, "format": FORMAT}
        if not mark.exists():
            if store.root.exists() and any(store.root.iterdir()):
                raise StoreError(
                    f"store {root}: the folder is not empty and is no store. Allowed: a new or empty folder, or a "
                    f"store of recipe '{recipe_name}'. Name another folder."
                )
            store.root.mkdir(parents=True, exist_ok=True)
            write_atomically(mark, json.dumps(wanted))
        found = json.loads(mark.read_text())
        if found != wanted:
            raise StoreError(
                f"store {root}: belongs to recipe '{found.get('recipe')}' in format {found.get('format')}. Allowed: "
                f"recipe '{recipe_name}' in format {FORMAT}. Name another folder with STORE or --store."
            )
        return store

    @property
    def sources(self) -> Path:
        """Where sources keep downloads and their lock file."""
        return self.root / "sources"

    def folder(self, asset: str, pair: Pair | str | None = None) -> Path:
        """Where the dataset `asset` (of `pair`) lies."""
        if asset not in (PER_PAIR if pair else WHOLE):
            raise AssertionError(f"{asset} with pair {pair}")
        return self.root / asset / str(pair) if pair else self.root / asset

    def manifest(self, asset: str, pair: Pair | str | None = None) -> Manifest | None:
        """The manifest of a whole dataset, or None where there is none."""
        folder = self.folder(asset, pair)
        _recover(folder)
        try:
            return Manifest.model_validate_json((folder / "manifest.json").read_text())
        except FileNotFoundError:
            return None

    def require(self, asset: str, pair: Pair | str | None = None) -> Manifest:
        """The manifest, or StoreError with the command that makes the dataset."""
        manifest = self.manifest(asset, pair)
        if manifest is None:
            what = f"{asset} of {pair}" if pair else asset
            raise StoreError(
                f"store {self.root}: no {what} in it. Needed before this can run. Make it with 'make align', or with "
                f"'dagster asset materialize --select {asset}{f' --partition {pair}' if pair else ''}'."
            )
        return manifest

    def unchanged(self, asset: str, pair: Pair | str | None, fingerprint: str) -> Manifest | None:
        """The manifest of a dataset made with just this fingerprint, or None."""
        manifest = self.manifest(asset, pair)
        return manifest if manifest and manifest.fingerprint == fingerprint else None

    def batches(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> Iterator[pa.RecordBatch]:
        """The record batches of a part, in the order they were written."""
        for shard in self.shards(asset, pair, part):
            with pa.OSFile(str(shard)) as file, pa.ipc.open_stream(file) as reader:
                yield from reader

    def shards(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> list[Path]:
        """The Arrow IPC stream files of a part."""
        self.require(asset, pair)
        return sorted((self.folder(asset, pair) / part).glob("data-*.arrow"))

    def table(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> pa.Table:
        """All rows of a part."""
        state = self.folder(asset, pair) / part
        batches = list(self.batches(asset, pair, part))
        if not batches:
            raise StoreError(f"{state}: no such part. Found: {', '.join(self.require(asset, pair).rows)}.")
        return pa.Table.from_batches(batches)

    def scratch(self, asset: str, fingerprint: str) -> Path:
        """A folder for what a killed run of just this fingerprint resumes from; others' leavings are removed."""
        folder = self.root / ".scratch" / asset
        for other in folder.glob("*"):
            if other.name != fingerprint:
                shutil.rmtree(other)
        (folder / fingerprint).mkdir(parents=True, exist_ok=True)
        return folder / fingerprint

    @contextmanager
    def writer(self, patience: float = 15.0) -> Iterator[None]:
        """Be the store's one writer; StoreError where another process still is after `patience` seconds.

        The wait is for a trainer that is just noticing that its parent died.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / ".writer"
        with path.open("a+") as file:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        file.seek(0)
                        raise StoreError(
                            f"store {self.root}: process {file.read().strip() or 'unknown'} is writing to it. Allowed: "
                            f"one writer at a time. Wait for it, stop it, or name another store."
                        ) from None
                    time.sleep(0.1)
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield

    @contextmanager
    def writing(self, asset: str, pair: Pair | str | None = None) -> Iterator["Writer"]:
        """A Writer into a fresh folder, which takes the old one's place when `commit` is called and not before."""
        folder = self.folder(asset, pair)
        _recover(folder)
        fresh = _beside(folder, "new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        writer = Writer(fresh, folder, asset, str(pair) if pair else None)
        try:
            yield writer
        finally:
            writer.close()
            shutil.rmtree(fresh, ignore_errors=True)


class Writer:
    """Collects the parts of one dataset: Arrow shards that `datasets.load_from_disk` and pyarrow both read."""

    def __init__(self, fresh: Path, folder: Path, asset: str, pair: str | None):
        self.path = fresh
        self._folder, self._asset, self._pair = folder, asset, pair
        self._parts: dict[str, _Part] = {}
        self._meter = Meter()

    def write(self, batch: pa.RecordBatch, part: str = MAIN) -> None:
        """Append rows to a part; all batches of a part have one schema. An empty batch still makes the part."""
        if part not in self._parts:
            self._parts[part] = _Part(self.path / part, batch.schema)
        self._parts[part].write(batch)

    def close(self) -> None:
        for part in self._parts.values():
            part.close()

    def commit(self, fingerprint: str, recipe: dict[str, Any], **fields: Any) -> Manifest:
        """Write the manifest and put the dataset in its place. `fields` are those of Manifest."""
        self.close()
        rows = {name: part.rows for name, part in self._parts.items()}
        if len(rows) > 1:
            (self.path / "dataset_dict.json").write_text(json.dumps({"splits": list(rows)}))
        files = {
            str(file.relative_to(self.path)): sha256(file) for file in sorted(self.path.rglob("*")) if file.is_file()
        }
        manifest = Manifest(
            asset=self._asset,
            pair=self._pair,
            fingerprint=fingerprint,
            rows=fields.pop("rows", rows),
            files=files,
            bytes=sum((self.path / name).stat().st_size for name in files),
            seconds=round(fields.pop("seconds", self._meter.seconds()), 3),
            peak_memory_bytes=fields.pop("peak_memory_bytes", self._meter.peak_bytes()),
            commit=commit(),
            recipe=recipe,
            **fields,
        )
        for row in manifest.ledger:
            assert row.into - row.dropped == row.kept, f"ledger residual in {row}"
        write_atomically(self.path / "manifest.json", manifest.model_dump_json(indent=1))
        old = _beside(self._folder, "old")
        shutil.rmtree(old, ignore_errors=True)
        if self._folder.exists():
            self._folder.rename(old)
        self.path.rename(self._folder)
        shutil.rmtree(old, ignore_errors=True)
        return manifest


class _Part:
    """One split: `data-00000.arrow`, ... with the two JSON files by which `datasets` finds them."""

    def __init__(self, folder: Path, schema: pa.Schema):
        folder.mkdir(parents=True)
        self.folder, self.schema, self.rows, self.names = folder, schema, 0, list[str]()
        self._writer: Any = None
        self._bytes = 0
        self._next()

    def _next(self) -> None:
        if self._writer:
            self._writer.close()
        self.names.append(f"data-{len(self.names):05}.arrow")
        options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=False)
        self._writer = pa.ipc.new_stream(str(self.folder / self.names[-1]), self.schema, options=options)
        self._bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if self._bytes > SHARD_BYTES:
            self._next()
        self._writer.write_batch(batch)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes

    def close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        state = {
            "_data_files": [{"filename": name} for name in self.names],
            "_fingerprint": "isogloss",
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self.folder / "state.json").write_text(json.dumps(state))
        (self.folder / "dataset_info.json").write_text(json.dumps({"features": None}))


def fingerprint(
    stage: str,
    settings: Any,
    inputs: dict[str, str],
    plugins: Iterable[Plugin] = (),
    modules: Iterable[str] = (),
    libraries: Iterable[str] = ("pyarrow",),
) -> str:
    """SHA-256 over all that decides a dataset.

    stage: the stage's module; settings: JSON of what the recipe says and sources pin; inputs: fingerprints read, by
    name; plugins: their settings, source, model files and libraries count too; modules: further source.
    """
    plugins = [part for plugin in plugins for part in (plugin, *plugin.nested().values())]
    source = {stage, *modules, *(m for p in plugins for m in (type(p).__module__, *p.modules))}
    needed = {*libraries, *(lib for p in plugins for lib in p.libraries)}
    whole = {
        "format": FORMAT,
        "settings": settings,
        "plugins": [p.settings() for p in plugins],
        "inputs": inputs,
        "source": {name: source_hash(name) for name in sorted(source)},
        "files": {file.name: sha256(file) for p in plugins for file in p.files()},
        "libraries": {name: installed(name) for name in sorted(needed)},
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


@cache
def source_hash(module: str) -> str:
    """SHA-256 of a module's source, or of all sources of a package."""
    found = importlib.util.find_spec(module)  # the module itself is not run: it may load torch
    if found is None or found.origin is None:
        raise AssertionError(f"{module} has no source file")
    path = Path(found.origin)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for item in files:
        digest.update(item.name.encode() + b"\0" + item.read_bytes())
    return digest.hexdigest()


@cache
def installed(distribution: str) -> str:
    """The version of a distribution; "" where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def commit() -> str:
    """The git commit of this code, `-dirty` where files differ from it; the version where there is no git."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return run.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return installed("isogloss")


def verify(store: Store) -> tuple[int, list[str]]:
    """Compare every file of every manifest with its SHA-256: how many, and a line for each that is wrong."""
    manifests = [
        path for asset in (*PER_PAIR, *WHOLE) for path in sorted((store.root / asset).glob("**/manifest.json"))
    ]
    if not manifests:
        raise StoreError(
            f"store {store.root}: no manifest in it. Needed: a folder that 'python -m pipelines' or 'make align' "
            f"filled. Check the path."
        )
    compared, faults = 0, []
    for path in manifests:
        where = path.parent.relative_to(store.root)
        try:
            files = Manifest.model_validate_json(path.read_text()).files
        except ValueError:
            faults.append(f"{where}/manifest.json: damaged")
            continue
        for name, expected in files.items():
            compared += 1
            file = path.parent / name
            if not file.is_file():
                faults.append(f"{where}/{name}: missing")
            elif sha256(file) != expected:
                faults.append(f"{where}/{name}: damaged")
    return compared, faults


def write_atomically(file: Path, text: str) -> None:
    """Write `text` so that a reader sees the old file or the whole new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with fresh.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _recover(folder: Path) -> None:
    """Undo a commit that was killed between its two renames."""
    old = _beside(folder, "old")
    if old.exists() and not folder.exists():
        old.rename(folder)


class Meter:
    """Seconds and peak resident memory of this process since construction."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the high-water mark
            self._resettable = True
        except OSError:
            self._resettable = False

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def peak_bytes(self) -> int:
        if self._resettable:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
