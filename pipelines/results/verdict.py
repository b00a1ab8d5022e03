"""metrics.json -> whether aligning made the model better, for whom, and what speaks against believing it; in words."""

import re
from statistics import fmean
from typing import NamedTuple

from pipelines import languages
from pipelines.evals import Measure, Metric
from pipelines.results.comparison import LOW_RESOURCE
from pipelines.results.measures import measure, measure_of
from pipelines.results.measures import name as name_of
from pipelines.results.summary import (
    BETTER,
    SAME,
    SOURCE,
    TRANSFER,
    WORSE,
    Metrics,
    as_rate,
    at_layer,
    bounded,
    figure,
    groups,
    interval,
    keys_of,
    languages_of,
    mean,
    mean_key,
    paired_difference,
    percent,
    points,
    share,
    significance,
    significance_vs_chance,
    subject,
    value,
)

COLLAPSED = 0.25
"""Share of base's effective rank below which, at any layer, the representation counts as collapsed."""
CONTAMINATED = 0.01
"""Share of an eval's texts in the mix from which its figures are not to be believed."""
RUINED = 0.1
"""Share by which the pivot's loss may rise over control's before the pivot counts as ruined."""
INVALID = 0.1
"""Share of a task's answers in the required format, in the languages it was trained in, below which none count."""
GROUPS = {
    "pivot": "retention",
    "seen": "languages seen in alignment",
    "unseen": "languages not seen in alignment",
    "high": "high-resource languages",
    "low": "low-resource languages",
    SOURCE: "languages that the task was trained in",
    TRANSFER: "languages that the task was not trained in",
}
FLOORS = {
    "chance": "guessing", "constant": "always the same answer", "random": "a model of random weights",
    "ngrams": "shared characters alone", "copy": "copying the source",
}  # fmt: skip
NAMED = 2
"""Tasks that the headline names on either side, the rest are counted."""


class Group(NamedTuple):
    """What became of one group of languages by one metric."""

    group: str
    """A key of GROUPS; `pivot` is the language that all pairs share, by itself."""
    languages: list[str]
    key: str
    """`task/group/metric`."""
    aligned: Metric
    moved: Metric
    """Against control, or base where there is no control; a share of the other's figure where less is better."""
    word: str


class Verdict(NamedTuple):
    """The result in words."""

    tone: str
    """`better`, `mixed`, `worse` or `same`."""
    headline: str
    """One short sentence, without its full stop; what it rests on is in `sentences`."""
    sentences: list[str]
    guards: list[str] = []
    """What was found that no figure makes good: collapsed representation, contaminated mix, ruined English, invalid
    answers."""
    groups: list[Group] = []


def verdict(metrics: Metrics, pivot: str = "eng_Latn") -> Verdict:
    """Recall@1 against base and control, the pivot's loss and all other tasks against control; then the guards."""
    sentences: list[str] = []
    recall = _recall(metrics, sentences)
    loss = _loss(metrics, pivot, sentences)
    tasks = _tasks(metrics, sentences)
    tone, headline = _headline(recall, loss, tasks, languages.name(pivot))
    found = by_group(metrics, pivot)
    if suffered := _groups(found, metrics, sentences):
        tone = "mixed" if tone == "better" else tone
        headline += f", worse for {' and '.join(suffered)}"
    named: list[str] = []
    guards: list[str] = []
    for guard in (_collapsed, _contaminated, _ruined, _invalid):
        name, said = guard(metrics, pivot)
        if name:
            guards += [name]
            named += said
        else:
            sentences += said
    if guards:
        headline = f"{', '.join(guards)}: {headline[0].lower()}{headline[1:]}"
        tone = "worse" if "collapsed representation" in guards or tone == "worse" else "mixed"
    headline = headline[0].upper() + headline[1:]
    return Verdict(tone, headline, [*named, *sentences], guards, found)


def reference(metrics: Metrics) -> str:
    """What aligned is measured against: control, or base where there is none."""
    return "control" if metrics.get("control") else "base"


def is_result(task: str, metric: str) -> bool:
    """Whether a figure counts for the verdict: of retrieval and translation it is one alone."""
    return measure(task, metric).role == "result"


