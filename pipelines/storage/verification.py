"""`verify` compares everything in a store with its SHA-256; `repair` sets aside what is damaged, to be made again."""

import json
from typing import NamedTuple

from pipelines import files
from pipelines.fetching import lock
from pipelines.sources._packages import place
from pipelines.sources._releases import RELEASES
from pipelines.storage.errors import DamagedError, StoreError
from pipelines.storage.fingerprint import FORMAT
from pipelines.storage.store import Store

ASIDE = ".damaged"
"""The folder of a store that repaired datasets are moved to."""


class Fault(NamedTuple):
    """Something in a store that is not what was written."""

    asset: str
    """Empty where it belongs to no dataset."""
    pair: str | None
    file: str
    """Relative to the store."""
    cause: str

    def __str__(self) -> str:
        return f"{self.file} {self.cause}"


def verify(store: Store) -> tuple[int, list[Fault]]:
    """Compare every file of every dataset, download and checkpoint: how many, and what is wrong."""
    datasets = store.datasets()
    compared, faults = 0, _identity(store)
    if not datasets and not faults:
        raise StoreError(
            f"store {store.address}: no manifest in it. Needed: a folder that 'python -m pipelines' or 'make align' "
            f"filled. Check the path."
        )
    for asset, pair in datasets:
        key = f"{asset}/{pair}" if pair else asset
        try:
            folder, manifest = store.folder(asset, pair), store.require(asset, pair)
        except StoreError as error:  # a damaged manifest, or a link out of the store
            faults.append(Fault(asset, pair, f"{key}/manifest.json", _cause(error)))
            continue
        compared += len(manifest.files)
        if store.remote:
            found = store.remote.faults(key, manifest.files)
        else:
            checked = {name: files.fault(folder, name, digest, store.root) for name, digest in manifest.files.items()}
            found = {name: cause for name, cause in checked.items() if cause}
        faults += [Fault(asset, pair, f"{key}/{name}", cause) for name, cause in found.items()]
    for check in (_lock, _downloads, _checkpoints):
        count, found = check(store)
        compared += count
        faults += found
    return compared, faults


def repair(store: Store) -> list[str]:
    """Make the next run rebuild what `verify` finds damaged, and nothing else; a line for each thing done.

    A dataset is moved to `.damaged/` (at an address: removed), a download, a checkpoint or an entry of the lock file is
    removed, store.json is written again. A rebuilt dataset has the same fingerprint and so leaves what was made of it
    unchanged.
    """
    with store.writer():
        store.check_writable()
        _, faults = verify(store)
        done = []
        for asset, pair in dict.fromkeys((fault.asset, fault.pair) for fault in faults if fault.asset):
            done.append(_set_aside(store, asset, pair))
        for fault in faults:
            if fault.asset:
                continue
            if fault.file == "store.json":
                done.append(_write_identity(store))
            elif fault.file == f"sources/{lock.FILE}":
                done.append(_repair_lock(store))
            else:
                files.remove(store.root / fault.file)
                done.append(f"{fault.file}: removed")
        return list(dict.fromkeys(done))


def _cause(error: Exception) -> str:
    """What follows the file in the sentence of a DamagedError."""
    return str(error).partition("manifest.json ")[2].partition(". Expected: ")[0] or str(error)


def _identity(store: Store) -> list[Fault]:
    try:
        found = store.identity()
    except DamagedError as error:
        return [Fault("", None, "store.json", str(error).partition("store.json ")[2].partition(". Expected: ")[0])]
    names = _recipes(store)
    if found is None or (found.get("recipe") in (names or [found.get("recipe")]) and found.get("format") == FORMAT):
        return []
    cause = f"names recipe '{found.get('recipe')}' in format {found.get('format')}, but its datasets are of "
    return [Fault("", None, "store.json", cause + f"{', '.join(sorted(names))} in format {FORMAT}")]


def _recipes(store: Store) -> set[str]:
    """The recipes whose datasets are in the store, as the manifests that can be read have them."""
    names: set[str] = set()
    for asset, pair in store.datasets():
        try:
            names.add(str(store.require(asset, pair).recipe.get("name", "")))
        except StoreError:
            continue
    return names - {""}


def _lock(store: Store) -> tuple[int, list[Fault]]:
    name = f"sources/{lock.FILE}"
    if not (store.sources / lock.FILE).exists():
        return 0, []
    try:
        changed = lock.damaged_entries(store.sources)
        lock.read(store.sources, "opus", RELEASES)
    except lock.LockError as error:
        return 1, [Fault("", None, name, str(error).partition(f"{lock.FILE} ")[2].partition(". Expected: ")[0])]
    return 1, [Fault("", None, name, f"has a damaged entry '{key}' of '{source}'") for source, key in changed]


def _downloads(store: Store) -> tuple[int, list[Fault]]:
    """Whole downloads that the lock file names; those fetched in part have their digests in their names."""
    try:
        entries = lock.read(store.sources, "opus", RELEASES)
    except lock.LockError:
        return 0, []
    count, faults = 0, []
    for release in (release for items in entries.values() for release in RELEASES.validate_python(items)):
        file = place(release, store.sources)
        if release.window is None and file.exists():
            count += 1
            if cause := files.fault(file.parent, file.name, release.sha256, store.root):
                faults.append(Fault("", None, str(file.relative_to(store.root)), cause))
    return count, faults


def _checkpoints(store: Store) -> tuple[int, list[Fault]]:
    count, faults = 0, []
    for folder in sorted((store.root / ".scratch").glob("*/*/step-*")):
        count += 1
        if cause := files.digests_fault(folder):
            faults.append(Fault("", None, str(folder.relative_to(store.root)), f"is damaged: {cause}"))
    return count, faults


def _set_aside(store: Store, asset: str, pair: str | None) -> str:
    key = f"{asset}/{pair}" if pair else asset
    if store.remote:
        store.remote.discard(key)
        files.remove(store.root / key)
        return f"{key}: removed"
    folder = store.root / key
    if folder.is_symlink() or folder.parent.is_symlink():
        link = folder if folder.is_symlink() else folder.parent
        link.unlink()
        return f"{key}: its symbolic link removed"
    aside = store.root / ASIDE / key
    files.remove(aside)
    files.make_folder(aside.parent)
    folder.rename(aside)
    files.sync_folder(folder.parent)
    return f"{key}: moved to {aside.relative_to(store.root)}"


def _write_identity(store: Store) -> str:
    names = _recipes(store)
    if len(names) != 1:
        raise StoreError(
            f"store {store.address}: store.json is damaged, and its datasets are of {len(names)} recipes: "
            f"{', '.join(sorted(names)) or 'none is readable'}. Expected: one. Fix: write into it "
            f'{{"recipe": "NAME", "format": {FORMAT}}}, with the name of the recipe that the store belongs to.'
        )
    [name] = names
    text = json.dumps({"recipe": name, "format": FORMAT})
    if store.remote:
        store.remote.write("store.json", text)
    else:
        files.write_atomically(store.root / "store.json", text)
    return f"store.json: written again for recipe '{name}'"


def _repair_lock(store: Store) -> str:
    file = store.sources / lock.FILE
    try:
        changed = lock.damaged_entries(store.sources)
    except lock.LockError:
        changed = []
    if changed:
        lock.drop(store.sources, changed)
        return f"sources/{lock.FILE}: {len(changed)} entries removed, which are looked up anew"
    aside = store.root / ASIDE / "sources" / lock.FILE
    files.make_folder(aside.parent)
    file.replace(aside)
    return f"sources/{lock.FILE}: moved to {aside.relative_to(store.root)}; releases are looked up anew"
