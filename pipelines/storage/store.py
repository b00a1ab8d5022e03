"""Shards in, shards out, and the manifest beside them. The only file that knows where things lie in a store."""

import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipelines import files
from pipelines.errors import UserError
from pipelines.fetching.paths import is_address
from pipelines.fetching.redaction import redact_all
from pipelines.files import sha256
from pipelines.languages import Pair
from pipelines.storage.fingerprint import FORMAT, commit
from pipelines.storage.remote import Remote

PER_PAIR = ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions")
WHOLE = (
    "eval_text", "task_data", "training_mix", "base_model", "layer_probe", "control_model", "align_model",
    "merged_model", "evaluation",
)  # fmt: skip
PER_CELL = ("cells",)  # by fingerprint: a training whose figures are kept
ASIDE = ("compare",)  # no asset of the graph
SHARD_BYTES = 256 << 20  # uncompressed bytes after which a new shard begins
BUFFER = 1 << 20  # bytes of a shard that are written at a time
MAIN = "data"  # the part of a dataset that the next stage reads


NOT_OURS = ("lost+found", ".DS_Store")
"""Names that systems put into an empty folder."""


class StoreError(UserError):
    """The store lacks what is asked for, belongs to another recipe, or is being written by another process."""


class DamagedError(StoreError):
    """A file of the store is not what was written."""


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
    digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the manifest's JSON without this value; empty in manifests of earlier versions."""
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

    @field_validator("files")
    @classmethod
    def _files_stay_in_their_folder(cls, digests: dict[str, str]) -> dict[str, str]:
        for name, digest in digests.items():
            if not files.is_relative(name):
                raise UserError(f"names the file {name!r}, which is no path below its own folder")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise UserError(f"gives {name!r} the SHA-256 {digest[:80]!r}, which is none")
        return digests

    def to_json(self) -> str:
        """The text of manifest.json, with its digest, which this sets."""
        self.digest = ""
        text = self.model_dump_json(indent=1)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        return text.replace('"digest": ""', f'"digest": "{self.digest}"', 1)

    def content(self, part: str = MAIN) -> str:
        """SHA-256 over the shards of a part: an input by its content, where how it was made does not matter."""
        shards = [sha for file, sha in sorted(self.files.items()) if file.startswith(f"{part}/data-")]
        return hashlib.sha256("".join(shards).encode()).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """The manifest that a file holds; Unreadable where the file is damaged."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        files.parse_json(data, dict)
        raise files.Unreadable(files.first_cause(error)) from None
    if manifest.digest:
        text = data.replace(manifest.digest.encode(), b"", 1)
        if hashlib.sha256(text).hexdigest() != manifest.digest:
            raise files.Unreadable("was changed after it was written: its digest does not match")
    return manifest


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
        self._writes = False
        self._read_only: OSError | None = None

    @property
    def address(self) -> str:
        """Where the store is, for people and for commands."""
        return self.remote.address if self.remote else str(self.root)

    @classmethod
    def open(cls, root: str | Path, recipe_name: str, *others: str, create: bool = True) -> "Store":
        """The store at `root`; StoreError where it belongs to another recipe or format.

        others: recipes whose store serves as well; create: make one where there is none, which only commands that
        write to it do.
        """
        store = cls(root)
        wanted = {"recipe": recipe_name, "format": FORMAT}
        found = store.identity()
        if found is None and not create:
            raise StoreError(
                f"store {root}: nothing is in it. Needed before this can run: a corpus. Make it with 'make align' or "
                f"'python -m pipelines', or check the path."
            )
        if found is None:
            found = store._create(wanted)
        if found not in [wanted, *({**wanted, "recipe": other} for other in others)]:
            names = " or ".join(f"'{name}'" for name in (recipe_name, *others))
            raise StoreError(
                f"store {root}: belongs to recipe '{found.get('recipe')}' in format {found.get('format')}. Allowed: "
                f"recipe {names} in format {FORMAT}. Name another folder with STORE or --store; where store.json is "
                f"damaged, run {store.repair_command}."
            )
        store._share_lock()
        return store

    def identity(self) -> dict[str, Any] | None:
        """What store.json says, recipe and format; None where there is no store yet."""
        try:
            data = self._read("store.json")
            return None if data is None else files.parse_json(data, dict)
        except files.Unreadable as error:
            if not self.remote and self._strangers() == ["store.json"]:  # nothing was written into it yet
                (self.root / "store.json").unlink()
                return None
            raise DamagedError(
                f"store {self.address}: store.json {error}. Expected: the recipe that the store belongs to. Fix: run "
                f"{self.repair_command}, which writes it again from what the store holds."
            ) from None

    def _create(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Make store.json, unless another process is faster; what it then says."""
        if self._strangers():
            if found := self.identity():  # made between our two looks
                return found
            raise StoreError(
                f"store {self.address}: the folder is not empty and is no store. Allowed: a new or empty folder, or a "
                f"store of recipe '{identity['recipe']}'. Name another folder."
            )
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"store {self.address}: is a file. Allowed: a folder. Name another path.")
        text = json.dumps(identity)
        if self.remote:
            self.remote.write("store.json", text)
        else:
            files.create_once(self.root / "store.json", text)
        return self.identity() or identity

    def _strangers(self) -> list[str]:
        """What lies in the store's folder beside what a killed first run, or the system, left there."""
        names = self._names()
        return [name for name in names if name not in (*NOT_OURS, ".writer") and not files.is_leftover(name)]

    @property
    def repair_command(self) -> str:
        return f"'python -m pipelines verify {self.address} --repair'"

    @property
    def sources(self) -> Path:
        """Where sources keep downloads and their lock file."""
        return self._inside(self.root / "sources")

    def folder(self, asset: str, pair: Pair | str | None = None) -> Path:
        """Where the dataset `asset` (of `pair`) lies on this machine; `fetched` says when its files are there, too."""
        return self._inside(self.root / _key(asset, pair))

    def where(self, asset: str, pair: Pair | str | None = None) -> str:
        """Where people find the dataset: its folder or its address."""
        return f"{self.address}/{_key(asset, pair)}"

    def fetched(self, asset: str, pair: Pair | str | None = None, under: str = "") -> Path:
        """`folder`, with the files of the dataset at hand: all, or the file `under`, or those in the folder `under`.

        DamagedError where one of them is not what was written.
        """
        return self._fetch(self.require(asset, pair), under)

    def datasets(self) -> list[tuple[str, str | None]]:
        """(asset, pair) of every dataset in the store, in the order of the stages."""
        many = (*PER_PAIR, *PER_CELL)
        keys = [(asset, pair) for asset in many for pair in self._names(asset) if files.is_name(pair)]
        found = [*keys, *((asset, None) for asset in (*WHOLE, *ASIDE))]
        return [(asset, pair) for asset, pair in found if "manifest.json" in self._names(_key(asset, pair))]

    def manifest(self, asset: str, pair: Pair | str | None = None) -> Manifest | None:
        """The manifest of a whole dataset, or None where there is none; DamagedError where it cannot be trusted."""
        key = _key(asset, pair)
        if not self.remote:
            self._recover(self.folder(asset, pair))
        try:
            data = self._read(f"{key}/manifest.json")
            if data is None:
                return None
            manifest = parse_manifest(data)
            if (manifest.asset, manifest.pair) != (asset, str(pair) if pair else None):
                raise files.Unreadable(f"is that of {manifest.asset} {manifest.pair or ''}".rstrip())
        except files.Unreadable as error:
            raise self._damaged(f"{key}/manifest.json", str(error)) from None
        return manifest

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
        manifest = self.require(asset, pair)
        if self.remote:
            self._fetch(manifest, part)  # several at a time
        for name in _shards(manifest, part):
            shard = self._fetch(manifest, name) / name  # checked just before it is read: it then comes from memory
            with pa.OSFile(str(shard)) as file, pa.ipc.open_stream(file) as reader:
                yield from reader

    def shards(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> list[Path]:
        """The Arrow IPC stream files of a part."""
        manifest = self.require(asset, pair)
        folder = self._fetch(manifest, part)
        return [folder / name for name in _shards(manifest, part)]

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
        self.check_writable()
        if asset not in PER_CELL:
            self.tidy(asset, {fingerprint})
        folder = self._inside(self.root / ".scratch" / asset / fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tidy(self, asset: str, wanted: Set[str]) -> None:
        """Remove what killed runs of `asset` left, but that of the wanted fingerprints."""
        for folder in self._inside(self.root / ".scratch" / asset).glob("*"):
            if folder.name not in wanted:
                files.remove(folder)

    @contextmanager
    def writer(self, patience: float = 15.0) -> Iterator[None]:
        """Be the store's one writer; StoreError where another process still is after `patience` seconds.

        The wait is for a trainer that is just noticing that its parent died. Of a store at an address only the writers
        of this machine are known: that two machines do not write at once is for their users to see to. On a disk that
        cannot be written nobody is the writer: what is finished can be used, and what would write raises the OSError.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = files.open_private(self.root / ".writer", os.O_RDWR)
        except OSError as error:
            if error.errno not in (*files.READ_ONLY, *files.FULL) or self.identity() is None:
                raise
            self._read_only = error
            try:
                yield
            finally:
                self._read_only = None
            return
        with open(descriptor, "r+", encoding="utf-8", errors="replace") as file:
            deadline = time.monotonic() + patience
            while not _locked(file):
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"store {self.address}: process {file.read(40).strip() or 'unknown'} is writing to it. "
                        f"Allowed: one writer at a time. Wait for it, stop it, or name another store."
                    )
                time.sleep(0.1)
            with suppress(OSError):  # for the message above only: a full disk must not keep a finished store from use
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            self._writes = True
            try:
                self._clear()
                self._share_lock()  # as it is now that nobody else writes
                threading.Thread(target=commit, daemon=True).start()  # git takes a while, and its answer is kept
                yield
            finally:
                self._writes = False

    @contextmanager
    def writing(self, asset: str, pair: Pair | str | None = None) -> Iterator["Writer"]:
        """A Writer into a fresh folder, which takes the old one's place when `commit` is called and not before."""
        self.check_writable()
        folder = self.folder(asset, pair)
        self._recover(folder)
        fresh = _beside(folder, "new")
        files.remove(fresh)
        files.make_folder(folder.parent)
        fresh.mkdir()
        writer = Writer(fresh, folder, asset, str(pair) if pair else None, self.remote)
        try:
            yield writer
        except OSError as error:
            if error.errno is not None and error.filename is None:  # Arrow does not say which file
                error.filename = str(folder)
            raise
        finally:
            writer.discard()
            shutil.rmtree(fresh, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what killed writers left; only the one writer may."""
        parents = [self.root, *(self.root / asset for asset in (*PER_PAIR, *PER_CELL))]
        for parent in (*parents, self.root / "sources"):
            if parent.is_dir() and not files.leaves(parent, self.root):
                files.remove_leftovers(parent)
        for parent in parents:
            for folder in parent.glob(".*.old") if parent.is_dir() else ():
                self._recover(folder.with_name(folder.name[1 : -len(".old")]))
            for folder in [*parent.glob(".*.new"), *parent.glob(".*.old")]:
                files.remove(folder)

    def _recover(self, folder: Path) -> None:
        """Undo a commit that was killed between its two renames; wait for one that is between them now."""
        old = _beside(folder, "old")
        deadline = time.monotonic() + 15
        while not folder.exists() and old.exists():
            with self._between_commits() as free:
                if free and not folder.exists() and old.exists():
                    old.rename(folder)
                    return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"store {self.address}: {folder.name} is being replaced by another process. Wait for it, then run "
                    f"the same command again."
                )
            time.sleep(0.01)

    @contextmanager
    def _between_commits(self) -> Iterator[bool]:
        """Whether no other process writes."""
        if self._writes:
            yield True
            return
        with open(files.open_private(self.root / ".writer", os.O_RDWR), "r+") as file:
            yield _locked(file)

    def check_writable(self) -> None:
        """OSError where the disk turned out to be read-only when this process was to be the writer."""
        if self._read_only:
            raise OSError(self._read_only.errno, self._read_only.strerror, str(self.root))

    def _inside(self, path: Path) -> Path:
        """`path`, which must not leave the store: who made a link in a shared store chose what is read or written."""
        if files.leaves(path, self.root):
            raise StoreError(
                f"store {self.address}: {path.relative_to(self.root)} is, or lies behind, a symbolic link to a place "
                f"outside the store. Allowed: files and folders inside it. Fix: move what the link names to its place, "
                f"or move the whole store."
            )
        return path

    def _damaged(self, name: str, cause: str) -> DamagedError:
        return DamagedError(
            f"store {self.address}: {name} {cause}. Expected: the file as it was written. Fix: run "
            f"{self.repair_command}, then the command that made the store: it rebuilds this dataset."
        )

    def _fetch(self, manifest: Manifest, under: str = "") -> Path:
        """The folder of a dataset, after a check of the wanted files: at the first use in this process."""
        folder = self.folder(manifest.asset, manifest.pair)
        key = _key(manifest.asset, manifest.pair)
        names = [name for name in manifest.files if not under or name == under or name.startswith(f"{under}/")]
        if self.remote:
            if not under and folder.exists():  # a model's folder is read whole: what an older one left must go
                for file in folder.rglob("[!.]*"):
                    if file.is_file() and str(file.relative_to(folder)) not in manifest.files:
                        file.unlink(missing_ok=True)
            self.remote.fetch(key, folder, manifest.files, names)
        for name in names:
            if cause := files.fault(folder, name, manifest.files[name], self.root):
                raise self._damaged(f"{key}/{name}", cause)
        return folder

    def _read(self, name: str) -> bytes | None:
        if self.remote:
            return self.remote.read(name)
        path = self._inside(self.root / name)
        try:
            return files.read_small(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _names(self, name: str = "") -> list[str]:
        """What lies right below `name`; nothing where there is no such folder."""
        if self.remote:
            return self.remote.names(name)
        folder = self.root / name
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _share_lock(self) -> None:
        if self.remote:
            from pipelines.fetching import lock  # which needs this module

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

    def discard(self) -> None:
        """Let go of the files of parts that are not finished."""
        for part in self._parts.values():
            part.discard()

    def commit(self, fingerprint: str, recipe: dict[str, Any], **fields: Any) -> Manifest:
        """Write the manifest and put the dataset in its place. `fields` are those of Manifest."""
        self.close()
        rows = self.rows()
        if len(rows) > 1:
            (self.path / "dataset_dict.json").write_text(json.dumps({"splits": list(rows)}))
        written = [file for file in sorted(self.path.rglob("*")) if file.is_file()]
        for file in written:  # safetensors leaves files that nobody else may read, whatever the umask
            file.chmod(file.stat().st_mode | (self.path.stat().st_mode & 0o666))
        digests = {str(file.relative_to(self.path)): sha256(file) for file in written}
        manifest = Manifest(
            asset=self._asset,
            pair=self._pair,
            fingerprint=fingerprint,
            rows=fields.pop("rows", rows),
            files=digests,
            bytes=sum((self.path / name).stat().st_size for name in digests),
            seconds=round(fields.pop("seconds", self._meter.seconds()), 3),
            peak_memory_bytes=fields.pop("peak_memory_bytes", self._meter.peak_bytes()),
            commit=commit(),
            recipe=redact_all(recipe),
            **{name: redact_all(value) if name in ("corpora", "inputs") else value for name, value in fields.items()},
        )
        for row in manifest.ledger:
            assert row.into - row.dropped == row.kept, f"ledger residual in {row}"
        text = manifest.to_json()
        (self.path / "manifest.json").write_text(text, encoding="utf-8")
        files.sync_tree(self.path)  # before the rename, or a power failure could leave the name without the content
        if self._remote:
            self._remote.publish(_key(self._asset, self._pair), self.path, digests, text)
        old = _beside(self._folder, "old")
        files.remove(old)
        if self._folder.exists():
            self._folder.rename(old)
        self.path.rename(self._folder)
        files.sync_folder(self._folder.parent)
        for name, digest in digests.items():
            files.remember_digest(self._folder / name, digest)
        shutil.rmtree(old, ignore_errors=True)
        return manifest


class _Part:
    """One split: `data-00000.arrow`, ... with the two JSON files by which `datasets` finds them."""

    def __init__(self, folder: Path, schema: pa.Schema):
        folder.mkdir(parents=True)
        self.folder, self.schema, self.rows, self.names = folder, schema, 0, list[str]()
        self._writer: Any = None
        self._file: Any = None
        self._bytes = 0
        self._next()

    def _next(self) -> None:
        self._finish()
        self.names.append(f"data-{len(self.names):05}.arrow")
        options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=False)
        self._file = (self.folder / self.names[-1]).open("wb", buffering=BUFFER)
        self._writer = pa.ipc.new_stream(self._file, self.schema, options=options)
        self._bytes = 0

    def _finish(self) -> None:
        if self._writer:
            self._writer.close()
            self._file.close()
            self._writer = None

    def discard(self) -> None:
        if self._writer:
            with suppress(OSError):  # the disk may be full
                self._finish()
            with suppress(OSError):
                self._file.close()

    def write(self, batch: pa.RecordBatch) -> None:
        if self._bytes > SHARD_BYTES:
            self._next()
        self._writer.write_batch(batch)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes

    def close(self) -> None:
        if self._writer is None:
            return
        self._finish()
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


def _working_copy(address: str) -> Path:
    """This machine's folder for the store at `address`."""
    home = Path(os.environ.get("ISOGLOSS_CACHE") or Path.home() / ".cache" / "isogloss")
    return home.absolute() / hashlib.sha256(address.encode()).hexdigest()[:16]


def _key(asset: str, pair: Pair | str | None) -> str:
    """Where a dataset lies below the store: `raw_bitext/deu_Latn-eng_Latn`, `training_mix`."""
    if asset not in ((*PER_PAIR, *PER_CELL) if pair else (*WHOLE, *ASIDE)):
        raise AssertionError(f"{asset} with pair {pair}")
    if pair and not files.is_name(str(pair)):
        raise StoreError(f"{asset}: found {str(pair)[:80]!r}. Allowed: the name of one folder, as language pairs are.")
    return f"{asset}/{pair}" if pair else asset


def _shards(manifest: Manifest, part: str) -> list[str]:
    return [name for name in sorted(manifest.files) if name.startswith(f"{part}/data-")]


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}")


def _locked(file: IO[str]) -> bool:
    """Lock `file` for this process until it is closed; False where another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
