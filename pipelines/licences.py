"""What a corpus states as its licence and the recipe's allow-list -> whether the corpus may be trained on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pipelines.errors import UserError

ASIDE = re.compile(r"\([^()]*\)")
ALL_HOLD = re.compile(r"\s*[;,]\s*|\s+(?:/|and)\s+")
ONE_HOLDS = re.compile(r"\s+or\s+")


def allowed(stated: str, licences: Sequence[str] | None) -> bool:
    """Whether every licence in `stated` matches one of the globs `licences`; None allows all. Case does not matter.

    Statements are those of people: `CC0-1.0 (translations); PSF-2.0 (documentation)`. What stands in brackets is left
    out; of the parts between `;`, `,`, ` / ` and ` and ` each holds for some of the texts, so each must be allowed, of
    those between ` or ` one. A glob is compared with a part and with its first word, as in `GPL-2.0 or later`, and may
    also be the whole statement, word by word.
    """
    if licences is None:
        return True
    globs = [glob.casefold().strip() for glob in licences]
    whole = " ".join(stated.casefold().split())
    if whole in globs:
        return True
    parts = [part for part in ALL_HOLD.split(ASIDE.sub(" ", whole)) if part.strip()]
    return bool(parts) and all(
        any(_matches(choice.strip(), globs) for choice in ONE_HOLDS.split(part)) for part in parts
    )


def require(corpora: Mapping[str, Mapping[str, Any]], licences: Sequence[str] | None, where: str) -> None:
    """ValueError where one of `corpora`, {name: provenance}, must not be trained on."""
    refused = [
        f"{name}: {facts['licence']}" for name, facts in corpora.items() if not allowed(facts["licence"], licences)
    ]
    if refused:
        raise UserError(
            f"corpus.licences, {where}: found {'; '.join(refused)}. Allowed: {', '.join(licences or ())}. Allow the "
            f"licence, or take the data from another source."
        )


def gathered(found: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The provenance of several datasets as one: what they say of one corpus has all its files and all its licences."""
    out: dict[str, dict[str, Any]] = {}
    for corpora in found:
        for name, facts in corpora.items():
            known = out.setdefault(name, {**facts, "files": []} if "files" in facts else dict(facts))
            if facts["licence"] not in known["licence"].split("; "):
                known["licence"] += f"; {facts['licence']}"
            if more := [file for file in facts.get("files", ()) if file not in known.get("files", ())]:
                known["files"] = [*known.get("files", ()), *more]
    return out


def _matches(part: str, globs: Iterable[str]) -> bool:
    names = {" ".join(part.split()), part.split(maxsplit=1)[0]} if part else set()
    return any(fnmatchcase(name, glob) for name in names for glob in globs)
