"""Write one dataset: Arrow shards, their manifest, and the atomic replacement of the previous version."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import files
from pipelines.fetching.redaction import redact_all
from pipelines.storage.manifest import MAIN, Manifest
from pipelines.storage.meter import Meter
from pipelines.storage.provenance import commit
from pipelines.storage.remote import Remote

SHARD_BYTES = 256 << 20
"""Uncompressed bytes after which a new shard starts."""
BUFFER_BYTES = 1 << 20
"""Bytes of a shard that are written at a time."""


class Writer:
    """Collects the parts of one dataset: Arrow shards that `datasets.load_from_disk` and pyarrow both read.

    Args:
        path: The temporary folder that is written.
        folder: The dataset's folder, which `path` replaces on commit.
        asset: Name of the asset.
        pair: Language pair of the dataset, or None for a dataset of all pairs.
        remote: Address to publish to, where the store has one.
    """

    def __init__(self, path: Path, folder: Path, asset: str, pair: str | None, remote: Remote | None = None):
        self.path = path
        self._folder, self._asset, self._pair, self._remote = folder, asset, pair, remote
        self._parts: dict[str, _PartWriter] = {}
        self._meter = Meter()

    def write(self, batch: pa.RecordBatch, part: str = MAIN) -> None:
        """Append rows to a part. All batches of a part have one schema; an empty batch still creates the part."""
        if part not in self._parts:
            self._parts[part] = _PartWriter(self.path / part, batch.schema)
        self._parts[part].write(batch)

    def rows(self) -> dict[str, int]:
        """Return the number of rows written so far, by part."""
        return {name: part.rows for name, part in self._parts.items()}

    def close(self) -> None:
        """Finish all parts."""
        for part in self._parts.values():
            part.close()

    def discard(self) -> None:
        """Close the files of unfinished parts without completing them."""
        for part in self._parts.values():
            part.discard()

    def commit(self, fingerprint: str, recipe: dict[str, Any], **fields: Any) -> Manifest:
        """Write the manifest and replace the previous version of the dataset.

        Args:
            fingerprint: Of everything that determines the dataset.
            recipe: The resolved recipe.
            **fields: Further fields of `Manifest`.
        """
        self.close()
        rows = self.rows()
        if len(rows) > 1:
            (self.path / "dataset_dict.json").write_text(json.dumps({"splits": list(rows)}))
        digests = self._digest_files()
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
            assert row.into - row.dropped == row.kept, f"ledger does not balance: {row}"
        text = manifest.to_json()
        (self.path / "manifest.json").write_text(text, encoding="utf-8")
        files.sync_tree(self.path)  # before the rename, or a power failure could leave the name without the content
        if self._remote:
            key = f"{self._asset}/{self._pair}" if self._pair else self._asset
            self._remote.publish(key, self.path, digests, text)
        self._replace_folder(digests)
        return manifest

    def _digest_files(self) -> dict[str, str]:
        """Make all files as readable as the folder; return their SHA-256 by relative path."""
        paths = [file for file in sorted(self.path.rglob("*")) if file.is_file()]
        for file in paths:  # safetensors creates files with mode 0600, whatever the umask
            file.chmod(file.stat().st_mode | (self.path.stat().st_mode & 0o666))
        return {str(file.relative_to(self.path)): files.sha256(file) for file in paths}

    def _replace_folder(self, digests: dict[str, str]) -> None:
        old = beside(self._folder, "old")
        files.remove(old)
        if self._folder.exists():
            self._folder.rename(old)
        self.path.rename(self._folder)
        files.sync_folder(self._folder.parent)
        for name, digest in digests.items():
            files.remember_digest(self._folder / name, digest)
        shutil.rmtree(old, ignore_errors=True)


class _PartWriter:
    """One split: `data-00000.arrow`, ... and the two JSON files by which `datasets` recognises them."""

    def __init__(self, folder: Path, schema: pa.Schema):
        folder.mkdir(parents=True)
        self.folder, self.schema, self.rows, self.names = folder, schema, 0, list[str]()
        self._writer: Any = None
        self._file: Any = None
        self._bytes = 0
        self._start_shard()

    def _start_shard(self) -> None:
        self._finish_shard()
        self.names.append(f"data-{len(self.names):05}.arrow")
        options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=False)
        self._file = (self.folder / self.names[-1]).open("wb", buffering=BUFFER_BYTES)
        self._writer = pa.ipc.new_stream(self._file, self.schema, options=options)
        self._bytes = 0

    def _finish_shard(self) -> None:
        if self._writer:
            self._writer.close()
            self._file.close()
            self._writer = None

    def discard(self) -> None:
        if self._writer:
            with suppress(OSError):  # the disk may be full
                self._finish_shard()
            with suppress(OSError):
                self._file.close()

    def write(self, batch: pa.RecordBatch) -> None:
        if self._bytes > SHARD_BYTES:
            self._start_shard()
        self._writer.write_batch(batch)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes

    def close(self) -> None:
        if self._writer is None:
            return
        self._finish_shard()
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


def beside(folder: Path, kind: str) -> Path:
    """Return the hidden folder next to `folder` for its new (`kind` "new") or previous version ("old")."""
    return folder.with_name(f".{folder.name}.{kind}")
