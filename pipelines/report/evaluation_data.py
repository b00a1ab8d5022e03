"""The tables of the corpus and of trainings on the evaluation page, read from the manifests of a store."""

import re
from collections.abc import Iterable
from typing import Any

from pipelines.config import Recipe
from pipelines.errors import printable
from pipelines.languages import Pair
from pipelines.report.evaluation_figures import language_tag
from pipelines.report.format import scalar
from pipelines.results.summary import subject_name
from pipelines.storage.manifest import MAIN, Manifest
from pipelines.storage.store import PER_PAIR, WHOLE, Store

Manifests = dict[tuple[str, str | None], Manifest]
"""{(asset, pair): manifest}."""
LOGS = {"base": "base_model", "control": "control_model", "aligned": "align_model"}
ROW_STAGES = {
    "raw_bitext": "collected",
    "clean_bitext": "clean",
    "deduped_bitext": "deduplicated",
    "decontaminated_bitext": "decontaminated",
    "instructions": "instructions",
}
BITEXT_STAGES = ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext")
SAMPLES = 4  # rows shown per reason to drop; of kept rows half as many per pair


def read_manifests(recipe: Recipe, store: Store) -> Manifests:
    """Every dataset of the store but the evaluation itself, in pipeline order."""
    assets: list[tuple[str, str | None]] = [(asset, str(pair)) for asset in PER_PAIR for pair in recipe.corpus.pairs]
    assets += [(asset, None) for asset in WHOLE if asset != "evaluation"]
    return {(asset, pair): found for asset, pair in assets if (found := store.manifest(asset, pair))}


def base_sentence(manifest: Manifest | None) -> str:
    """Which model was aligned."""
    kind, _, details = str(manifest.numbers.get("base", "") if manifest else "").partition(": ")
    if kind == "seed":
        return (
            f"The base is a seed model ({details or 'trained on the corpus'}). Its figures show whether alignment "
            f"works, not how good a full-sized model would be."
        )
    return f"The base is {details or kind or 'not recorded'}{f' ({kind})' if details else ''}."


def trainings(manifests: Manifests) -> dict[str, Any]:
    """The numbers of each training's manifest: steps, tokens, truncated texts, device ...; a row per number."""
    trained = {name: manifest for name, asset in LOGS.items() if (manifest := manifests.get((asset, None)))}
    names = dict.fromkeys(key for manifest in trained.values() for key in manifest.numbers if key != "base")
    rows = [
        (
            name.replace("_", " ").replace("/", ": "),
            [scalar(manifest.numbers.get(name)) for manifest in trained.values()],
        )
        for name in names
    ]
    return {"models": list(trained), "rows": rows}


def row_counts(recipe: Recipe, store: Store, manifests: Manifests) -> dict[str, Any]:
    """Rows of each pair at each stage, and in the mix."""
    stages = [name for name in ROW_STAGES if any(asset == name for asset, _ in manifests)]
    mix = manifests.get(("training_mix", None))
    parts, mixed = (list(mix.rows), _mix_counts(store, mix)) if mix else ([], {})
    rows: list[tuple[str, list[int | None]]] = []
    for pair in recipe.corpus.pairs:
        found = [manifests.get((stage, str(pair))) for stage in stages]
        cells = [manifest.rows.get(MAIN) if manifest else None for manifest in found]
        rows.append((subject_name(str(pair)), [*cells, *(mixed.get(str(pair), {}).get(part, 0) for part in parts)]))
    names = {str(pair) for pair in recipe.corpus.pairs}
    if others := [counts for pair, counts in mixed.items() if pair not in names]:
        rest: list[int | None] = [sum(counts.get(part, 0) for counts in others) for part in parts]
        rows.append(("Other", [*([None] * len(stages)), *rest]))
    total = [sum(cell or 0 for cell in column) for column in zip(*(cells for _, cells in rows), strict=True)]
    heads = [ROW_STAGES[name] for name in stages] + [f"in the mix: {part}" for part in parts]
    return {"heads": heads, "rows": rows, "total": total}


def _mix_counts(store: Store, mix: Manifest) -> dict[str, dict[str, int]]:
    """{pair: {part: rows}} of the training mix, counted in its shards."""
    import pyarrow as pa

    out: dict[str, dict[str, int]] = {}
    for part in mix.rows:
        for batch in store.batches("training_mix", part=part):
            columns = pa.table({side: batch[side] for side in ("src_lang", "tgt_lang")})
            for row in columns.group_by(["src_lang", "tgt_lang"]).aggregate([([], "count_all")]).to_pylist():
                pair = str(Pair(*sorted((row["src_lang"], row["tgt_lang"]))))
                counts = out.setdefault(pair, {})
                counts[part] = counts.get(part, 0) + row["count_all"]
    return out


def ledger_by_step(manifests: Manifests) -> list[dict[str, Any]]:
    """The ledger per step, summed over pairs and corpora."""
    sums: dict[tuple[str, str], list[int]] = {}
    for (asset, _), manifest in manifests.items():
        for row in manifest.ledger:
            counts = sums.setdefault((asset, row.step), [0, 0, 0])
            for place, number in enumerate((row.into, row.dropped, row.kept)):
                counts[place] += number
    return [
        {"stage": asset, "step": step, "into": into, "dropped": dropped, "kept": kept, "rest": into - dropped - kept}
        | {"share": f"{dropped / into * 100:.2f}" if into else "–"}
        for (asset, step), (into, dropped, kept) in sums.items()
    ]


