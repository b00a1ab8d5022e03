"""What OPUS's API lists: the releases of a pair, which of them a name in the recipe means, and where the server is."""

import difflib
import itertools
import os
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pipelines.download import DownloadError, get_json
from pipelines.errors import UserError
from pipelines.languages import Pair, opus_codes
from pipelines.registry import Strict

API = "https://opus.nlpl.eu/opusapi/"
NAME = r"[A-Za-z0-9][\w.+-]*"
Format = Literal["moses", "tmx"]


class Release(Strict):
    """One package of one pair, as the lock file holds it."""

    corpus: str
    version: str
    package: str
    """`en-zh_CN`: the server's codes in the server's order."""
    src: str
    """The server's code of `pair.src`."""
    tgt: str
    url: str
    format: Format = "moses"
    licence: str = ""
    etag: str = ""
    size: int = 0
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


def server() -> str:
    address = os.environ.get("OPUS_URL", "").strip() or API
    return address if urlsplit(address).path.strip("/") else address.rstrip("/") + "/opusapi/"


def offered(pair: Pair, format: Format) -> list["Offer"]:
    """All packages that the server has of `pair`, the usual codes of its languages first."""
    out = []
    for src, tgt in itertools.product(*map(opus_codes, pair)):
        source, target = sorted((src, tgt))
        answer = get_json(server(), {"source": source, "target": target, "preprocessing": format})
        try:
            records = [
                record
                for record in answer["corpora"]
                if record["preprocessing"] == format and {record["source"], record["target"]} == {src, tgt}
            ]
            out += [
                Offer(
                    corpus=record["corpus"],
                    version=record["version"],
                    package=f"{record['source']}-{record['target']}",
                    src=src,
                    tgt=tgt,
                    url=record["url"],
                    format=format,
                    rows=int(stated) if (stated := str(record.get("alignment_pairs", ""))).isdigit() else None,
                    latest=str(record.get("latest")) == "True",
                )
                for record in records
                if re.fullmatch(NAME, record["corpus"]) and re.fullmatch(NAME, record["version"])
            ]
        except (KeyError, TypeError) as error:
            raise DownloadError(
                f"{server()}: the answer is not that of an OPUS API: {error!r}. Needed: 'corpora', a list of records. "
                f"Check OPUS_URL."
            ) from None
    return out


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
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version)]


def check_known(specs: list[str]) -> None:
    """ValueError where the server knows no corpus of a name: it may lack a pair, but a slip is not let pass."""
    if not specs:
        return
    names = get_json(server(), {"corpora": "True"}).get("corpora", [])
    for spec in specs:
        name = spec.partition("/")[0]
        if names and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UserError(
                f"opus.corpora: found '{spec}'. {hint}Allowed: a corpus of {server()}. Correct or remove it."
            )
