"""manifest.json: what a dataset holds, what it was made from, and the SHA-256 of each of its files."""

import hashlib
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipelines import files
from pipelines.errors import UserError
from pipelines.storage.fingerprint import FORMAT

MAIN = "data"
"""The part of a dataset that the next stage reads."""


class LedgerRow(BaseModel):
    """How many rows of one corpus a step received, dropped, kept and changed.

    `into - dropped == kept` always holds; `changed` counts rows among the kept ones.
    """

    model_config = ConfigDict(extra="forbid")
    step: str
    corpus: str
    into: int
    dropped: int
    kept: int
    changed: int = 0


class Manifest(BaseModel):
    """Description of a dataset. It is written last: without it there is no dataset."""

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
    """SHA-256 of every file by its path relative to the dataset's folder."""
    bytes: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    commit: str = ""
    recipe: dict[str, Any] = {}

    @field_validator("files")
    @classmethod
    def _check_files(cls, digests: dict[str, str]) -> dict[str, str]:
        for name, digest in digests.items():
            if not files.is_relative(name):
                raise UserError(f"names the file {name!r}, which is not a path inside the dataset's folder")
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise UserError(f"gives {name!r} the SHA-256 {digest[:80]!r}, which is not valid")
        return digests

    def to_json(self) -> str:
        """Set the digest and return the text of manifest.json."""
        self.digest = ""
        text = self.model_dump_json(indent=1)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        return text.replace('"digest": ""', f'"digest": "{self.digest}"', 1)

    def shard_names(self, part: str = MAIN) -> list[str]:
        """Paths of the shards of a part, in the order in which they were written."""
        return [name for name in sorted(self.files) if name.startswith(f"{part}/data-")]

    def content(self, part: str = MAIN) -> str:
        """SHA-256 over the shards of a part: identifies an input by its content rather than by how it was made."""
        return hashlib.sha256("".join(self.files[name] for name in self.shard_names(part)).encode()).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """Parse the bytes of a manifest.json.

    Raises:
        files.Unreadable: The file is damaged.
    """
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
