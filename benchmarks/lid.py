"""Language identification on real text, ours beside two identifiers alone: python -m benchmarks.lid DATA [--out DIR].

DATA is a mirror of OPUS, whose NTREX (news in 124 languages) and interface strings are read, or a folder of files named
after their languages, one text a line, such as FLORES-200's `deu_Latn.devtest.txt`. Prints Markdown; with --out also
writes lid.md and lid.json there.

- `recall`: share of a language's texts that are accepted as it.
- `false`: share of the other languages' texts that are accepted as it, the same number of each.
- `ours` accepts a text as language X where the lid filter with its defaults would keep it as a side of a pair of X and
  English (of English and German for X = English). The identifiers alone accept it where their first answer is X, by any
  of its labels. Nobody is told which languages there are.
"""

import argparse
import importlib
import json
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.table import markdown
from pipelines.engine import parallel
from pipelines.filters.length_ratio import density
from pipelines.filters.lid import SURE, Identifiers, Lid, Short
from pipelines.filters.markup import bare
from pipelines.filters.script import share
from pipelines.languages import identifier_labels, iso, name, parse, script
from pipelines.schema import bitext_batch
from pipelines.text.normalise import normalised

ENGLISH, GERMAN = "eng_Latn", "deu_Latn"
MISLABELLED = {"nso_Latn": "sot_Latn"}  # NTREX-128: it says hore (411 times) and ho, never gore and go
INTERFACE = ("OpenStreetMap", "MATE", "Pontoon", "GnomeHelp", "Tatoeba")
SHORT_IN = {
    "deu", "spa", "fra", "ind", "ita", "pol", "por", "tur", "vie", "swh", "yor", "zul", "plt", "rus", "ukr", "tgk",
    "arb", "pes", "urd", "hin", "mar", "npi", "zho", "jpn", "tha",
}  # fmt: skip
LETTERS = (1, 5, 10, 20, 40)
ROWS, OTHERS, STRINGS, TURNS = 300, 10, 3_000, 5
EVERY, TIMES = (
    8,
    8,
)  # speed: of every eighth language, its texts eight times over, for a batch about as long as in `clean`
SYSTEMS = ("ours", "heliport", "lid.176.ftz")
KINDS = {"right": "own strings", "english": "English left untranslated", "others": "other languages of the script"}
POLICY = ("without", "with")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lid")
    parser.add_argument("data", type=Path, help="mirror of OPUS, or folder of text files named after languages")
    parser.add_argument("--out", type=Path, help="folder for lid.md and lid.json")
    parser.add_argument("--rows", type=int, default=ROWS, help="texts a language for recall (default %(default)s)")
    parser.add_argument("--others", type=int, default=OTHERS, help="texts of each other language (default %(default)s)")
    given = parser.parse_args(arguments)
    mirror = (given.data / "OPUS-NTREX").is_dir()
    texts = dict(ntrex(given.data) if mirror else files(given.data))
    if len(texts) < 2 or ENGLISH not in texts:
        raise ValueError(
            f"{given.data}: found texts in {sorted(texts)}. Allowed: a mirror of OPUS with NTREX, or files of two or "
            f"more languages, English among them, named like deu_Latn.txt. Give another folder."
        )
    tools = Lid().open()
    found: dict[str, Any] = {"rates": rates(tools, texts, given.rows, given.others), "speed": speed(tools, texts)}
    if mirror:
        found["short"] = short(tools, given.data)
    page = report(found, given.rows, given.others)
    print(page)
    if given.out:
        (given.out / "lid.md").write_text(page + "\n")
        (given.out / "lid.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return 0


# Texts.


def ntrex(mirror: Path) -> Iterator[tuple[str, list[str]]]:
    """Language and texts of NTREX's pairs with English; one file a language, the first of its codes."""
    seen: set[str] = set()
    for archive in sorted(mirror.glob("OPUS-NTREX/*/moses/*.zip")):
        sides = dict(moses(archive))
        for lang, lines in sides.items() if ENGLISH in sides else ():
            if lang not in seen:
                seen.add(lang)
                yield MISLABELLED.get(lang, lang), lines


def files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for file in sorted(folder.iterdir()):
        if file.is_file():
            yield parse(file.name.partition(".")[0]), [line for line in lines_of(file.read_text()) if line]


def moses(archive: Path) -> Iterator[tuple[str, list[str]]]:
    """The two languages of an archive of OPUS with their lines, empty ones included."""
    codes = archive.name.removesuffix(".txt.zip").split("-")
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            if (code := member.rpartition(".")[2]) in codes:
                yield parse(code), lines_of(opened.read(member).decode())


def lines_of(text: str) -> list[str]:
    """Normalised, as filters see them: heliport recognises .68 of NTREX's Yoruba as it comes and 1.0 of it in NFC."""
    return normalised(pa.array(text.removesuffix("\n").split("\n"))).to_pylist()


def spread(lines: list[str], rows: int) -> list[str]:
    """At most `rows` lines, evenly apart."""
    return lines[:: max(1, len(lines) // rows)][:rows]


# Recall and false positives.


def rates(tools: Identifiers, texts: dict[str, list[str]], rows: int, others: int) -> dict[str, dict[str, Any]]:
    """By language: whether an identifier knows it, and of each system recall, false positives and the worst of them."""
    few = {lang: spread(lines, others) for lang, lines in texts.items()}
    pool, owner = (
        pa.array([line for lines in few.values() for line in lines]),
        np.repeat(list(few), [len(lines) for lines in few.values()]),
    )
    found = {}
    answers = {system: answer(pool) for system, answer in alone(tools).items()}
    for lang in sorted(texts):
        sample = pa.array(spread(texts[lang], rows))
        accepted = {"ours": (ours(tools, sample, lang), ours(tools, pool, lang))}
        for system, answer in alone(tools).items():
            labels = pa.array(sorted(identifier_labels(lang)))
            accepted[system] = (taken(answer(sample), labels), taken(answers[system], labels))
        entry: dict[str, Any] = {"known": bool(tools.labels_of(lang))}
        for system, (own, all_) in accepted.items():
            shares = {other: float(all_[owner == other].mean()) for other in few if other != lang}
            worst = max(shares, key=lambda other: shares[other])
            entry[system] = {"recall": float(own.mean()), "false": mean(shares.values())}
            entry[system]["worst"] = {worst: shares[worst]} if shares[worst] else {}
        found[lang] = entry
    return found


def ours(tools: Identifiers, texts: pa.Array, lang: str, other: str = "", below: int = Short().below) -> np.ndarray:
    """Whether the lid filter would keep each text as a side in `lang` beside one in `other`."""
    other = other or (GERMAN if lang == ENGLISH else ENGLISH)
    return tools.sureness(bare(texts), lang, other, below).to_numpy(zero_copy_only=False) >= SURE


def alone(tools: Identifiers) -> dict[str, Callable[[pa.Array], pa.Array]]:
    """The first answer of each identifier to texts, as a label."""
    heliport, fasttext = tools.heliport, tools.fasttext
    assert heliport
    assert fasttext
    return {"heliport": heliport.answers, "lid.176.ftz": fasttext.answers}


def taken(answers: pa.Array, labels: pa.Array) -> np.ndarray:
    return pc.is_in(answers, value_set=labels).to_numpy(zero_copy_only=False)


# Short texts.


def short(tools: Identifiers, mirror: Path) -> list[dict[str, Any]]:
    """By language and length: the share of interface strings kept with and without the short-text policy.

    `right`: strings that differ from the English ones. `english`: the English strings in their place, of Latin
    languages. `others`: strings of the other languages of the script. Those of no letter and of another script are left
    out.
    """
    strings = interface(mirror)
    found = []
    for lang in strings:
        english, others = strings[lang].english, [
            line for other, lines in strings.items() if other != lang and script(other) == script(lang)
            if not identifier_labels(other) & identifier_labels(lang)
            for line in spread(lines.own, 200)
        ]  # fmt: skip
        kinds = {"right": strings[lang].own, "english": english if script(lang) == "Latn" else [], "others": others}
        for kind, lines in kinds.items():
            texts = pa.array(lines, pa.string())
            texts = texts.filter(pc.greater_equal(share(texts, lang), SURE))
            letters = pc.utf8_length(pc.replace_substring_regex(bare(texts), r"\P{L}+", "")).to_numpy() / density(lang)
            kept = {below: ours(tools, texts, lang, ENGLISH, below) for below in (0, Short().below)}
            for low, high in pairwise(LETTERS):
                inside = (letters >= low) & (letters < high)
                if inside.sum() >= 20:
                    shares = {
                        "without": float(kept[0][inside].mean()),
                        "with": float(kept[Short().below][inside].mean()),
                    }
                    found.append({"language": lang, "kind": kind, "letters": f"{low}-{high - 1}", **shares})
    return found


class Strings(NamedTuple):
    """Distinct interface strings of a language and, of the same rows, of English."""

    own: list[str]
    english: list[str]


def interface(mirror: Path) -> dict[str, Strings]:
    rows: dict[str, set[tuple[str, str]]] = {}
    for corpus in INTERFACE:
        for archive in sorted(mirror.glob(f"OPUS-{corpus}/*/moses/*.zip")):
            sides = dict(moses(archive))
            for lang in sides.keys() - {ENGLISH}:
                if ENGLISH in sides and iso(lang) in SHORT_IN:
                    both = zip(sides[lang], sides[ENGLISH], strict=True)
                    rows.setdefault(lang, set()).update((a, b) for a, b in both if a.casefold() != b.casefold())
    return {
        lang: Strings(*(spread(sorted({row[side] for row in rows[lang]}), STRINGS) for side in (0, 1)))
        for lang in sorted(rows)
    }


# Speed.


def speed(tools: Identifiers, texts: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Segments a second of the lid filter and of heliport's par_identify over the same texts, and their ratio.

    Ours as `clean` runs it, a few batches at a time; of pairs with English in the languages that an identifier knows,
    and in those that none knows. The two take turns;
    the rates are medians, the ratio is the median of the ratios of the turns.
    """
    item, heliport = Lid(), importlib.import_module("heliport").Identifier()
    found = {}
    for known in (True, False):
        langs = [
            lang
            for lang, lines in sorted(texts.items())
            if lang != ENGLISH and len(lines) == len(texts[ENGLISH])
            if bool(tools.labels_of(lang)) == known
        ]
        batches = [
            bitext_batch(texts[ENGLISH] * TIMES, texts[lang] * TIMES, ENGLISH, lang, "ntrex/v1")
            for lang in langs[::EVERY]
        ]
        if not batches:
            continue
        sides = [batch[side].to_pylist() for batch in batches for side in ("src", "tgt")]
        turns = [
            (
                clock(lambda: list(parallel(lambda batch: item.score(batch, tools), batches))),  # noqa: B023
                clock(lambda: [heliport.par_identify(side, ignore_confidence=True) for side in sides]),  # noqa: B023
            )
            for _ in range(TURNS)
        ]
        segments = sum(map(len, sides))
        found["known" if known else "unknown"] = {
            "segments": segments,
            "lid": segments / median(ours for ours, _ in turns),
            "par_identify": segments / median(theirs for _, theirs in turns),
            "ratio": median(theirs / ours for ours, theirs in turns),
        }
    return found


def clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# Report.


def report(found: dict[str, Any], rows: int, others: int) -> str:
    table = found["rates"]
    known = [lang for lang in table if table[lang]["known"]]
    parts = [
        "# Language identification on real text",
        f"`python -m benchmarks.lid`, whose first lines define the figures: up to {rows} texts of a language, and "
        f"{others} of each other. {len(known)} languages are known to an identifier; the other "
        f"{len(table) - len(known)} are judged by script and by not being English.",
        _rates({lang: table[lang] for lang in known}, "known languages"),
    ]
    if len(known) < len(table):
        parts.append(_rates({lang: table[lang] for lang in table if lang not in known}, "languages nobody knows"))
    parts += ["## Short texts", _short(found["short"])] if "short" in found else []
    lines = [
        [
            f"{kind} languages",
            f"{row['segments']:,}",
            f"{row['lid']:,.0f}",
            f"{row['par_identify']:,.0f}",
            f"{row['ratio']:.2f}",
        ]
        for kind, row in found["speed"].items()
    ]
    header = ["pairs with English", "segments", "lid, segments/s", "heliport's par_identify", "ratio"]
    return "\n\n".join([*parts, "## Speed", markdown(header, lines)])


def _rates(table: dict[str, dict[str, Any]], title: str) -> str:
    systems = list(SYSTEMS)
    header = [title, *(f"recall, {s}" for s in systems), *(f"false, {s}" for s in systems), "most of ours are"]
    mean_of = {(s, m): mean(entry[s][m] for entry in table.values()) for s in systems for m in ("recall", "false")}
    lines = [["**mean**", *(f"{mean_of[s, m]:.4f}" for m in ("recall", "false") for s in systems), ""]]
    for lang, entry in table.items():
        [(worst, share_)] = entry["ours"]["worst"].items() or [("", 0.0)]
        figures = [f"{entry[s][m]:.{digits}f}" for m, digits in (("recall", 3), ("false", 4)) for s in systems]
        lines.append([f"{name(lang)} ({lang})", *figures, f"{worst} {share_:.2f}" if worst else ""])
    return markdown(header, lines)


def _short(found: list[dict[str, Any]]) -> str:
    """Means over languages, then each language."""
    buckets = [f"{low}-{high - 1}" for low, high in pairwise(LETTERS)]
    header = ["share kept without -> with the policy, letters", *buckets]
    cells = {(row["language"], row["kind"], row["letters"]): row for row in found}
    means = []
    for kind, title in KINDS.items():
        by_length = [[row for row in found if (row["kind"], row["letters"]) == (kind, bucket)] for bucket in buckets]
        means.append(
            [
                f"**mean, {title}**",
                *(_change({k: mean(r[k] for r in some) for k in POLICY} if some else None) for some in by_length),
            ]
        )
    lines = [
        [f"{name(lang)}, {title}", *(_change(cells.get((lang, kind, bucket))) for bucket in buckets)]
        for lang in dict.fromkeys(row["language"] for row in found)
        for kind, title in KINDS.items()
        if any((lang, kind, bucket) in cells for bucket in buckets)
    ]
    return markdown(header, means + lines)


def _change(row: dict[str, Any] | None) -> str:
    return "–" if row is None else " -> ".join(f"{row[key]:.3f}" for key in POLICY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
