"""OPUS: what its API lists and its Moses zips hold, pinned by version or by the lock file -> BITEXT batches."""

import difflib
import itertools
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import Field, field_validator

from pipelines import lock
from pipelines.download import DownloadError, Got, Job, download_all, get_json, kept, probe_all
from pipelines.languages import Pair, opus_codes
from pipelines.progress import Tell, silent
from pipelines.registry import Strict
from pipelines.schema import bitext_batch
from pipelines.sources import Source
from pipelines.store import sha256

API = "https://opus.nlpl.eu/opusapi/"
ROWS = 20_000  # per batch; decides the bytes of the shards
BLOCK = 1 << 20  # bytes read at a time
LONGEST_LINE = 16 << 20  # bytes
LARGEST = 64 << 30  # bytes of one side unpacked; the largest of OPUS (NLLB, CCMatrix) have about 30 GiB
DENSEST = 200  # unpacked over packed size; text gives 3 to 10, deflate's most is 1,032
SMALL = 10 << 20  # bytes unpacked below which the ratio does not matter
NAME = r"[A-Za-z0-9][\w.+-]*"
INSIDE = re.compile(r"[\0\t\v\f\x1c-\x1e\x85\u2028\u2029]+")  # would end a line or a column further on


class Release(Strict):
    """One Moses package of one pair, as the lock file holds it."""

    corpus: str
    version: str
    package: str
    """`en-zh_CN`: the server's codes in the server's order."""
    src: str
    """The server's code of `pair.src`."""
    tgt: str
    url: str
    licence: str = ""
    etag: str = ""
    size: int = 0
    sha256: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.corpus, self.version, self.package)


class Opus(Source):
    """Corpora of OPUS, or of a server that speaks its API at the address in the environment's OPUS_URL."""

    citation: ClassVar[str] = (
        "Jörg Tiedemann. 2012. Parallel Data, Tools and Interfaces in OPUS. LREC 2012. https://opus.nlpl.eu"
    )
    online: ClassVar[bool] = True
    pin_is_whole: ClassVar[bool] = True
    modules: ClassVar[tuple[str, ...]] = ("pipelines.schema",)

    corpora: Annotated[list[str], Field(min_length=1)]
    """`Tatoeba/v2021-08-07` stays; `Tatoeba` is the latest release when first asked for, until a refresh."""

    @field_validator("corpora")
    @classmethod
    def _well_formed(cls, corpora: list[str]) -> list[str]:
        for corpus in corpora:
            if not re.fullmatch(rf"{NAME}(/{NAME})?", corpus):
                raise ValueError(
                    f"found {corpus!r}. Allowed: a corpus of OPUS with its version, such as 'Tatoeba/v2021-08-07', or "
                    f"without, such as 'Tatoeba'. Write it so."
                )
        if repeated := sorted({corpus for corpus in corpora if corpora.count(corpus) > 1}):
            raise ValueError(f"found {', '.join(repeated)} twice. Allowed: each corpus once. Remove one.")
        return corpora

    def prepare(self, pair: Pair, home: Path, tell: Tell = silent) -> None:
        """Resolve what the lock file does not know of `pair` yet, and download it."""
        if all(_key(spec, pair) in lock.read(home, self.name) for spec in self.corpora):
            return
        with lock.editing(home, self.name) as entries:
            missing = [spec for spec in self.corpora if _key(spec, pair) not in entries]
            offered = _offered(pair)
            found = {spec: _chosen(offered, spec) for spec in missing}
            if not any(found.values()) and not any(entries.get(_key(spec, pair)) for spec in self.corpora):
                raise ValueError(self._none(pair, offered))
            _known([spec for spec in missing if not found[spec]])
            whole = iter(_downloaded([release for spec in missing for release in found[spec]], home, tell))
            for spec in missing:
                entries[_key(spec, pair)] = [next(whole).model_dump() for _ in found[spec]]

    def pin(self, pair: Pair, home: Path) -> Any:
        return [[*release.identity, release.sha256] for release in self._locked(pair, home)]

    def refresh(self, pairs: list[Pair], home: Path) -> list[Pair]:
        """Move the lock of the corpora named without a version; what upstream no longer has stays as it is."""
        moved = []
        unpinned = [spec for spec in self.corpora if "/" not in spec]
        for pair in pairs if unpinned else []:
            with lock.editing(home, self.name) as entries:
                offered = _offered(pair)
                for spec in unpinned:
                    new = _chosen(offered, spec)
                    old = [Release.model_validate(item) for item in entries.get(_key(spec, pair), [])]
                    if not new or _states(old) == _states(_probed(new)):
                        continue
                    fresh = _downloaded(new, home, silent)
                    entries[_key(spec, pair)] = [release.model_dump() for release in fresh]
                    if [(*r.identity, r.sha256) for r in old] != [(*r.identity, r.sha256) for r in fresh]:
                        moved.append(pair)
        return sorted(set(moved))

    def fetch(self, pair: Pair, home: Path) -> Iterator[pa.RecordBatch]:
        releases = self._locked(pair, home)
        if not all(_whole(_file(release, home), release) for release in releases):
            with lock.editing(home, self.name):
                _downloaded_again(pair, releases, home)
        for release in releases:
            yield from read_moses(_file(release, home), release, pair)

    def provenance(self, pair: Pair, home: Path) -> dict[str, dict[str, Any]]:
        out: dict[str, dict[str, Any]] = {}
        for release in self._locked(pair, home):
            known = out.setdefault(
                f"{release.corpus}/{release.version}",
                {
                    "version": release.version,
                    "licence": release.licence,
                    "url": release.url,
                    "citation": self.citation,
                    "files": [],
                },
            )
            known["files"].append({"url": release.url, "size": release.size, "sha256": release.sha256})
        return out

    def _locked(self, pair: Pair, home: Path) -> list[Release]:
        """What the lock has of `pair`, in the order of the recipe; resolved now where it was not."""
        self.prepare(pair, home)
        entries = lock.read(home, self.name)
        out = [Release.model_validate(item) for spec in self.corpora for item in entries[_key(spec, pair)]]
        if not out:
            raise ValueError(self._none(pair, _offered(pair)))
        return out

    def _none(self, pair: Pair, offered: list[Release]) -> str:
        has = sorted({f"{release.corpus}/{release.version}" for release in offered})
        return (
            f"opus.corpora, {pair}: found {', '.join(self.corpora)}, of which {_server()} has none for this pair. "
            f"Allowed: {', '.join(has) or 'nothing, it has no bitext of this pair'}. Add one or remove the pair."
        )


