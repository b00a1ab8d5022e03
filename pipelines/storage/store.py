"""The store: where each dataset of a recipe lies, how it is read, and who may write."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import files
from pipelines.fetching import lock
from pipelines.fetching.paths import is_address
from pipelines.languages import Pair
from pipelines.storage.errors import DamagedError, StoreError
from pipelines.storage.fingerprint import FORMAT
from pipelines.storage.manifest import MAIN, Manifest, parse_manifest
from pipelines.storage.provenance import commit
from pipelines.storage.remote import Remote
from pipelines.storage.writer import Writer, beside
from pipelines.storage.writer_lock import FILE as WRITER_FILE
from pipelines.storage.writer_lock import WriterLock

PER_PAIR = ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext", "instructions")
WHOLE = (
    "eval_text", "task_data", "training_mix", "base_model", "layer_probe", "control_model", "align_model",
    "merged_model", "evaluation",
)  # fmt: skip
PER_CELL = ("cells",)
"""Trainings of `compare` by fingerprint: only their metrics are kept."""
ASIDE = ("compare",)
"""Datasets that are not assets of the graph."""

SYSTEM_NAMES = ("lost+found", ".DS_Store")
"""Names that operating systems put into an empty folder."""
RECOVERY_SECONDS = 15.0
"""How long a reader waits for another process that is replacing a dataset."""


class Store:
    """All datasets of one recipe, in a folder or at an address such as `s3://bucket/prefix`.

    For an address, `root` is a working copy on this machine: datasets that this machine writes or reads, downloads of
    sources and checkpoints. It may be deleted at any time. Only the address decides what is complete: a dataset exists
    once its manifest is there, and its files are downloaded when they are read. $ISOGLOSS_CACHE names the folder of the
    working copies, ~/.cache/isogloss unless set.
    """

    def __init__(self, root: str | Path):
        self.remote = Remote(str(root)) if is_address(str(root)) else None
        self.root = _working_copy(self.remote.address) if self.remote else Path(root).absolute()
        self._lock = WriterLock(self.root, self.address)

    @property
    def address(self) -> str:
        """The store's folder or address, as commands take it."""
        return self.remote.address if self.remote else str(self.root)

    @classmethod
    def open(cls, root: str | Path, recipe_name: str, *alternatives: str, create: bool = True) -> "Store":
        """Open the store at `root`.

        Args:
            root: Folder or address.
            recipe_name: Recipe that the store belongs to.
            *alternatives: Names of further recipes whose store serves as well.
            create: Create a store where there is none, as commands that write do.

        Raises:
            StoreError: The store belongs to another recipe or format, or does not exist and `create` is false.
        """
        store = cls(root)
        expected = {"recipe": recipe_name, "format": FORMAT}
        identity = store.identity()
        if identity is None and not create:
            raise StoreError(
                f"store {root}: nothing is in it. Expected: a store with a corpus. Fix: make it with 'make align' or "
                f"'python -m pipelines', or check the path."
            )
        if identity is None:
            identity = store._create(expected)
        if identity not in [expected, *({**expected, "recipe": name} for name in alternatives)]:
            names = " or ".join(f"'{name}'" for name in (recipe_name, *alternatives))
            raise StoreError(
                f"store {root}: belongs to recipe '{identity.get('recipe')}' in format {identity.get('format')}. "
                f"Expected: recipe {names} in format {FORMAT}. Fix: name another folder with STORE or --store; where "
                f"store.json is damaged, run {store.repair_command}."
            )
        store._share_lock()
        return store

    def identity(self) -> dict[str, Any] | None:
        """Return the content of store.json (recipe and format), or None where there is no store yet."""
        try:
            data = self._read("store.json")
            return None if data is None else files.parse_json(data, dict)
        except files.Unreadable as error:
            if not self.remote and self._foreign_names() == ["store.json"]:  # nothing was written into it yet
                (self.root / "store.json").unlink()
                return None
            raise DamagedError(
                f"store {self.address}: store.json {error}. Expected: the recipe that the store belongs to. Fix: run "
                f"{self.repair_command}, which restores it from the datasets of the store.",
                str(error),
            ) from None

    def _create(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Write store.json unless another process was faster; return its content."""
        if self._foreign_names():
            if current := self.identity():  # created since the caller looked
                return current
            raise StoreError(
                f"store {self.address}: the folder is not empty and is not a store. Expected: a new or empty folder, "
                f"or a store of recipe '{identity['recipe']}'. Fix: name another folder."
            )
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"store {self.address}: is a file. Expected: a folder. Fix: name another path.")
        text = json.dumps(identity)
        if self.remote:
            self.remote.write("store.json", text)
        else:
            files.create_once(self.root / "store.json", text)
        return self.identity() or identity

    def _foreign_names(self) -> list[str]:
        """Names in the store's folder, without those that a killed first run or the operating system left."""
        names = self._names()
        return [name for name in names if name not in (*SYSTEM_NAMES, WRITER_FILE) and not files.is_leftover(name)]

    @property
    def repair_command(self) -> str:
        """The command that repairs this store."""
        return f"'python -m pipelines verify {self.address} --repair'"

    @property
    def sources(self) -> Path:
        """Folder in which sources keep downloads and their lock file."""
        return self._inside(self.root / "sources")

    def folder(self, asset: str, pair: Pair | str | None = None) -> Path:
        """Return the folder of a dataset on this machine. Use `fetched` to have its files there."""
        return self._inside(self.root / _key(asset, pair))

    def where(self, asset: str, pair: Pair | str | None = None) -> str:
        """Return the folder or address of a dataset, for messages."""
        return f"{self.address}/{_key(asset, pair)}"

    def fetched(self, asset: str, pair: Pair | str | None = None, under: str = "") -> Path:
        """Return `folder` after downloading, where necessary, and checking the dataset's files.

        Args:
            asset: Name of the asset.
            pair: Language pair, or None for a dataset of all pairs.
            under: Restrict this to one file, or to the files of one folder.

        Raises:
            DamagedError: A file differs from what was written.
        """
        return self._fetch(self.require(asset, pair), under)

    def datasets(self) -> list[tuple[str, str | None]]:
        """Return (asset, pair) of every dataset in the store, in the order of the stages."""
        parents = (*PER_PAIR, *PER_CELL)
        keys = [(asset, pair) for asset in parents for pair in self._names(asset) if files.is_name(pair)]
        candidates = [*keys, *((asset, None) for asset in (*WHOLE, *ASIDE))]
        return [(asset, pair) for asset, pair in candidates if "manifest.json" in self._names(_key(asset, pair))]

    def manifest(self, asset: str, pair: Pair | str | None = None) -> Manifest | None:
        """Return the manifest of a complete dataset, or None where there is none.

        Raises:
            DamagedError: The manifest is damaged or describes another dataset.
        """
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
        """Return the manifest; raise StoreError with the command that makes the dataset where there is none."""
        manifest = self.manifest(asset, pair)
        if manifest is None:
            name = f"{asset} of {pair}" if pair else asset
            partition = f" --partition {pair}" if pair else ""
            raise StoreError(
                f"store {self.address}: has no {name}. Expected: this dataset, which the next step reads. Fix: make it "
                f"with 'make align', or with 'dagster asset materialize --select {asset}{partition}'."
            )
        return manifest

    def unchanged(self, asset: str, pair: Pair | str | None, fingerprint: str) -> Manifest | None:
        """Return the manifest of a dataset that was made with this fingerprint, or None."""
        manifest = self.manifest(asset, pair)
        return manifest if manifest and manifest.fingerprint == fingerprint else None

    def batches(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a part, in the order in which they were written."""
        manifest = self.require(asset, pair)
        if self.remote:
            self._fetch(manifest, part)  # several files at a time
        for name in manifest.shard_names(part):
            shard = self._fetch(manifest, name) / name  # check just before reading, which then comes from memory
            with pa.OSFile(str(shard)) as file, pa.ipc.open_stream(file) as reader:
                yield from reader

    def shards(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> list[Path]:
        """Return the Arrow IPC stream files of a part."""
        manifest = self.require(asset, pair)
        folder = self._fetch(manifest, part)
        return [folder / name for name in manifest.shard_names(part)]

    def table(self, asset: str, pair: Pair | str | None = None, part: str = MAIN) -> pa.Table:
        """Return all rows of a part."""
        batches = list(self.batches(asset, pair, part))
        if not batches:
            parts = ", ".join(self.require(asset, pair).rows)
            raise StoreError(
                f"{self.folder(asset, pair) / part}: there is no such part. Expected: one of {parts}. Fix: name one of "
                f"these."
            )
        return pa.Table.from_batches(batches)

    def scratch(self, asset: str, fingerprint: str) -> Path:
        """Return the folder from which a killed run with this fingerprint resumes.

        Folders of other fingerprints are removed, except for cells, which may be made in parallel: their caller calls
        `tidy`.
        """
        self.check_writable()
        if asset not in PER_CELL:
            self.tidy(asset, {fingerprint})
        folder = self._inside(self.root / ".scratch" / asset / fingerprint)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tidy(self, asset: str, keep: Set[str]) -> None:
        """Remove what killed runs of `asset` left, except for the fingerprints `keep`."""
        for folder in self._inside(self.root / ".scratch" / asset).glob("*"):
            if folder.name not in keep:
                files.remove(folder)

    @contextmanager
    def writer(self, patience: float = 15.0) -> Iterator[None]:
        """Hold the store's writer lock; on a read-only or full disk an attempt to write raises the OSError.

        Args:
            patience: Seconds to wait for another writer, such as a trainer whose parent has just died.

        Raises:
            StoreError: Another process holds the lock for longer.
        """
        with self._lock.hold(patience, lambda: self.identity() is not None) as is_writer:
            if is_writer:
                self._remove_leftovers()
                self._share_lock()  # read again, now that no other process writes
                threading.Thread(target=commit, daemon=True).start()  # git takes a while, and its answer is cached
            yield

    def check_writable(self) -> None:
        """Raise the OSError that kept this process from becoming the writer, if any."""
        self._lock.check_writable()

    @contextmanager
    def writing(self, asset: str, pair: Pair | str | None = None) -> Iterator[Writer]:
        """Yield a Writer into a new folder. Only its `commit` replaces the previous version of the dataset."""
        self.check_writable()
        folder = self.folder(asset, pair)
        self._recover(folder)
        new = beside(folder, "new")
        files.remove(new)
        files.make_folder(folder.parent)
        new.mkdir()
        writer = Writer(new, folder, asset, str(pair) if pair else None, self.remote)
        try:
            yield writer
        except OSError as error:
            if error.errno is not None and error.filename is None:  # Arrow does not say which file
                error.filename = str(folder)
            raise
        finally:
            writer.discard()
            shutil.rmtree(new, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left; only the writer may do this."""
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
        """Undo a commit that was killed between its two renames; wait for one that is in progress."""
        old = beside(folder, "old")
        deadline = time.monotonic() + RECOVERY_SECONDS
        while not folder.exists() and old.exists():
            with self._lock.try_exclude_writers() as is_exclusive:
                if is_exclusive and not folder.exists() and old.exists():
                    old.rename(folder)
                    return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"store {self.address}: another process is replacing {folder.name}. Expected: no writer. Fix: wait "
                    f"for it, then run the same command again."
                )
            time.sleep(0.01)

    def _inside(self, path: Path) -> Path:
        """Return `path` after checking that no link of a shared store leads out of it."""
        if files.leaves(path, self.root):
            raise StoreError(
                f"store {self.address}: {path.relative_to(self.root)} is, or lies behind, a symbolic link to a place "
                f"outside the store. Expected: files and folders inside it. Fix: move what the link names to its "
                f"place, or move the whole store."
            )
        return path

    def _damaged(self, name: str, cause: str) -> DamagedError:
        return DamagedError(
            f"store {self.address}: {name} {cause}. Expected: the file as it was written. Fix: run "
            f"{self.repair_command}, then the command that made the store: it rebuilds this dataset.",
            cause,
        )

    def _fetch(self, manifest: Manifest, under: str = "") -> Path:
        """Download and check the files of a dataset, once per process; return its folder."""
        folder = self.folder(manifest.asset, manifest.pair)
        key = _key(manifest.asset, manifest.pair)
        names = [name for name in manifest.files if not under or name == under or name.startswith(f"{under}/")]
        if self.remote:
            if not under and folder.exists():  # a model's folder is read as a whole: remove files of older versions
                for file in folder.rglob("[!.]*"):
                    if file.is_file() and str(file.relative_to(folder)) not in manifest.files:
                        file.unlink(missing_ok=True)
            self.remote.fetch(key, folder, manifest.files, names)
        for name in names:
            if cause := files.fault(folder, name, manifest.files[name], self.root):
                raise self._damaged(f"{key}/{name}", cause)
        return folder

    def _read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None where there is none."""
        if self.remote:
            return self.remote.read(name)
        path = self._inside(self.root / name)
        try:
            return files.read_small(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _names(self, name: str = "") -> list[str]:
        """Return the sorted names directly below `name`; nothing where there is no such folder."""
        if self.remote:
            return self.remote.names(name)
        folder = self.root / name
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _share_lock(self) -> None:
        if self.remote:
            lock.share(self.sources, f"{self.remote.address}/sources")


def _working_copy(address: str) -> Path:
    """Return the folder on this machine for the store at `address`."""
    home = Path(os.environ.get("ISOGLOSS_CACHE") or Path.home() / ".cache" / "isogloss")
    return home.absolute() / hashlib.sha256(address.encode()).hexdigest()[:16]


def _key(asset: str, pair: Pair | str | None) -> str:
    """Return the path of a dataset relative to the store: `raw_bitext/deu_Latn-eng_Latn`, `training_mix`."""
    if asset not in ((*PER_PAIR, *PER_CELL) if pair else (*WHOLE, *ASIDE)):
        raise AssertionError(f"{asset} with pair {pair}")
    if pair and not files.is_name(str(pair)):
        raise StoreError(
            f"{asset}: found {str(pair)[:80]!r}. Expected: the name of one folder. Fix: name a language pair such as "
            f"deu_Latn-eng_Latn."
        )
    return f"{asset}/{pair}" if pair else asset
