"""Sources of bitext, one file each. A source yields the segment pairs it holds of one language pair."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.languages import Pair
from pipelines.progress import Tell, silent
from pipelines.registry import Plugin


class Source(Plugin):
    """Base of sources. `home` is a folder of the store where a source keeps its downloads and its lock file."""

    citation: ClassVar[str] = ""
    """Who made the data and where it is described."""

    online: ClassVar[bool] = False
    """Whether `refresh` may find something newer upstream."""

    def check(self, pairs: list[Pair]) -> None:
        """Raise ValueError, before any work starts, where this source can never serve `pairs`."""

    pin_is_whole: ClassVar[bool] = False
    """Whether `pin` alone identifies the data; else the settings enter the fingerprint of every pair as well."""

    def prepare(self, pair: Pair, home: Path, tell: Tell = silent) -> None:
        """Do the slow part of `pin`, such as downloads, and say how far it is."""

    def pin(self, pair: Pair, home: Path) -> Any:
        """What identifies the data `fetch` yields now (versions, ETags, hashes), as JSON; part of the fingerprint."""
        return None

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        """Move the lock to what upstream has now; return the pairs whose data changed."""
        return []

    @abstractmethod
    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        """Yield BITEXT batches: row i of `src` is in `pair.src`, of `tgt` in `pair.tgt`; no row is null."""

    @abstractmethod
    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        """{corpus as in the `corpus` column: {version, licence, url, citation}} of what `fetch` yields."""

    def instructions(self, lang: str) -> Iterator[tuple[int | str, str, str, str]]:
        """(id, instruction, input, output) in one language; rows of one id mean the same in every language.

        Only sources with multi-parallel instruction data have them; `input` may be empty.
        """
        raise ValueError(
            f"source '{self.name}' holds no instruction data. Allowed: a source that does, such as 'sample'. "
            f"Name another."
        )
