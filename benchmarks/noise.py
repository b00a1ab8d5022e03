"""Planted noise through a recipe's filters and dedup: what is caught, and what is lost of the clean rows.

python -m benchmarks.noise [RECIPE] [--mirror MIRROR] [--out DIR]

The sample plants its own noise. With MIRROR, a folder in the layout of an OPUS server, the same kinds are planted in
clean real text (news and health: CORPORA), 3 % of the rows each. Caught is a noisy row that no stage up to
deduped_bitext keeps; of a duplicate and its original either may stay. Lost is a clean row that a filter drops (of what
dedup drops the real text has some itself; tico-19's French is not taken, as its lines are shifted). Wrong length is
two or three characters, or other sentences added to five times the length. Which rows the sample's near duplicates
repeat is not known here: benchmarks.dedup measures such. RECIPE, by default sample.yaml, says which filters and which
dedup.
"""

import argparse
import json
import random
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa

from benchmarks.table import markdown
from pipelines.config import Recipe, read_recipe
from pipelines.languages import Pair, name, opus_codes, parse, spaceless
from pipelines.schema import bitext_batch
from pipelines.sources.sample import Noise, Sample
from pipelines.stages import clean, dedup
from pipelines.storage.store import Store
from pipelines.text.normalise import normalised

CORPORA = ("WMT-News", "tico-19", "NTREX")
SHIFTED = {("tico-19", "fr")}
"""Corpora of a language whose rows are no translations: what filters drop of them is rightly dropped."""
LANGUAGES = (
    *("ar", "bn", "cs", "de", "es", "fa", "fr", "ha", "hi", "id", "ja", "km"),
    *("my", "pl", "ps", "pt", "ro", "ru", "sw", "ta", "tr", "ur", "zh", "zu"),
)
KINDS = tuple(Noise.model_fields)
SHARE = 0.03
ROWS = 6_000  # of a real pair at most
Rows = list[tuple[str, str]]
Origins = dict[tuple[str, str], tuple[str, str]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", nargs="?", default="sample.yaml")
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--out", type=Path, help="folder for noise.md and noise.json")
    options = parser.parse_args(arguments)
    recipe = read_recipe(options.recipe)
    found = {"sample": {}, "real": {}}
    for pair in read_recipe("sample.yaml").corpus.pairs:
        found["sample"][str(pair)] = judged(recipe, pair, *sample(pair), {})
    if options.mirror:
        texts = {code: real(options.mirror, code) for code in LANGUAGES}
        for code in LANGUAGES:
            pair = Pair.parse(["en", code])
            found["real"][str(pair)] = judged(recipe, pair, *planted(texts, code, pair))
    text = report(found, [item.name for item in recipe.corpus.filters])
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "noise.md").write_text(text + "\n")
        (options.out / "noise.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


def sample(pair: Pair) -> tuple[Rows, list[str]]:
    """The sample's rows of a pair with every noise, and the label of each."""
    source = Sample(rows=8_000, noise=Noise.model_validate(dict.fromkeys(KINDS, SHARE)))
    rows, labels = [], []
    for batch, kinds in source.labelled(pair):
        rows += zip(batch["src"].to_pylist(), batch["tgt"].to_pylist(), strict=True)
        labels += kinds
    return rows, labels


def real(mirror: Path, code: str) -> Rows:
    """English and the other language, of the clean corpora, each pair once."""
    rows: dict[tuple[str, str], None] = {}
    for corpus in CORPORA:
        if (corpus, code) in SHIFTED:
            continue
        for own in opus_codes(parse(code)):
            names = sorted(("en", own))
            for file in sorted(mirror.glob(f"OPUS-{corpus}/*/moses/{'-'.join(names)}.txt.zip")):
                with zipfile.ZipFile(file) as package:
                    members = [
                        next(n for n in package.namelist() if n.endswith(f".{'-'.join(names)}.{side}"))
                        for side in ("en", own)
                    ]
                    sides = [package.read(member).decode().split("\n")[:-1] for member in members]
                rows |= dict.fromkeys((a, b) for a, b in zip(*sides, strict=True) if len(a) > 20)
    return list(rows)


def planted(texts: dict[str, Rows], code: str, pair: Pair) -> tuple[Rows, list[str], Origins]:
    """Rows of a pair in sorted order, with noise of every kind, the label of each, and what near duplicates repeat."""
    rng = random.Random(f"{code} noise")
    held = list(texts[code])
    rng.shuffle(held)
    held = held[:ROWS]
    count = round(SHARE * len(held))
    by_length = sorted(range(len(held)), key=lambda i: len(held[i][0]))
    place = {row: at for at, row in enumerate(by_length)}
    rows, labels, origins = [], [], {}
    for at, (english, other) in enumerate(held):
        kind = KINDS[at // count] if at < count * len(KINDS) else "clean"
        row = (english, other)
        if kind == "untranslated":
            row = (english, english)
        elif kind == "wrong_language":
            third = rng.choice([language for language in texts if language != code])
            row = (english, rng.choice(texts[third])[1])
        elif kind == "swapped":
            row = (other, english)
        elif kind == "length":
            longer = other
            while len(longer) < 5 * len(other):
                longer += f" {rng.choice(held)[1]}"
            row = (english, other[: rng.choice((2, 3))] if rng.random() < 0.5 else longer)
        elif kind == "markup":
            tags = [f'<span class="c{rng.randrange(99)}">', "</span>", "{{name}}", "<br/>", "&nbsp;", "%(count)s"]
            marked = "".join(f"{rng.choice(tags)}{rng.choice(tags)}{word} " for word in pieces(other, code))
            row = (english, marked)
        elif kind == "misaligned":
            near = by_length[min(len(held) - 1, place[at] + rng.randrange(1, 20))]
            row = (english, held[near][1] if near != at else held[by_length[place[at] - 1]][1])
        elif kind in ("duplicate", "near_duplicate"):
            row = held[count * len(KINDS) + rng.randrange(len(held) - count * len(KINDS))]
            if kind == "near_duplicate":
                original, row = row, (row[0].rstrip(".") + " 7", row[1].rstrip(".。।") + " 7")
                origins[row] = original
        rows.append(row)
        labels.append(kind)
    # what is copied comes first, what copies it last; all else is shuffled
    order = sorted(range(len(rows)), key=lambda i: (labels[i] in ("duplicate", "near_duplicate"), rng.random()))
    if pair.src != "eng_Latn":
        rows = [row[::-1] for row in rows]
        origins = {copy[::-1]: original[::-1] for copy, original in origins.items()}
    return [rows[i] for i in order], [labels[i] for i in order], origins


def pieces(text: str, code: str) -> list[str]:
    """Words, or four characters at a time where the script has no spaces."""
    return [text[i : i + 4] for i in range(0, len(text), 4)] if spaceless(parse(code)) else text.split()


def judged(recipe: Recipe, pair: Pair, rows: Rows, labels: list[str], origins: Origins) -> dict:
    """Planted and caught rows by kind; clean rows and those a filter dropped, by filter."""
    corpus = {"pairs": [pair], "sources": [{"opus": {"corpora": ["planted"]}}], "filters": recipe.corpus.filters}
    made = Recipe.model_validate({"name": "noisy", "corpus": {**corpus, "dedup": recipe.corpus.dedup}})
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store", "noisy")
        with store.writing("raw_bitext", pair) as out:
            # the corpus is the label: it goes with a row wherever that goes
            for at in range(0, len(rows), 2_000):
                src, tgt = zip(*rows[at : at + 2_000], strict=True)
                batch = bitext_batch(list(src), list(tgt), *pair, "")
                kinds = batch.schema.field("corpus").type
                out.write(batch.set_column(4, batch.schema.field("corpus"), pa.array(labels[at : at + 2_000], kinds)))
            out.commit("planted", {})
        clean.run(made, store, pair)
        dedup.run(made, store, pair)
        table = store.table("deduped_bitext", pair)
        kept = Counter(table["corpus"].to_pylist())
        texts = set(zip(table["src"].to_pylist(), table["tgt"].to_pylist(), strict=True))
        rejected = store.table("clean_bitext", pair, "rejected").to_pylist()
    whole = Counter(labels)
    kept["duplicate"] = table.num_rows - len(texts)
    kept["near_duplicate"] = sum({plain(copy), plain(original)} <= texts for copy, original in origins.items())
    lost = Counter(row["reason"] for row in rejected if row["corpus"] == "clean")
    return {
        "planted": {kind: whole[kind] for kind in KINDS},
        "caught": {kind: whole[kind] - kept[kind] for kind in KINDS},
        "clean": whole["clean"],
        "lost": lost.total(),
        "lost_by": dict(lost),
    }


def plain(row: tuple[str, str]) -> tuple[str, str]:
    """The row as the filters have it."""
    return tuple(normalised(pa.array(row)).to_pylist())  # type: ignore[return-value]


def report(found: dict[str, dict], filters: list[str]) -> str:
    parts = [f"Filters: {', '.join(filters)}; then dedup. Recall by kind of noise; last, clean rows lost to filters."]
    for what, pairs in found.items():
        if not pairs:
            continue
        lines = []
        for pair, numbers in pairs.items():
            other = next(lang for lang in Pair.parse(pair) if lang != "eng_Latn")
            kinds = [kind for kind in KINDS if what == "real" or kind != "near_duplicate"]
            shares = [numbers["caught"][kind] / max(1, numbers["planted"][kind]) for kind in kinds]
            lost = numbers["lost"] / numbers["clean"]
            lines.append([name(other), *(f"{100 * share:.1f} %" for share in shares), f"{100 * lost:.2f} %"])
        header = [f"{what}, English and", *(kind.replace("_", " ") for kind in kinds), "clean rows lost"]
        parts.append(markdown(header, lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
