"""Shards in, shards out, and the manifest beside them. The only file that knows where things lie in a store."""

import fcntl
import hashlib
import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.paths import is_address
from pipelines.redaction import redact_all
from pipelines.remote import Remote
from pipelines.storage.fingerprint import FORMAT, commit

PER_PAIR = ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions")
WHOLE = (
    "eval_text", "task_data", "training_mix", "base_model", "layer_probe", "control_model", "align_model",
    "merged_model", "evaluation",
)  # fmt: skip
PER_CELL = ("cells",)  # by fingerprint: a training whose figures are kept
ASIDE = ("compare",)  # no asset of the graph
SHARD_BYTES = 256 << 20  # uncompressed bytes after which a new shard begins
MAIN = "data"  # the part of a dataset that the next stage reads


class StoreError(UserError):
    """The store lacks what is asked for, belongs to another recipe, or is being written by another process."""


class LedgerRow(BaseModel):
    """What one step did to the rows of one corpus: into - dropped == kept, always; `changed` are some of the kept."""

    model_config = ConfigDict(extra="forbid")
    step: str
    corpus: str
    into: int
    dropped: int
    kept: int
    changed: int = 0


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
    """Everything one recipe makes, in a folder or at an address such as `s3://bucket/prefix`.

    At an address, `root` is this machine's working copy: what is made or read here lies there, downloads of sources
    and checkpoints lie nowhere else, and all of it may be deleted. What is whole is decided at the address alone: a
    dataset counts once its manifest is there, and its files are fetched when they are read. $ISOGLOSS_CACHE names the
    folder of the working copies, ~/.cache/isogloss unless set.
    """

    def __init__(self, root: str | Path):
        self.remote = Remote(str(root)) if is_address(str(root)) else None
        self.root = _working_copy(self.remote.address) if self.remote else Path(root).absolute()

    @property
    def address(self) -> str:
        """Where the store is, for people and for commands."""
        return self.remote.address if self.remote else str(self.root)

    @classmethod
    def open(cls, root: str | Path, recipe_name: str, *others: str) -> "Store":
        """The store at `root`, made if there is none; StoreError where it belongs to another recipe or format.

        others: recipes whose store serves as well.
        """
        store = cls(root)
        wanted = {"recipe": recipe_name, "format": FORMAT}
        text = store._read("store.json")
        if text is None:
            if store._names():
                raise StoreError(
                    f"store {root}: the folder is not empty and is no store. Allowed: a new or empty folder, or a "
                    f"store of recipe '{recipe_name}'. Name another folder."
                )
            text = json.dumps(wanted)
            store._write("store.json", text)
        found = json.loads(text)
        if found not in [wanted, *({**wanted, "recipe": other} for other in others)]:
            names = " or ".join(f"'{name}'" for name in (recipe_name, *others))
            raise StoreError(
                f"store {root}: belongs to recipe '{found.get('recipe')}' in format {found.get('format')}. Allowed: "
                f"recipe {names} in format {FORMAT}. Name another folder with STORE or --store."
            )
        store._share_lock()
        return store

    @property
    def sources(self) -> Path:
        """Where sources keep downloads and their lock file."""
        return self.root / "sources"

    def folder(self, asset: str, pair: Pair | str | None = None) -> Path:
        """Where the dataset `asset` (of `pair`) lies on this machine; `fetched` says when its files are there, too."""
        return self.root / _key(asset, pair)

    def where(self, asset: str, pair: Pair | str | None = None) -> str:
        """Where people find the dataset: its folder or its address."""
        return f"{self.address}/{_key(asset, pair)}"

    def fetched(self, asset: str, pair: Pair | str | None = None, under: str = "") -> Path:
        """`folder`, with the files of the dataset at hand: all, or the file `under`, or those in the folder `under`."""
        return self._fetch(self.require(asset, pair), under)

    def datasets(self) -> list[tuple[str, str | None]]:
        """(asset, pair) of every dataset in the store, in the order of the stages."""
        many = (*PER_PAIR, *PER_CELL)
        keys = [(asset, pair) for asset in many for pair in self._names(asset) if not pair.startswith(".")]
        found = [*keys, *((asset, None) for asset in (*WHOLE, *ASIDE))]
        return [(asset, pair) for asset, pair in found if "manifest.json" in self._names(_key(asset, pair))]

    def manifest(self, asset: str, pair: Pair | str | None = None) -> Manifest | None:
        """The manifest of a whole dataset, or None where there is none."""
        if not self.remote:
            _recover(self.folder(asset, pair))
        text = self._read(f"{_key(asset, pair)}/manifest.json")
        return None if text is None else Manifest.model_validate_json(text)

    def require(self, asset: str, pair: Pair | str | None = None) -> Manifest:
        """The manifest, or StoreError with the command that makes the dataset."""
        manifest = self.manifest(asset, pair)
        if manifest is None:
            what = f"{asset} of {pair}" if pair else asset
            raise StoreError(
                f"store {self.address}: no {what} in it. Needed before this can run. Make it with 'make align', or "
                f"with 'dagster asset materialize --select {asset}{f' --partition {pair}' if pair else ''}'."
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
        manifest = self.require(asset, pair)
        folder = self._fetch(manifest, part)
        return [folder / name for name in sorted(manifest.files) if name.startswith(f"{part}/data-")]

    def table(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> pa.Table:
        """All rows of a part."""
        state = self.folder(asset, pair) / part
        batches = list(self.batches(asset, pair, part))
        if not batches:
            raise StoreError(f"{state}: no such part. Found: {', '.join(self.require(asset, pair).rows)}.")
        return pa.Table.from_batches(batches)

    def scratch(self, asset: str, fingerprint: str) -> Path:
        """A folder for what a killed run of just this fingerprint resumes from; others' leavings are removed.

        But of cells, which may be made beside each other: whoever makes them calls `tidy`.
        """
        if asset not in PER_CELL:
            self.tidy(asset, {fingerprint})
        folder = self.root / ".scratch" / asset / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tidy(self, asset: str, wanted: Set[str]) -> None:
        """Remove what killed runs of `asset` left, but that of the wanted fingerprints."""
        for folder in (self.root / ".scratch" / asset).glob("*"):
            if folder.name not in wanted:
                shutil.rmtree(folder)

    @contextmanager
    def writer(self, patience: float = 15.0) -> Iterator[None]:
        """Be the store's one writer; StoreError where another process still is after `patience` seconds.

        The wait is for a trainer that is just noticing that its parent died. Of a store at an address only the writers
        of this machine are known: that two machines do not write at once is for their users to see to.
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
                            f"store {self.address}: process {file.read().strip() or 'unknown'} is writing to it. "
                            f"Allowed: one writer at a time. Wait for it, stop it, or name another store."
                        ) from None
                    time.sleep(0.1)
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            self._share_lock()  # as it is now that nobody else writes
            threading.Thread(target=commit, daemon=True).start()  # git takes a while, and its answer is kept
            yield

    @contextmanager
    def writing(self, asset: str, pair: Pair | str | None = None) -> Iterator["Writer"]:
        """A Writer into a fresh folder, which takes the old one's place when `commit` is called and not before."""
        folder = self.folder(asset, pair)
        _recover(folder)
        fresh = _beside(folder, "new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        writer = Writer(fresh, folder, asset, str(pair) if pair else None, self.remote)
        try:
            yield writer
        finally:
            writer.close()
            shutil.rmtree(fresh, ignore_errors=True)

    def _fetch(self, manifest: Manifest, under: str = "") -> Path:
        folder = self.folder(manifest.asset, manifest.pair)
        if self.remote:
            names = [name for name in manifest.files if not under or name == under or name.startswith(f"{under}/")]
            if not under and folder.exists():  # a model's folder is read whole: what an older one left must go
                for file in folder.rglob("[!.]*"):
                    if file.is_file() and str(file.relative_to(folder)) not in manifest.files:
                        file.unlink(missing_ok=True)
            self.remote.fetch(_key(manifest.asset, manifest.pair), folder, manifest.files, names)
        return folder

    def _read(self, name: str) -> str | None:
        if self.remote:
            return self.remote.read(name)
        try:
            return (self.root / name).read_text()
        except FileNotFoundError:
            return None

    def _write(self, name: str, text: str) -> None:
        if self.remote:
            self.remote.write(name, text)
        else:
            write_atomically(self.root / name, text)

    def _names(self, name: str = "") -> list[str]:
        """What lies right below `name`; nothing where there is no such folder."""
        if self.remote:
            return self.remote.names(name)
        folder = self.root / name
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _share_lock(self) -> None:
        if self.remote:
            from pipelines import lock  # which needs this module

            lock.share(self.sources, f"{self.remote.address}/sources")


class Writer:
    """Collects the parts of one dataset: Arrow shards that `datasets.load_from_disk` and pyarrow both read."""

    def __init__(self, fresh: Path, folder: Path, asset: str, pair: str | None, remote: Remote | None = None):
        self.path = fresh
        self._folder, self._asset, self._pair, self._remote = folder, asset, pair, remote
        self._parts: dict[str, _Part] = {}
        self._meter = Meter()

    def write(self, batch: pa.RecordBatch, part: str = MAIN) -> None:
        """Append rows to a part; all batches of a part have one schema. An empty batch still makes the part."""
        if part not in self._parts:
            self._parts[part] = _Part(self.path / part, batch.schema)
        self._parts[part].write(batch)

    def rows(self) -> dict[str, int]:
        """Rows written so far, by part."""
        return {name: part.rows for name, part in self._parts.items()}

    def close(self) -> None:
        for part in self._parts.values():
            part.close()

    def commit(self, fingerprint: str, recipe: dict[str, Any], **fields: Any) -> Manifest:
        """Write the manifest and put the dataset in its place. `fields` are those of Manifest."""
        self.close()
        rows = self.rows()
        if len(rows) > 1:
            (self.path / "dataset_dict.json").write_text(json.dumps({"splits": list(rows)}))
        written = [file for file in sorted(self.path.rglob("*")) if file.is_file()]
        for file in written:  # safetensors leaves files that nobody else may read, whatever the umask
            file.chmod(file.stat().st_mode | (self.path.stat().st_mode & 0o666))
        files = {str(file.relative_to(self.path)): sha256(file) for file in written}
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
            recipe=redact_all(recipe),
            **{name: redact_all(value) if name in ("corpora", "inputs") else value for name, value in fields.items()},
        )
        for row in manifest.ledger:
            assert row.into - row.dropped == row.kept, f"ledger residual in {row}"
        text = manifest.model_dump_json(indent=1)
        write_atomically(self.path / "manifest.json", text)
        if self._remote:
            self._remote.publish(_key(self._asset, self._pair), self.path, files, text)
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


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(store: Store) -> tuple[int, list[str]]:
    """Compare every file of every manifest with its SHA-256: how many, and a line for each that is wrong."""
    if not (datasets := store.datasets()):
        raise StoreError(
            f"store {store.address}: no manifest in it. Needed: a folder that 'python -m pipelines' or 'make align' "
            f"filled. Check the path."
        )
    compared, faults = 0, []
    for asset, pair in datasets:
        key = _key(asset, pair)
        try:
            manifest = store.require(asset, pair)
        except ValidationError:
            faults.append(f"{key}/manifest.json: damaged")
            continue
        compared += len(manifest.files)
        found = store.remote.faults(key, manifest.files) if store.remote else _faults(store.root / key, manifest.files)
        faults += [f"{key}/{name}: {fault}" for name, fault in found.items()]
    return compared, faults


def _faults(folder: Path, digests: dict[str, str]) -> dict[str, str]:
    out = {}
    for name, expected in digests.items():
        if not (folder / name).is_file():
            out[name] = "missing"
        elif sha256(folder / name) != expected:
            out[name] = "damaged"
    return out


def _working_copy(address: str) -> Path:
    """This machine's folder for the store at `address`."""
    home = Path(os.environ.get("ISOGLOSS_CACHE") or Path.home() / ".cache" / "isogloss")
    return home.absolute() / hashlib.sha256(address.encode()).hexdigest()[:16]


def _key(asset: str, pair: Pair | str | None) -> str:
    """Where a dataset lies below the store: `raw_bitext/deu_Latn-eng_Latn`, `training_mix`."""
    if asset not in ((*PER_PAIR, *PER_CELL) if pair else (*WHOLE, *ASIDE)):
        raise AssertionError(f"{asset} with pair {pair}")
    return f"{asset}/{pair}" if pair else asset


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
    """Seconds and peak resident memory of this process since construction.

    Of pairs made side by side each one's seconds and memory are also the others'; a pair that begins resets the peak.
    """

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
