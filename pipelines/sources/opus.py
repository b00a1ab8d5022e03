"""OPUS: what its API lists and its Moses and TMX packages hold, pinned by version or the lock file -> BITEXT batches.

A corpus may have a cap: so many rows a pair, drawn with equal chances among the first `cap` times `window` rows of each
package. What lies behind these is not unpacked, and where that spares most of a large download, not even asked for: the
zip file's table of contents and the beginnings of its members are then read with HTTP Range
(`pipelines.fetching.ranged`).
"""

import difflib
import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from pipelines.errors import UserError
from pipelines.fetching import lock
from pipelines.fetching.download import WORKERS
from pipelines.fetching.transport import DownloadError
from pipelines.languages import Pair, in_other_scripts, opus_codes
from pipelines.progress import ProgressCallback, no_progress
from pipelines.sources import Source
from pipelines.sources._moses import ROWS
from pipelines.sources._packages import fetched, fetched_again, place, probed, read, states, whole
from pipelines.sources._releases import NAME, RELEASES, Format, Release, check_known, chosen, offered, server
from pipelines.sources._sampling import drawn
from pipelines.storage.ledger import rebatch


class Opus(Source):
    """Corpora of OPUS, or of a server that speaks its API at the address in the environment's OPUS_URL.

    Codes of OPUS that hold a language in several scripts are read for each of them (`languages.SHARED`): the filter
    `script` sorts the rows. Evals and tasks, which pass no filter, leave out those in another script.
    """

    citation: ClassVar[str] = (
        "Jörg Tiedemann. 2012. Parallel Data, Tools and Interfaces in OPUS. LREC 2012. https://opus.nlpl.eu"
    )
    online: ClassVar[bool] = True
    pin_is_whole: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    corpora: Annotated[list[str], Field(min_length=1)]
    """`Tatoeba/v2021-08-07` stays; `Tatoeba` is the latest release when first asked for, until a refresh."""
    format: Format = "moses"
    """Which of OPUS's packages: Moses has every aligned row, TMX each once and only where neither side is empty."""
    cap: Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=1)]] | None = None
    """Rows a corpus and pair at most: a number for all, or `{GNOME: 20_000}` for those that have one."""
    window: Annotated[int, Field(ge=1)] | None = 20
    """Of a corpus with a cap, how many times its cap is read, and drawn from; null is all of it. Large releases are
    often sorted: the wider the window, the less the draw is that of the corpus's beginning."""
    seed: int = 0
    """Decides which rows are drawn under a cap. A larger cap keeps the rows of a smaller one with the same window."""

    @field_validator("corpora")
    @classmethod
    def _well_formed(cls, corpora: list[str]) -> list[str]:
        for corpus in corpora:
            if not re.fullmatch(rf"{NAME}(/{NAME})?", corpus):
                raise UserError(
                    f"found {corpus!r}. Allowed: a corpus of OPUS with its version, such as 'Tatoeba/v2021-08-07', or "
                    f"without, such as 'Tatoeba'. Write it so."
                )
        if repeated := sorted({corpus for corpus in corpora if corpora.count(corpus) > 1}):
            raise UserError(f"found {', '.join(repeated)} twice. Allowed: each corpus once. Remove one.")
        return corpora

    @model_validator(mode="after")
    def _caps_are_of_corpora(self) -> "Opus":
        names = [name for spec in self.corpora for name in dict.fromkeys((spec, spec.partition("/")[0]))]
        for name in self.cap if isinstance(self.cap, dict) else ():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"Did you mean '{near[0]}'? " if near else ""
                raise UserError(f"cap: found '{name}'. {hint}Allowed: {', '.join(names)}. Correct or remove it.")
        return self

    @property
    def corpora_named(self) -> list[str]:
        return self.corpora

    def prepare(self, pair: Pair, home: Path, on_progress: ProgressCallback = no_progress) -> None:
        """Resolve what the lock file does not know of `pair` yet, and download it."""
        if not self._lacking(pair, lock.read(home, self.name, RELEASES)):
            return
        with lock.editing(home, self.name, RELEASES) as entries:
            offers = offered(pair, self.format)
            urls = {offer.identity: offer.url for offer in offers}
            found: dict[str, list[Release]] = {}
            for spec in self._lacking(pair, entries):
                if (key := self._key(spec, pair)) not in entries:
                    found[spec] = chosen(offers, spec)
                    continue
                held = [Release.model_validate(item) for item in entries[key]]  # of which too small a part is here
                found[spec] = [r.model_copy(update={"url": urls.get(r.identity, r.url)}) for r in held]
            if not any(found.values()) and not any(entries.get(self._key(spec, pair)) for spec in self.corpora):
                raise UserError(self._none(pair, offers))
            check_known([spec for spec in found if not found[spec]])
            wanted = [(release, self._rows(spec)) for spec, releases in found.items() for release in releases]
            here = iter(fetched(wanted, pair, home, on_progress))
            for spec, releases in found.items():
                new = [next(here) for _ in releases]
                for release, held in zip(new, releases, strict=True):
                    if held.etag and states([release]) != states([held]):
                        raise DownloadError(_moved(release, held))
                entries[self._key(spec, pair)] = [release.model_dump() for release in new]

    def pin(self, pair: Pair, home: Path) -> Any:
        out: list[Any] = []
        for spec, releases in self._locked(pair, home).items():
            if releases:
                drawn_by = [cap, self._rows(spec), self.seed] if (cap := self._cap(spec)) else []
                out.append([[list(release.content) for release in releases], *drawn_by])
        return out

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        """Move the lock of the corpora named without a version; what upstream no longer has stays as it is."""
        unpinned = [spec for spec in self.corpora if "/" not in spec]
        if not unpinned:
            return []
        with ThreadPoolExecutor(WORKERS) as pool:
            listed = list(pool.map(partial(offered, format=self.format), pairs))
        latest = {
            (pair, spec): chosen(offers, spec) for pair, offers in zip(pairs, listed, strict=True) for spec in unpinned
        }
        probes = iter(probed([release for releases in latest.values() for release in releases]))
        moved = []
        for (pair, spec), new in latest.items():
            new = [next(probes) for _ in new]
            held = lock.read(home, self.name, RELEASES).get(self._key(spec, pair))
            if held is None:  # never asked for: what is not there does not move
                continue
            old = [Release.model_validate(item) for item in held]
            if not new or states(old) == states(new):
                continue
            with lock.editing(home, self.name, RELEASES) as entries:
                fresh = fetched([(release, self._rows(spec)) for release in new], pair, home, no_progress)
                entries[self._key(spec, pair)] = [release.model_dump() for release in fresh]
            if [release.content for release in old] != [release.content for release in fresh]:
                moved.append(pair)
        return sorted(set(moved))

    def other_scripts(self, lang: str) -> tuple[str, ...]:
        """As OPUS has Serbian in Latin and in Cyrillic letters under `sr`."""
        return tuple(dict.fromkeys(other for code in opus_codes(lang) for other in in_other_scripts(lang, code)))

    def releases(self, pair: Pair, home: Path) -> dict[str, Any]:
        entries = {spec: lock.read(home, self.name, RELEASES).get(self._key(spec, pair)) for spec in self.corpora}
        return {
            f"{spec} {self.format}": [Release.model_validate(item).content for item in items]
            for spec, items in entries.items()
            if "/" not in spec and items is not None
        }

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        locked = self._locked(pair, home)
        files = [release for releases in locked.values() for release in releases if release.window is None]
        if not all(whole(place(release, home), release) for release in files):
            with lock.editing(home, self.name, RELEASES):
                fetched_again(files, pair, home)
        for spec, releases in locked.items():
            most, cap = self._rows(spec), self._cap(spec)
            rows = itertools.chain.from_iterable(read(release, pair, home, most) for release in releases)
            if cap:
                rows = rebatch(drawn(rows, cap, self.seed, spec.partition("/")[0], str(pair)), ROWS)
            yield from rows

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        """`files` says what each is and how many rows it has; of corpora with a cap, how many of them were read."""
        out: dict[str, dict[str, Any]] = {}
        for spec, releases in self._locked(pair, home).items():
            most = self._rows(spec)
            for release in releases:
                stated = {"version": release.version, "licence": release.licence, "url": release.url}
                known = out.setdefault(release.name, {**stated, "citation": self.citation, "files": []})
                file = {"url": release.url, "size": release.size, "rows": release.rows}
                file |= {"sha256": release.sha256} if release.window is None else {"etag": release.etag}
                if self._cap(spec) and release.rows is not None:
                    file["rows_read"] = release.rows if most is None else min(most, release.rows)
                known["files"].append(file)
        return out

    def prune(self, home: Path) -> list[Path]:
        """Remove downloads that no entry of the lock file names; what was removed."""
        folder = home / "downloads" / "opus"
        with lock.editing(home, self.name, RELEASES) as entries:
            named = {place(Release.model_validate(item), home) for items in entries.values() for item in items}
            gone = [path for path in sorted(folder.glob("*/*/*")) if path not in named]
            for path in gone:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for empty in sorted(folder.glob("**/"), reverse=True):
            if not any(empty.iterdir()):
                empty.rmdir()
        return gone

    def _key(self, spec: str, pair: Pair) -> str:
        return f"{spec} {pair}" if self.format == "moses" else f"{spec} {pair} {self.format}"

    def _cap(self, spec: str) -> int | None:
        if isinstance(self.cap, dict):
            return self.cap.get(spec, self.cap.get(spec.partition("/")[0]))
        return self.cap

    def _rows(self, spec: str) -> int | None:
        """Rows to read of each package; None where all are."""
        cap = self._cap(spec)
        return cap * self.window if cap and self.window else None

    def _lacking(self, pair: Pair, entries: dict[str, Any]) -> list[str]:
        """What the lock has nothing of, or too small a part."""
        out = []
        for spec in self.corpora:
            wanted, held = self._rows(spec), entries.get(self._key(spec, pair))
            parts = [item["window"] for item in held or [] if item.get("window") is not None]
            if held is None or any(wanted is None or part < wanted for part in parts):
                out.append(spec)
        return out

    def _locked(self, pair: Pair, home: Path) -> dict[str, list[Release]]:
        """What the lock has of `pair`, in the order of the recipe; resolved now where it was not."""
        self.prepare(pair, home)
        entries = lock.read(home, self.name, RELEASES)
        out = {spec: [Release.model_validate(item) for item in entries[self._key(spec, pair)]] for spec in self.corpora}
        if not any(out.values()):
            raise UserError(self._none(pair, offered(pair, self.format)))
        return out

    def _none(self, pair: Pair, offers: Sequence[Release]) -> str:
        has = sorted({release.name for release in offers})
        return (
            f"opus.corpora, {pair}: found {', '.join(self.corpora)}, of which {server()} has none for this pair. "
            f"Allowed: {', '.join(has) or 'nothing, it has no bitext of this pair'}. Add one or remove the pair."
        )


def _moved(found: Release, held: Release) -> str:
    return (
        f"{found.url}: found {found.size:,} bytes with ETag {found.etag}. Allowed: {held.size:,} bytes with "
        f"{held.etag}, as in the lock file. The file changed upstream: move the lock by a refresh where the corpus is "
        f"named without a version, else by deleting its entry in lock.json."
    )