def _key(spec: str, pair: Pair) -> str:
    return f"{spec} {pair}"


def _server() -> str:
    address = os.environ.get("OPUS_URL", "").strip() or API
    return address if urlsplit(address).path.strip("/") else address.rstrip("/") + "/opusapi/"


def _offered(pair: Pair) -> list[Release]:
    """All Moses packages that the server has of `pair`, the usual codes of its languages first."""
    out = []
    for src, tgt in itertools.product(*map(opus_codes, pair)):
        source, target = sorted((src, tgt))
        answer = get_json(_server(), {"source": source, "target": target, "preprocessing": "moses"})
        try:
            records = [
                record
                for record in answer["corpora"]
                if record["preprocessing"] == "moses" and {record["source"], record["target"]} == {src, tgt}
            ]
            out += [
                _Offer(
                    corpus=record["corpus"],
                    version=record["version"],
                    package=f"{record['source']}-{record['target']}",
                    src=src,
                    tgt=tgt,
                    url=record["url"],
                    latest=str(record.get("latest")) == "True",
                )
                for record in records
                if re.fullmatch(NAME, record["corpus"]) and re.fullmatch(NAME, record["version"])
            ]
        except (KeyError, TypeError) as error:
            raise DownloadError(
                f"{_server()}: the answer is not that of an OPUS API: {error!r}. Needed: 'corpora', a list of records. "
                f"Check OPUS_URL."
            ) from None
    return out


class _Offer(Release):
    latest: bool = False


def _chosen(offered: list[Any], spec: str) -> list[Release]:
    """The release that `spec` means of each pair of codes: the one it names, else the latest."""
    corpus, _, version = spec.partition("/")
    best: dict[str, _Offer] = {}
    for offer in offered:
        if offer.corpus == corpus and version in ("", offer.version):
            held = best.setdefault(offer.package, offer)
            if (offer.latest, _natural(offer.version)) > (held.latest, _natural(held.version)):
                best[offer.package] = offer
    return [Release.model_validate(offer.model_dump(exclude={"latest"})) for offer in best.values()]