def by_group(metrics: Metrics, pivot: str = "eng_Latn") -> list[Group]:
    """Every metric of the pivot, and its mean over every group of languages of metrics.json, where it has such."""
    out = []
    against = reference(metrics)
    for task, metric, keys in groups(metrics):
        if not is_result(task, metric):
            continue
        what, own = measure(task, metric), f"{task}/{pivot}/{metric}"
        aligned, other = figure(metrics, "aligned", own), figure(metrics, against, own)
        if aligned and other and (diff := paired_difference(metrics, against, [own])):
            change = share(diff, other) if what.relative else diff
            out.append(
                Group(
                    "pivot", [pivot], own, aligned, change, significance_vs_chance(metrics, [own], aligned, diff, what)
                )
            )
        of_task = metrics.get("task_groups", {}).get(task, {})
        for group, langs in {**metrics.get("groups", {}), **of_task}.items():
            key = mean_key(keys, group)
            aligned = metrics.get("means", {}).get("aligned", {}).get(key)
            diff = metrics.get("differences", {}).get(f"aligned-{against}", {}).get(key)
            other = metrics.get("means", {}).get(against, {}).get(key)
            if not aligned or not diff or not other:
                continue
            change = share(diff, other) if what.relative else diff
            members = [item for item in keys if {*languages_of(item.split("/")[1])} <= {*langs, pivot}]
            out.append(
                Group(group, langs, key, aligned, change, significance_vs_chance(metrics, members, aligned, diff, what))
            )
    return out


def _headline(recall: str | None, loss: str | None, tasks: dict[str, str], name: str) -> tuple[str, str]:
    """(tone, headline) of what was found."""
    found = ({"finding translations": recall} if recall else {}) | tasks
    if loss == WORSE or (loss and not found):
        found[name] = loss
    better, worse = ([what for what, word in found.items() if word == wanted] for wanted in (BETTER, WORSE))
    tone = "mixed" if better and worse else "better" if better else "worse" if worse else "same"
    if not found:
        return tone, "Nothing to compare: the recipe's evals give no figure of this kind"
    if tone == "same":
        return tone, f"No effect of aligning can be told{': its text alone helped' if recall == 'text' else ''}"
    said = ", ".join(f"{word} at {_listed(which)}" for word, which in (("better", better), ("worse", worse)) if which)
    return tone, f"{said}, no harm to {name} found" if tone == "better" and loss == SAME else said


