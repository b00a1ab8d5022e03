"""A store -> what its stages dropped and why: a text table, and a page with plots and rows to look at."""

from collections.abc import Sequence
from html import escape

from pipelines.errors import printable
from pipelines.flow import svg, total
from pipelines.ledger import KEPT
from pipelines.store import PER_PAIR, LedgerRow, Store

DROPPING = tuple(asset for asset in PER_PAIR if asset not in ("raw_bitext", "instructions"))

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
    found = ledgers(store)
    whole = total(list(found.values()))
    parts = [f"<h1>What was dropped, and why</h1><p>{_text(store.address)}</p>", svg(whole, "all pairs"), _rows(whole)]
    for pair, rows in found.items():
        dropped = sum(row.dropped for row in rows)
        parts.append(
            f"<details><summary>{_text(pair)}: {dropped:,} rows dropped</summary>{svg(rows, pair)}{_rows(rows)}"
            f"{_samples(store, pair)}</details>"
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


def _samples(store: Store, pair: str) -> str:
    cells = []
    for asset in DROPPING:
        manifest = store.manifest(asset, pair)
        if manifest is None or "samples" not in manifest.rows:
            continue
        for row in store.table(asset, pair, "samples").to_pylist():
            if row["step"] != KEPT:
                score = "" if row["score"] is None else f"{row['score']:.3g}"
                texts = "".join(f'<td dir="auto">{_text(row[side])}' for side in ("src", "tgt"))
                cells.append(f'<tr><td>{_text(row["step"])}<td>{_text(row["corpus"])}{texts}<td class="n">{score}')
    return f"<table><tr><th>step<th>corpus<th>source<th>target<th>score{''.join(cells)}</table>"