def ledger_by_corpus(manifests: Manifests) -> dict[str, Any]:
    """The ledger per corpus and step of the bitext stages: into, dropped by each step, kept, and unaccounted."""
    steps: list[tuple[str, str]] = []
    into: dict[str, int] = {}
    dropped: dict[str, dict[tuple[str, str], int]] = {}
    left: dict[str, int] = {}
    for pair in dict.fromkeys(pair for _, pair in manifests):
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for asset in BITEXT_STAGES:
            manifest = manifests.get((asset, pair))
            for row in manifest.ledger if manifest else []:
                if (asset, row.step) not in steps:
                    steps.append((asset, row.step))
                first.setdefault(row.corpus, row.into)
                last[row.corpus] = row.kept
                counts = dropped.setdefault(row.corpus, {})
                counts[asset, row.step] = counts.get((asset, row.step), 0) + row.dropped
        for sums, ends in ((into, first), (left, last)):
            for corpus, number in ends.items():
                sums[corpus] = sums.get(corpus, 0) + number
    order = {asset: place for place, asset in enumerate(BITEXT_STAGES)}
    steps.sort(key=lambda step: order[step[0]])  # stable: the order of filters stays
    rows = []
    for corpus in sorted(into):
        lost = [dropped[corpus].get(step, 0) for step in steps]
        rest = into[corpus] - sum(lost) - left[corpus]
        rows.append({"corpus": corpus, "into": into[corpus], "lost": lost, "kept": left[corpus], "rest": rest})
    return {"steps": [step for _, step in steps], "rows": rows}


def _sides(pair: str, row: dict[str, Any]) -> list[dict[str, str]]:
    """Both texts of a sample with their language tags, which decide fonts and pronunciation."""
    codes = pair.split("-")
    return [
        {"text": str(row.get(side) or ""), "lang": language_tag(code)}
        for side, code in zip(("src", "tgt"), codes, strict=True)
    ]


def dropped_samples(manifests: Manifests) -> list[dict[str, Any]]:
    """A few dropped rows for each reason, from as many pairs as possible."""
    reasons: dict[str, list[list[dict[str, Any]]]] = {}
    for (asset, pair), manifest in manifests.items():
        if asset not in BITEXT_STAGES or pair is None:
            continue
        of_pair: dict[str, list[dict[str, Any]]] = {}
        for row in manifest.samples.get("dropped", []):
            score = row.get("score")
            shown = {
                "pair": subject_name(pair),
                "sides": _sides(pair, row),
                "score": "" if score is None else f"{score:.3g}",
            }
            of_pair.setdefault(str(row.get("reason")), []).append(shown)
        for reason, rows in of_pair.items():
            reasons.setdefault(reason, []).append(rows)
    return [{"reason": reason, "rows": _interleaved(rows, SAMPLES)} for reason, rows in reasons.items()]


def kept_samples(manifests: Manifests) -> list[dict[str, Any]]:
    """A few rows of each pair that reached training."""
    last = next((asset for asset in reversed(BITEXT_STAGES) if any(name == asset for name, _ in manifests)), None)
    return [
        {"pair": subject_name(pair), "sides": _sides(pair, row), "score": ""}
        for (asset, pair), manifest in manifests.items()
        if asset == last and pair
        for row in manifest.samples.get("kept", [])[: SAMPLES // 2]
    ]


def instruction_samples(manifests: Manifests) -> list[dict[str, Any]]:
    """One instruction of each pair: prompt and response, each in whichever language it is."""
    return [
        {
            "pair": subject_name(pair),
            "sides": [{"text": str(row.get(side) or ""), "lang": ""} for side in ("src", "tgt")],
        }
        for (asset, pair), manifest in manifests.items()
        if asset == "instructions" and pair
        for row in manifest.samples.get("kept", [])[:1]
    ]


def _interleaved(lists: list[list[dict[str, Any]]], most: int) -> list[dict[str, Any]]:
    """The first of each list, then the second of each, up to `most`."""
    longest = max(map(len, lists), default=0)
    return [rows[turn] for turn in range(longest) for rows in lists if turn < len(rows)][:most]


def corpora(manifests: Manifests) -> list[dict[str, Any]]:
    """Provenance of every corpus, with what it was used for."""
    uses: dict[str, set[str]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for (asset, _), manifest in manifests.items():
        for corpus, known in manifest.corpora.items():
            uses.setdefault(corpus, set()).add("evaluation" if asset == "eval_text" else "training")
            facts.setdefault(corpus, {}).update({key: value for key, value in known.items() if value})
    out = []
    for corpus in sorted(facts):
        known = {key: printable(facts[corpus].get(key, "")) for key in ("version", "licence", "citation", "url")}
        known["link"] = known["url"] if re.match(r"https?://", known["url"]) else ""
        out.append({"corpus": printable(corpus), "use": ", ".join(sorted(uses[corpus], reverse=True)), **known})
    return out


def cost(manifests: Manifests, spent: tuple[float, int] | None) -> dict[str, Any]:
    """Seconds (summed over pairs), peak memory (the highest) and bytes of each stage."""
    rows = []
    for asset in dict.fromkeys(asset for asset, _ in manifests):
        parts = [manifest for (name, _), manifest in manifests.items() if name == asset]
        rows.append(
            {
                "stage": asset,
                "seconds": sum(part.seconds for part in parts),
                "peak": max(part.peak_memory_bytes for part in parts),
                "bytes": sum(part.bytes for part in parts),
            }
        )
    if spent:
        rows.append({"stage": "evaluation", "seconds": spent[0], "peak": spent[1], "bytes": None})
    order: Iterable[str] = ("eval_text", *PER_PAIR, *WHOLE)
    rows.sort(key=lambda row: list(order).index(row["stage"]))
    seconds = sum(row["seconds"] for row in rows)
    return {"rows": rows, "seconds": seconds, "peak": max((row["peak"] for row in rows), default=0)}
