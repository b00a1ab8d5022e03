"""A store -> what its stages dropped and why: text tables, and a page with plots and rows to look at."""

from collections.abc import Sequence
from html import escape
from itertools import zip_longest
from typing import Any

from pipelines.errors import printable, quoted
from pipelines.report.flow import svg, total
from pipelines.storage.ledger import KEPT
from pipelines.storage.manifest import LedgerRow
from pipelines.storage.store import PER_PAIR, Store

DROPPING = tuple(asset for asset in PER_PAIR if asset not in ("raw_bitext", "instructions"))
"""The stages of bitext that drop rows."""
CONVERSING = {
    "instructions": "Instructions and tasks",
    "task_data": "Instructions and tasks",
    "training_mix": "Conversations in the training mix",
}
"""Titles of the stages that drop conversations, which are made of bitext or are data of their own."""
OVERLAPS = ("dev_overlap", "repeat")
"""Steps of the mix that drop conversations for what they say."""
SHOWN = 10  # dropped examples of a task, as text
WIDTH = 60  # characters of each side

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .2em .8em; border-bottom: 1px solid #8884; }
td { vertical-align: top; } td.n { text-align: right; font-variant-numeric: tabular-nums; } th { text-align: left; }
svg { max-width: 100%; height: auto; } summary { cursor: pointer; } :root { color-scheme: light dark; }
"""


def ledgers(store: Store) -> dict[str, list[LedgerRow]]:
    """{pair: ledger of all its stages that drop rows, one after the other}, of the pairs of which there is any."""
    found: dict[str, list[LedgerRow]] = {}
    for asset, pair in store.datasets():
        if asset in DROPPING and pair:
            found.setdefault(pair, []).extend(store.require(asset, pair).ledger)
    return found


def conversations(store: Store) -> dict[str, list[LedgerRow]]:
    """{title: ledger} of the stages that drop conversations; corpora are instruction types or tasks.

    The mix counts what it drops for what it says: bitext, caps and the budget are left out.
    """
    found = {title: list[list[LedgerRow]]() for title in CONVERSING.values()}
    for asset, pair in store.datasets():
        if asset in CONVERSING:
            rows = store.require(asset, pair).ledger
            if asset == "training_mix":
                rows = [row for row in rows if row.step in OVERLAPS and not row.corpus.startswith("bitext ")]
            found[CONVERSING[asset]].append(rows)
    return {title: total(rows) for title, rows in found.items() if any(row.dropped for own in rows for row in own)}


def examples(store: Store, asset: str, pair: str | None = None) -> list[dict[str, Any]]:
    """The rows to look at that a dataset dropped: step, corpus, src, tgt and score; none where it has no such."""
    manifest = store.manifest(asset, pair)
    if manifest is None:
        return []
    if "samples" not in manifest.rows:
        return manifest.samples.get("dropped", [])
    return [row for row in store.table(asset, pair, "samples").to_pylist() if row["step"] != KEPT]


def dropped_examples(store: Store) -> str:
    """SHOWN of the examples of each task that neither train nor are dev, as text: of every step about as many."""
    by_task: dict[str, dict[str, list[str]]] = {}
    for row in examples(store, "task_data"):
        if row["step"] != "dev":
            sides = " -> ".join(quoted(row[side], WIDTH) for side in ("src", "tgt"))
            lines = by_task.setdefault(row["corpus"], {}).setdefault(row["step"], [])
            lines.append(f"  {row['step']}: {sides}")
    out = []
    for task, steps in by_task.items():
        in_turn = [line for lines in zip_longest(*steps.values()) for line in lines if line is not None]
        out += [f"{task}, examples that were dropped:", *sorted(in_turn[:SHOWN])]
    return "\n".join(out)


def table(rows: Sequence[LedgerRow]) -> str:
    """One line a step and corpus as plain text; steps that changed and dropped nothing are left out."""
    lines = [("step", "corpus", "in", "changed", "dropped", "out")]
    lines += [
        (row.step, row.corpus, f"{row.into:,}", f"{row.changed:,}", f"{row.dropped:,}", f"{row.kept:,}")
        for row in rows
        if row.dropped or row.changed
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def page(store: Store) -> str:
    """A self-contained page: the flow of all pairs; then the flow, ledger and ten rows a step and corpus of each."""
    found, talks = ledgers(store), conversations(store)
    whole = total(list(found.values()))
    parts = [f"<h1>What was dropped, and why</h1><p>{_text(store.address)}</p>", svg(whole, "all pairs"), _rows(whole)]
    for pair, rows in found.items():
        dropped = sum(row.dropped for row in rows)
        parts.append(
            f"<details><summary>{_text(pair)}: {dropped:,} rows dropped</summary>{svg(rows, pair)}{_rows(rows)}"
            f"{_samples([row for asset in DROPPING for row in examples(store, asset, pair)])}</details>"
        )
    for title, ledger in talks.items():
        some = [
            row
            for asset, pair in store.datasets()
            if CONVERSING.get(asset) == title
            for row in examples(store, asset, pair)
        ]
        dropped = sum(row.dropped for row in ledger)
        parts.append(
            f"<details><summary>{title}: {dropped:,} dropped</summary>{_rows(ledger)}{_samples(some)}</details>"
        )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Drop ledger</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style><body>{"".join(parts)}</body></html>'
    )


def _rows(rows: Sequence[LedgerRow]) -> str:
    cells = [
        f"<tr><td>{_text(row.step)}<td>{_text(row.corpus)}"
        + "".join(f'<td class="n">{n:,}' for n in (row.into, row.changed, row.dropped, row.kept))
        for row in rows
        if row.dropped or row.changed
    ]
    return f"<table><tr><th>step<th>corpus<th>in<th>changed<th>dropped<th>out{''.join(cells)}</table>"


def _text(text: str) -> str:
    return escape(printable(text, keep_direction=True))


def _samples(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        score = "" if row["score"] is None else f"{row['score']:.3g}"
        texts = "".join(f'<td dir="auto">{_text(row[side])}' for side in ("src", "tgt"))
        cells.append(f'<tr><td>{_text(row["step"])}<td>{_text(row["corpus"])}{texts}<td class="n">{score}')
    return f"<table><tr><th>step<th>corpus<th>source<th>target<th>score{''.join(cells)}</table>"
