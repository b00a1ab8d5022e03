"""Sources of bitext, one file each. A source yields the segment pairs it holds of one language pair."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.progress import ProgressCallback, no_progress
from pipelines.registry import Plugin


class Source(Plugin):
    """Base of sources. `home` is a folder of the store where a source keeps its downloads and its lock file."""

    citation: ClassVar[str] = ""
    """Who made the data and where it is described."""

    online: ClassVar[bool] = False
    """Whether `refresh` may find something newer upstream."""

    def check(self, pairs: list[Pair]) -> None:
        """Raise ValueError, before any work starts, where this source can never serve `pairs`."""

    @property
    def corpora_named(self) -> list[str] | None:
        """The corpora, as in the `corpus` column or without their version, that there can be; None where only the data
        tell."""
        return None

    pin_is_whole: ClassVar[bool] = False
    """Whether `pin` alone identifies the data; else the settings enter the fingerprint of every pair as well."""

    def prepare(self, pair: Pair, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Do the slow part of `pin`, such as downloads, and say how far it is."""

    def pin(self, pair: Pair, home: Path) -> Any:
        """What identifies the data `fetch` yields now (versions, ETags, hashes), as JSON; part of the fingerprint."""
        return None

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        """Move the lock to what upstream has now; return the pairs whose data changed."""
        return []

    def releases(self, pair: Pair, home: Path) -> dict[str, Any]:
        """{name: what identifies its data} of what `refresh` may move, as the lock has it now; part of `pin`."""
        return {json.dumps(self.settings(), sort_keys=True): self.pin(pair, home)} if self.online else {}

    def prune(self, home: Path) -> list[Path]:
        """Remove downloads that the lock no longer names; the files and folders removed."""
        return []

    @abstractmethod
    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        """Yield BITEXT batches: row i of `src` is in `pair.src`, of `tgt` in `pair.tgt`; no row is null."""

    def other_scripts(self, lang: str) -> tuple[str, ...]:
        """The languages that `fetch` may give under `lang`, as upstream has one code for what differs in script."""
        found = [part.other_scripts(lang) for part in self.nested().values() if isinstance(part, Source)]
        return tuple(dict.fromkeys(other for own in found for other in own))

    @abstractmethod
    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        """{corpus as in the `corpus` column: {version, licence, url, citation}} of what `fetch` yields."""

    def instructions(self, lang: str, home: Path) -> Iterator[tuple[int | str, str, str, str]]:
        """(id, instruction, input, output) in one language; rows of one id mean the same in every language.

        Only sources with multi-parallel instruction data have them; `input` may be empty.
        """
        raise UserError(
            f"source '{self.name}' holds no instruction data. Allowed: a source that does, such as 'sample'. "
            f"Name another."
        )
