"""What OPUS's API lists: the releases of a pair, which of them a name in the recipe means, and where the server is."""

import difflib
import itertools
import os
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, ValidationError

from pipelines.errors import UserError, quoted
from pipelines.fetching.transport import DownloadError, get_json
from pipelines.languages import Pair, opus_codes
from pipelines.registry import Strict

API = "https://opus.nlpl.eu/opusapi/"
NAME = r"[A-Za-z0-9][\w.+-]{0,99}"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
"""Part of a path below the store: what a server or a lock file says must not lead out of it."""
Format = Literal["moses", "tmx"]


class Release(Strict):
    """One package of one pair, as the lock file holds it."""

    corpus: Name
    version: Name
    package: Name
    """`en-zh_CN`: the server's codes in the server's order."""
    src: str
    """The server's code of `pair.src`."""
    tgt: str
    url: str
    format: Format = "moses"
    licence: str = ""
    etag: str = ""
    size: Annotated[int, Field(ge=0)] = 0
    sha256: str = ""
    """Empty where only a part was fetched: then ETag, size and `window` identify it."""
    rows: int | None = None
    """Segment pairs: counted where the whole file came, else as the server states them; None where nobody knows."""
    window: int | None = None
    """Rows whose beginnings were fetched; None where the whole file was."""

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.corpus, self.version, self.package)

    @property
    def name(self) -> str:
        """As in the `corpus` column."""
        return f"{self.corpus}/{self.version}"

    @property
    def content(self) -> tuple[Any, ...]:
        """What identifies the rows."""
        return (*self.identity, *((self.sha256,) if self.window is None else (self.etag, self.size)))


RELEASES = TypeAdapter(list[Release])
"""An entry of the lock file."""


def server() -> str:
    address = os.environ.get("OPUS_URL", "").strip() or API
    return address if urlsplit(address).path.strip("/") else address.rstrip("/") + "/opusapi/"


def offered(pair: Pair, format: Format) -> list["Offer"]:
    """All packages that the server has of `pair`, the usual codes of its languages first, each once."""
    out: dict[tuple[str, ...], Offer] = {}
    for src, tgt in itertools.product(*map(opus_codes, pair)):
        if src == tgt:  # of one language in two scripts: bitext is of two codes
            continue
        source, target = sorted((src, tgt))
        answer = get_json(server(), {"source": source, "target": target, "preprocessing": format})
        try:
            records = [
                record
                for record in answer["corpora"]
                if record["preprocessing"] == format and {record["source"], record["target"]} == {src, tgt}
            ]
            offers = [
                Offer(
                    corpus=record["corpus"],
                    version=record["version"],
                    package=f"{record['source']}-{record['target']}",
                    src=src,
                    tgt=tgt,
                    url=with_credentials(record["url"], server()),
                    format=format,
                    rows=_count(record.get("alignment_pairs")),
                    latest=str(record.get("latest")) == "True",
                )
                for record in records
                if re.fullmatch(NAME, record["corpus"]) and re.fullmatch(NAME, record["version"])
            ]
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            raise _no_opus(type(error).__name__ if isinstance(error, ValidationError) else repr(error)) from None
        for offer in offers:  # two languages that share a code find a package in either direction
            out.setdefault(offer.identity, offer)
    return list(out.values())


def with_credentials(url: str, server: str) -> str:
    """`url` with the user and password of the server's address, where it lies on the same host and has none."""
    try:
        file, api = urlsplit(url), urlsplit(server)
        same = (file.scheme, file.hostname, file.port) == (api.scheme, api.hostname, api.port)
    except ValueError:  # refused when it is fetched
        return url
    if not same or "@" in file.netloc or "@" not in api.netloc:
        return url
    return file._replace(netloc=f"{api.netloc.rpartition('@')[0]}@{file.netloc}").geturl()


def _count(stated: Any) -> int | None:
    """A number of rows, where it is one: a server may state anything."""
    text = str(stated)
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _no_opus(found: str) -> DownloadError:
    return DownloadError(
        f"{server()}: the answer is not that of an OPUS API: {quoted(found, 200)}. Needed: 'corpora', a list of "
        f"records. Check OPUS_URL."
    )


class Offer(Release):
    latest: bool = False


def chosen(offers: list[Offer], spec: str) -> list[Release]:
    """The release that `spec` means of each pair of codes: the one it names, else the latest."""
    corpus, _, version = spec.partition("/")
    best: dict[str, Offer] = {}
    for offer in offers:
        if offer.corpus == corpus and version in ("", offer.version):
            held = best.setdefault(offer.package, offer)
            if (offer.latest, _natural(offer.version)) > (held.latest, _natural(held.version)):
                best[offer.package] = offer
    return [Release.model_validate(offer.model_dump(exclude={"latest"})) for offer in best.values()]


def _natural(version: str) -> list[tuple[int, str]]:
    """`v10` after `v9`."""
    parts = re.split(r"([0-9]{1,18})", version)
    return [(int(part), "") if re.fullmatch("[0-9]+", part) else (-1, part) for part in parts]


def check_known(specs: list[str]) -> None:
    """ValueError where the server knows no corpus of a name: it may lack a pair, but a slip is not let pass."""
    if not specs:
        return
    answer = get_json(server(), {"corpora": "True"})
    names = answer.get("corpora", []) if isinstance(answer, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _no_opus("no list of names")
    for spec in specs:
        name = spec.partition("/")[0]
        if names and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UserError(
                f"opus.corpora: found '{spec}'. {hint}Allowed: a corpus of {server()}. Correct or remove it."
            )