def _listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and 3 more`."""
    said = [*names[:NAMED], *([f"{len(names) - NAMED} more"] if len(names) > NAMED else [])]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def _recall(metrics: Metrics, sentences: list[str]) -> str | None:
    """What became of recall@1 at the trained layer, `text` where base but not control is beaten; appends it."""
    keys = keys_of(metrics, "retrieval", "recall@1")
    aligned = mean(metrics, "aligned", keys)
    if aligned is None:
        if keys:
            sentences.append("Recall@1 after aligning is not a number: the model is broken.")
        return WORSE if keys else None
    against = {name: other for name in ("base", "control") if (other := mean(metrics, name, keys))}
    diffs = {name: diff for name in against if (diff := paired_difference(metrics, name, keys))}
    text = f"Recall@1{at_layer(metrics)}"
    text += f", averaged over {len(keys)} pairs," if len(keys) > 1 else f" of {subject(keys[0])}"
    text += f" is {percent(aligned['value'])}{interval(aligned)} after aligning"
    parts = [
        f"{points(diff['value'])} {'above' if diff['value'] >= 0 else 'below'} {name}'s "
        f"{percent(against[name]['value'])}{interval(diff, ' points')}, {_word(diff, measure_of(keys[0]))}"
        for name, diff in diffs.items()
    ]
    text += "".join(f"{': ' if i == 0 else '; '}{part}" for i, part in enumerate(parts))
    sentences.append(f"{text}.{_baseline_sentence(metrics, keys)}")
    _regressions(metrics, keys, "pairs", sentences)
    found = {name: significance(diff) for name, diff in diffs.items()}
    if WORSE in found.values():
        return WORSE
    if found and all(item == BETTER for item in found.values()):
        return BETTER
    return "text" if found.get("base") == BETTER else SAME


def _loss(metrics: Metrics, pivot: str, sentences: list[str]) -> str | None:
    """The pivot's loss against control, or base where there is no control; appends what was found."""
    keys = keys_of(metrics, "loss", "nats_per_token")
    key, name = f"loss/{pivot}/nats_per_token", languages.name(pivot)
    if key not in keys:
        return None
    against = reference(metrics)
    aligned, other = figure(metrics, "aligned", key), figure(metrics, against, key)
    if aligned is None:
        sentences.append(f"{name} loss after aligning is not a number: the model is broken, worse.")
        return WORSE
    if other is None:
        return None
    diff = paired_difference(metrics, against, [key])
    change = share(diff, other) if diff else None
    text = f"{name} loss is {aligned['value']:.2f} nats per token"
    if change:
        side = "above" if change["value"] >= 0 else "below"
        text += f", {percent(abs(change['value']))} {side} {against}'s {other['value']:.2f}{interval(change)}"
    sentences.append(f"{text}, {_word(change, measure_of(key))}.")
    _regressions(metrics, [item for item in keys if item != key], "other languages", sentences)
    return significance(diff, lower_is_better=True)


def _tasks(metrics: Metrics, sentences: list[str]) -> dict[str, str]:
    """{task: word} of what is neither retrieval, loss nor a guard, by its mean over all languages."""
    out: dict[str, str] = {}
    against = reference(metrics)
    for task, metric, keys in groups(metrics):
        if (task, metric) in (("retrieval", "recall@1"), ("loss", "nats_per_token")) or not is_result(task, metric):
            continue
        aligned, other = (mean(metrics, name, keys) for name in ("aligned", against))
        diff = paired_difference(metrics, against, keys)
        if not aligned or not other or not diff:
            continue
        what, name = measure(task, metric), name_of(task, metric)
        out[name] = significance_vs_chance(metrics, keys, aligned, diff, what)
        change = (what.relative and share(diff, other)) or diff
        by, bounds = _size(change, what)
        text = f"{name}, averaged over {len(keys)}," if len(keys) > 1 else f"{name} of {subject(keys[0])}"
        text += f" is {_said(aligned, what)} after aligning, {by} {'above' if diff['value'] >= 0 else 'below'} "
        text += f"{against}'s{bounds}, {_word(change, what, out[name])}."
        sentences.append(text[0].upper() + text[1:] + _baseline_sentence(metrics, keys))
        _regressions(metrics, keys, "directions" if task == "translation" else "languages", sentences)
    return out


def _groups(found: list[Group], metrics: Metrics, sentences: list[str]) -> list[str]:
    """Append a sentence a group; returns the groups whose leading metric got worse, where not all of them did."""
    leading: dict[str, str] = {}
    parts = dict.fromkeys((row.group, tuple(row.languages)) for row in found)  # source languages differ between tasks
    for name, langs in sorted(parts, key=lambda part: list(GROUPS).index(part[0])):
        whose, said = GROUPS[name], ", ".join(map(languages.name, langs))
        rows = [row for row in found if (row.group, tuple(row.languages)) == (name, langs)]
        if name == "pivot":
            kept = "not retained" if any(row.word == WORSE for row in rows) else "retained as far as can be told"
            if any(not row.key.startswith("loss/") for row in rows):  # its loss alone has a sentence of its own
                rows.sort(key=lambda row: row.word != WORSE)
                sentences.append(f"{said} is {kept}: {'; '.join(_of_group(row) for row in rows)}.")
        else:
            sentences.append(f"{whose[0].upper()}{whose[1:]} ({said}): {'; '.join(_of_group(row) for row in rows)}.")
            if not rows[0].key.startswith("loss/"):
                leading[whose] = rows[0].word
    known = metrics.get("groups", {})
    if any(row.group != "pivot" for row in found):
        if known and "unseen" not in known:
            sentences.append("No language was measured that the alignment has not seen.")
        if "low" in known:
            sentences.append(
                f"Low-resource are languages with less than {_bound(LOW_RESOURCE)} of the rows of the largest in the "
                f"mix."
            )
    worse = [whose for whose, word in leading.items() if word == WORSE]
    return worse if len(worse) < len(leading) else []


def _of_group(row: Group) -> str:
    task, _, metric = row.key.split("/", 2)
    what = measure(task, metric)
    by, bounds = _size(row.moved, what)
    by += " up" if row.moved["value"] >= 0 else " down"
    return f"{name_of(task, metric)} {by}{bounds}, {_word(row.moved, what, row.word)}"


def _collapsed(metrics: Metrics, pivot: str) -> tuple[str, list[str]]:
    """Whether states of held-out text fill far fewer directions than base's at any layer, mean over languages."""
    ranks: dict[int, dict[str, list[float]]] = {}
    for key in sorted(metrics.get("aligned", {})):
        layer = re.fullmatch(r"representation/[^/]+/effective_rank/layer=(\d+)", key)
        pair = [value(metrics, name, key) for name in ("aligned", "base")] if layer else []
        if layer and None not in pair:
            found = ranks.setdefault(int(layer[1]), {"aligned": [], "base": []})
            for name, number in zip(found, pair, strict=True):
                found[name].append(float(number or 0))
    shares = {at: fmean(found["aligned"]) / fmean(found["base"]) for at, found in ranks.items() if any(found["base"])}
    if not shares or min(shares.values()) >= COLLAPSED:
        return "", []
    at = min(shares, key=lambda layer: (shares[layer], layer))
    return "collapsed representation", [
        f"Collapsed representation: at layer {at} the states of held-out text fill "
        f"{fmean(ranks[at]['aligned']):.1f} directions (effective rank, mean of {_languages_of(ranks[at])}), "
        f"{percent(shares[at])} of base's {fmean(ranks[at]['base']):.1f}; the bound is {_bound(COLLAPSED)}."
    ]


def _contaminated(metrics: Metrics, pivot: str) -> tuple[str, list[str]]:
    """How many texts of the evals the training mix holds, and whether they are too many."""
    found = metrics.get("contamination")
    if not found:
        return "", []
    counts = found["evals"].values()
    texts, exact, near = (sum(row[kind] for row in counts) for kind in ("texts", "exact", "near"))
    if not exact + near:
        return "", [f"None of {texts:,} eval texts stands in the training mix, exactly or nearly."]
    several = exact + near > 1
    text = f"{exact + near:,} of {texts:,} eval texts {'stand' if several else 'stands'} in the training mix, "
    text += f"{exact:,} exactly and {near:,} nearly"
    much = [name for name, row in found["evals"].items() if row["exact"] + row["near"] >= CONTAMINATED * row["texts"]]
    if much:
        text = f"Contaminated mix: {text}; the bound is {_bound(CONTAMINATED)} of the texts of {' or of '.join(much)}"
    return "contaminated mix" if much else "", [f"{text}.{_clean(metrics, found['without'])}"]


def _clean(metrics: Metrics, rest: Metrics) -> str:
    """What recall@1 is on the items that the mix does not hold."""
    keys = [key for key in keys_of(metrics, "retrieval", "recall@1") if key in rest.get("left_out", {})]
    against = reference(metrics)
    gone = sum(rest.get("left_out", {}).get(key, 0) for key in keys)
    sides = [mean(rest, name, keys) for name in ("aligned", against)] if keys else []
    if not keys:
        return ""
    a, b = sides
    if not a or not b:
        return f" Without them nothing is left of {len(keys)} figures of recall@1."
    pairs = f" of the {len(keys)} pairs concerned" if len(keys) > 1 else f" of {subject(keys[0])}"
    before = mean(metrics, "aligned", keys, "concerned")
    items = f"{gone:,} items" if gone > 1 else "item"
    text = f" Without the {items} concerned recall@1{pairs} is {percent(a['value'])}{interval(a)} after aligning"
    return (
        text
        + (f", with them {percent(before['value'])};" if before else ";")
        + (f" {against}'s is {percent(b['value'])}.")
    )


def _ruined(metrics: Metrics, pivot: str) -> tuple[str, list[str]]:
    """Whether the pivot's loss rose beyond the bound."""
    key, against, name = f"loss/{pivot}/nats_per_token", reference(metrics), languages.name(pivot)
    aligned, other = value(metrics, "aligned", key), value(metrics, against, key)
    if key not in metrics.get("aligned", {}) or other is None:
        return "", []
    if aligned is not None and (
        aligned / other - 1 <= RUINED
        or significance(paired_difference(metrics, against, [key]), lower_is_better=True) != WORSE
    ):
        return "", []
    by = "is not a number" if aligned is None else f"is {percent(aligned / other - 1)} above {against}'s"
    return f"ruined {name}", [f"Ruined {name}: its loss {by}; the bound is {_bound(RUINED)}."]


def _invalid(metrics: Metrics, pivot: str) -> tuple[str, list[str]]:
    """Whether a task's answers are not even in the required format in the languages that the task was trained in."""
    means = metrics.get("means", {}).get("aligned", {})
    shares = {key.split("/")[0]: means[key]["value"] for key in sorted(means) if key.endswith(f"/{SOURCE}/valid")}
    few = [f"{percent(share)} of the answers of {task}" for task, share in shares.items() if share < INVALID]
    if not few:
        return "", []
    return "invalid answers", [
        f"Invalid answers: {' and '.join(few)} are in the required format, in the languages that the "
        f"task was trained in; the bound is {_bound(INVALID)}. Its other figures say nothing: see the generations."
    ]


def _regressions(metrics: Metrics, keys: list[str], what: str, sentences: list[str]) -> None:
    """Append which of several subjects got worse than control; an average must not hide them."""
    against = reference(metrics)
    worse = []
    for key in keys:
        aligned, other = figure(metrics, "aligned", key), figure(metrics, against, key)
        lower = measure_of(key).lower_is_better
        if other and (aligned is None or significance(paired_difference(metrics, against, [key]), lower) == WORSE):
            worse.append(subject(key))
    if worse and len(keys) > 1:
        task, _, metric = keys[0].split("/", 2)
        kind = name_of(task, metric)
        which = f"all {len(keys)} {what}"
        if len(worse) < len(keys):
            which = f"{len(worse)} of {len(keys)} {what}: {', '.join(worse)}"
        sentences.append(f"{kind[0].upper()}{kind[1:]} is worse than {against}'s in {which}.")


def _baseline_sentence(metrics: Metrics, keys: list[str]) -> str:
    """A sentence of what is had without learning, `` where nothing was measured."""
    found = [
        (said, _said({"value": floor["value"]}, measure_of(keys[0])))
        for name, said in FLOORS.items()
        if (floor := mean(metrics, name, keys))
    ]
    if not found:
        return ""
    (first, value), *others = found
    text = ", ".join([f"{first} gives {value}", *(f"{said} {value}" for said, value in others)])
    return f" {text[0].upper()}{text[1:]}."


def _said(item: Metric, what: Measure) -> str:
    """`26.9 % (24.1 to 29.7 %)` of a rate, `45.3 (44.1 to 46.4)` of a score, `2.13 errors (1.90 to 2.36)` of others."""
    if what.rate:
        return f"{percent(item['value'])}{interval(item)}"
    if what.score:
        return f"{item['value']:.1f}{interval(as_rate(item, what), '')}"
    return f"{item['value']:.2f} {what.unit}{_bounds(item, '')}".replace("-", "−")


def _size(change: Metric, what: Measure) -> tuple[str, str]:
    """How large a change is, without its sign, and its interval, in the unit that it is told in."""
    if what.relative:
        return percent(abs(change["value"])), interval(change)
    if what.rate or what.score:
        change = as_rate(change, what)
        return points(change["value"]), interval(change, " points")
    return f"{abs(change['value']):.2f} {what.unit}", _bounds(change, "+").replace("-", "−")


def _bounds(item: Metric, sign: str) -> str:
    return f" ({item['low']:{sign}.2f} to {item['high']:{sign}.2f})" if bounded(item) else ""


def _word(diff: Metric | None, what: Measure, known: str = "") -> str:
    """What is `known`, or told: `better`, `worse`, or that neither can be told and how much could have been."""
    result = known or significance(diff, what.lower_is_better)
    if result != SAME:
        return result
    text = "which cannot be told apart from no change"
    if diff and (least := diff.get("detectable")):
        text += f" (one of {_size({'value': least}, what)[0]} would be, in 80 of 100 such tests)"
    return text


def _bound(share: float) -> str:
    return f"{share * 100:.0f}\u00a0%"


def _languages_of(found: dict[str, list[float]]) -> str:
    count = len(found["base"])
    return f"{count} language{'s' if count > 1 else ''}"
