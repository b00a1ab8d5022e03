"""A data card in the hub's format: what the training mix holds and where it is from -> README.md beside its shards.

Source: the card's keys, https://huggingface.co/docs/hub/datasets-cards#dataset-card-metadata.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from pipelines import languages
from pipelines.config import Recipe
from pipelines.errors import printable, quoted
from pipelines.storage.manifest import LedgerRow

FILE = "README.md"
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LOCAL = re.compile(r"(?:^|(?<=\s))(?:file:/+|~[\w.-]*/|[A-Za-z]:[\\/]|/|(?:\.\./)+)(?=\S)([^\n]*)")
"""A path of this machine, from where it begins to the end of the line."""
LONGEST_CELL = 1000  # characters
ESCAPES = {
    "&": "&amp;", "<": "&lt;", "|": "\\|", "[": "\\[", "\\": "&#92;", "`": "&#96;", "*": "&#42;", "~": "&#126;",
}  # fmt: skip
"""What Markdown and HTML would obey within a cell."""
PARTS = {
    "bitext": "segment pairs: src, tgt, their languages and corpus",
    "instructions": "conversations: messages, the languages, corpus and template",
    "tasks": "conversations of tasks",
    "dev": "segment pairs that train nothing: no segment of theirs is in any other part",
    "tasks_dev": "conversations of tasks that train nothing",
}


def card(
    recipe: Recipe,
    rows: Mapping[str, int],
    numbers: Mapping[str, Any],
    corpora: Mapping[str, Mapping[str, Any]],
    ledger: Iterable[LedgerRow] = (),
) -> str:
    """The card of a mix; rows by part, numbers, provenance and ledger are those of its manifest."""
    listed = public(sources(corpora, numbers))
    dropped: dict[str, int] = {}
    for row in ledger:
        dropped[row.step] = dropped.get(row.step, 0) + row.dropped
    parts = [{"part": name, "rows": count, "what": PARTS.get(name, "")} for name, count in rows.items()]
    receipt = [
        {"kind": row["kind"], "pair": row["pair"], "available": row["available"], "taken": row["taken"]}
        for row in numbers.get("receipt", ())
    ]
    out = [
        front_matter(_metadata(recipe, rows, listed)),
        f"# Training mix of {cell(recipe.name)}",
        "Parallel text and cross-lingual instructions to align the languages of a multilingual language model, made by "
        f"Isogloss: {', '.join(map(languages.name, recipe.corpus.languages))}.",
        "## What it holds",
        table(parts),
        "```python\nfrom datasets import load_from_disk\n\nmix = load_from_disk('training_mix')\n```",
        "## Where it is from",
        "Licences are those that the corpora state; which of them bind what is made of the mix is for its users to "
        "judge. Every row names its corpus.",
        table(listed) if listed else "The mix names no corpus.",
        "## How it was made",
        "Collected, filtered, deduplicated exactly and nearly, and decontaminated: what holds a text of the recipe's "
        "evals was dropped. Rows of each pair and kind that were there, and that the budget took:",
        table(receipt) if receipt else "The mix has no receipt.",
        *(["Rows not taken, and why:", table([{"step": step, "rows": n} for step, n in dropped.items()])]
          if dropped else []),
        "## Known limits",
        "The text is as its sources have it: it may hold personal data, bias and errors, and wrong translations that "
        "no filter found. Languages have as many rows as the budget gives them, not as many as their speakers.",
        "<details><summary>The recipe, with all defaults</summary>",
        fenced(public(recipe.resolved())),
        "</details>",
    ]  # fmt: skip
    return "\n\n".join(out) + "\n"


def sources(corpora: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{corpus, version, licence, rows, url, citation} of every corpus of a mix, rows of all kinds together."""
    taken: dict[str, int] = {}
    for row in numbers.get("receipt_corpora", ()):
        taken[row["corpus"]] = taken.get(row["corpus"], 0) + row["taken"]
    return [
        {
            "corpus": name,
            "version": facts.get("version", ""),
            "licence": facts.get("licence") or "not stated",
            "rows": taken.get(name, 0),
            "url": facts.get("url", ""),
            "citation": facts.get("citation", ""),
        }
        for name, facts in sorted(corpora.items())
    ]


def public(item: Any) -> Any:
    """JSON without what a path tells of the machine it lies on: of each local path its last component is left."""
    if isinstance(item, Mapping):
        return {key: public(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [public(value) for value in item]
    return (
        LOCAL.sub(lambda found: re.split(r"[/\\]", found[1].rstrip("/\\"))[-1], item) if isinstance(item, str) else item
    )


def _metadata(recipe: Recipe, rows: Mapping[str, int], listed: list[dict[str, Any]]) -> dict[str, Any]:
    """The YAML in front. The licence is `other`: those of the corpora decide, and they are many."""
    total = sum(rows.values())
    tasks = ["translation", *(["text-generation"] if rows.get("instructions") or rows.get("tasks") else [])]
    return {
        "language": sorted({languages.alpha2(code) for code in recipe.corpus.languages}),
        "license": "other",
        "data_licences": sorted({row["licence"] for row in listed}),
        "pretty_name": f"Isogloss training mix of {recipe.name}",
        "size_categories": [next((name for most, name in SIZES if total < most), "n>10M")],
        "task_categories": tasks,
        "multilinguality": "translation",
        "tags": ["isogloss", "parallel-corpus", "cross-lingual-alignment"],
        "configs": [{"config_name": part, "data_files": f"{part}/data-*.arrow"} for part in rows],
    }


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Mappings of the same keys as a table of Markdown."""
    listed = list(rows)
    lines = [list(listed[0]), ["---"] * len(listed[0]), *(map(cell, row.values()) for row in listed)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value that cannot leave its cell: corpora say what they like of themselves."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "".join(ESCAPES.get(char, char) for char in quoted(value, LONGEST_CELL))


def front_matter(metadata: Mapping[str, Any]) -> str:
    """The YAML in front of a card."""
    return "---\n" + yaml.safe_dump(_shown(metadata), sort_keys=False, allow_unicode=True) + "---"


def fenced(item: Any) -> str:
    """JSON as a block of YAML; the fence is longer than every row of backticks in it."""
    text = yaml.safe_dump(_shown(item), sort_keys=False, allow_unicode=True)
    fence = "`" * max(4, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"


def _shown(item: Any) -> Any:
    """JSON with all its texts printable."""
    if isinstance(item, Mapping):
        return {_shown(key): _shown(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_shown(value) for value in item]
    return printable(item) if isinstance(item, str) else item
