"""A store -> what its stages dropped and why: text tables, and a page with plots and example rows."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from pipelines.errors import quoted
from pipelines.report.flow import svg, total
from pipelines.report.page import render, safe_svg
from pipelines.storage.ledger import KEPT
from pipelines.storage.manifest import LedgerRow
from pipelines.storage.store import PER_PAIR, Store

DROPPING = tuple(asset for asset in PER_PAIR if asset not in ("raw_bitext", "instructions"))
"""The stages of bitext that drop rows."""
CONVERSATION_STAGES = {
    "instructions": "Instructions and tasks",
    "task_data": "Instructions and tasks",
    "training_mix": "Conversations in the training mix",
}
"""{stage that drops conversations: title}."""
OVERLAPS = ("dev_overlap", "repeat")
"""Steps of the mix that drop conversations for their content."""
SHOWN = 10  # dropped examples of a task, as text
WIDTH = 60  # characters of each side


def ledgers(store: Store) -> dict[str, list[LedgerRow]]:
    """{pair: ledger of all its stages that drop rows, in pipeline order}."""
    out: dict[str, list[LedgerRow]] = {}
    for asset, pair in store.datasets():
        if asset in DROPPING and pair:
            out.setdefault(pair, []).extend(store.require(asset, pair).ledger)
    return out


def conversations(store: Store) -> dict[str, list[LedgerRow]]:
    """{title: ledger} of the stages that drop conversations; corpora are instruction types or tasks.

    Of the mix only what is dropped for its content counts: bitext, caps and the budget are left out.
    """
    found = {title: list[list[LedgerRow]]() for title in CONVERSATION_STAGES.values()}
    for asset, pair in store.datasets():
        if asset in CONVERSATION_STAGES:
            rows = store.require(asset, pair).ledger
            if asset == "training_mix":
                rows = [row for row in rows if row.step in OVERLAPS and not row.corpus.startswith("bitext ")]
            found[CONVERSATION_STAGES[asset]].append(rows)
    return {title: total(rows) for title, rows in found.items() if any(row.dropped for own in rows for row in own)}


def examples(store: Store, asset: str, pair: str | None = None) -> list[dict[str, Any]]:
    """Examples of the rows that a dataset dropped: {step, corpus, src, tgt, score}."""
    manifest = store.manifest(asset, pair)
    if manifest is None:
        return []
    if "samples" not in manifest.rows:
        return [{"step": row.get("reason"), "corpus": "", **row} for row in manifest.samples.get("dropped", [])]
    return [row for row in store.table(asset, pair, "samples").to_pylist() if row["step"] != KEPT]


def dropped_examples(store: Store) -> str:
    """SHOWN examples of each task that are neither in training nor dev, as text: about as many of every step."""
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
    """One line per step and corpus as plain text; steps that changed and dropped nothing are left out."""
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
    """A self-contained page: the flow of all pairs, then of each pair its flow, ledger and examples."""
    pairs = ledgers(store)
    parts = [
        {
            "title": pair,
            "unit": "rows",
            "dropped": sum(row.dropped for row in ledger),
            "flow": safe_svg(svg(ledger, pair)),
            "ledger": ledger,
            "examples": [row for asset in DROPPING for row in examples(store, asset, pair)],
        }
        for pair, ledger in pairs.items()
    ]
    for title, ledger in conversations(store).items():
        datasets = [dataset for dataset in store.datasets() if CONVERSATION_STAGES.get(dataset[0]) == title]
        parts.append(
            {
                "title": title,
                "unit": "conversations",
                "dropped": sum(row.dropped for row in ledger),
                "flow": "",
                "ledger": ledger,
                "examples": [row for asset, pair in datasets for row in examples(store, asset, pair)],
            }
        )
    whole = total(list(pairs.values()))
    return render(
        "ledger.html", address=store.address, total=whole, flow=safe_svg(svg(whole, "all pairs")), parts=parts
    )