def _natural(version: str) -> list[tuple[int, str]]:
    """`v10` after `v9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]


def _known(specs: list[str]) -> None:
    """ValueError where the server knows no corpus of a name: it may lack a pair, but a slip is not let pass."""
    if not specs:
        return
    names = get_json(_server(), {"corpora": "True"}).get("corpora", [])
    for spec in specs:
        name = spec.partition("/")[0]
        if names and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise ValueError(
                f"opus.corpora: found '{spec}'. {hint}Allowed: a corpus of {_server()}. Correct or remove it."
            )


def _base(release: Release, home: Path) -> Path:
    return home / "downloads" / "opus" / release.corpus / release.version / f"{release.package}.txt.zip"


def _file(release: Release, home: Path) -> Path:
    return kept(_base(release, home), release.etag, release.size)


def _whole(file: Path, release: Release) -> bool:
    return file.exists() and sha256(file) == release.sha256


def _probed(releases: list[Release]) -> list[Release]:
    remotes = probe_all([release.url for release in releases])
    return [
        release.model_copy(update={"etag": remote.etag, "size": remote.size or 0})
        for release, remote in zip(releases, remotes, strict=True)
    ]


def _states(releases: list[Release]) -> list[tuple[Any, ...]]:
    return [(*release.identity, release.etag, release.size) for release in releases]


def _downloaded(releases: list[Release], home: Path, tell: Tell) -> list[Release]:
    """The releases with what is known only of a file at hand: ETag, size, SHA-256 and licence."""
    jobs = [Job(release.url, _base(release, home)) for release in releases]
    out = []
    for release, got in zip(releases, download_all(jobs, check_zip, tell), strict=True):
        update = {"etag": got.etag, "size": got.size, "sha256": got.sha256, "licence": licence(got.file)}
        out.append(release.model_copy(update=update))
    return out


def _downloaded_again(pair: Pair, releases: list[Release], home: Path) -> None:
    """Bring back kept files that were deleted, just as the lock has them, from where the server has them now."""
    urls = {offer.identity: offer.url for offer in _offered(pair)}
    jobs = [
        Job(
            urls.get(release.identity, release.url),
            _base(release, home),
            Got(release.etag, release.size, release.sha256, _file(release, home)),
        )
        for release in releases
    ]
    download_all(jobs, check_zip)


def check_zip(file: Path) -> None:
    """ValueError where `file` is no zip, unpacks to something absurd, or a CRC does not match."""
    try:
        with zipfile.ZipFile(file) as package:
            for member in package.infolist():
                dense = member.file_size > max(SMALL, DENSEST * member.compress_size)
                if member.file_size > LARGEST or dense:
                    raise ValueError(
                        f"'{member.filename}' unpacks {member.compress_size:,} bytes to {member.file_size:,}. Allowed: "
                        f"at most {DENSEST} times as many, and {LARGEST:,}. Do not use this corpus."
                    )
            bad = package.testzip()
    except ValueError:
        raise
    except Exception as error:  # a damaged zip makes zipfile raise almost anything
        raise ValueError(f"not a sound zip file: {error}. Needed: a Moses package. Report it to the server.") from None
    if bad:
        raise ValueError(f"not a sound zip file: wrong CRC of '{bad}'. Needed: a whole one. Report it to the server.")


def licence(file: Path) -> str:
    """The first line of the package's LICENSE."""
    with zipfile.ZipFile(file) as package:
        if "LICENSE" not in package.namelist():
            return "not stated in the package"
        with package.open("LICENSE") as stream:
            text = stream.read(1 << 16).decode("utf-8", errors="replace")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else "not stated in the package"


def read_moses(file: Path, release: Release, pair: Pair) -> Iterator[pa.RecordBatch]:
    """BITEXT batches of a Moses package; its members are found by name only, nothing is unpacked to disk.

    Bytes that are no UTF-8 become U+FFFD, tabs and other separators inside a line one space; \\r and a BOM go.
    ValueError where the two sides have different numbers of lines.
    """
    corpus = f"{release.corpus}/{release.version}"
    with zipfile.ZipFile(file) as package:
        names = [_member(package, file, f".{release.package}.{code}") for code in (release.src, release.tgt)]
        with package.open(names[0]) as src, package.open(names[1]) as tgt:
            sides = [_batched(_lines(src, names[0])), _batched(_lines(tgt, names[1]))]
            counts = [0, 0]
            for both in itertools.zip_longest(*sides, fillvalue=[]):
                counts = [count + len(lines) for count, lines in zip(counts, both, strict=True)]
                if counts[0] == counts[1]:
                    yield bitext_batch(both[0], both[1], pair.src, pair.tgt, corpus)
    if counts[0] != counts[1]:
        raise ValueError(
            f"{corpus}, {release.package}: found {counts[0]:,} lines in '{names[0]}' and {counts[1]:,} in '{names[1]}' "
            f"({file}). Allowed: as many in both. Remove this corpus or name another version."
        )


def _member(package: zipfile.ZipFile, file: Path, ending: str) -> str:
    found = [name for name in package.namelist() if name.endswith(ending) and "/" not in name]
    if len(found) != 1:
        raise ValueError(
            f"{file}: found {', '.join(package.namelist()[:10])}. Needed: one file '<corpus>{ending}'. Remove this "
            f"corpus or name another version."
        )
    return found[0]


def _lines(stream: Any, name: str) -> Iterator[list[str]]:
    """The lines of a UTF-8 stream, some at a time; a last line without a line break counts."""
    rest, first = b"", True
    while True:
        block = stream.read(BLOCK)
        cut = block.rfind(b"\n") + 1
        if block and not cut:
            rest += block
            if len(rest) > LONGEST_LINE:
                raise ValueError(
                    f"'{name}': found a line of more than {LONGEST_LINE:,} bytes. Allowed: shorter ones. Remove this "
                    f"corpus or name another version."
                )
            continue
        whole, rest = rest + block[:cut], block[cut:]
        if first:
            whole, first = whole.removeprefix(b"\xef\xbb\xbf"), False
        if whole:
            text = whole.decode("utf-8", errors="replace").replace("\r", "")
            yield INSIDE.sub(" ", text).removesuffix("\n").split("\n")
        if not block:
            return


def _batched(pieces: Iterator[list[str]]) -> Iterator[list[str]]:
    """The same lines, ROWS at a time."""
    held: list[str] = []
    for piece in pieces:
        held += piece
        for start in range(0, len(held) - ROWS + 1, ROWS):
            yield held[start : start + ROWS]
        held = held[len(held) // ROWS * ROWS :]
    if held:
        yield held
