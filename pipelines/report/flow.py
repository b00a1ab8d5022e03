"""Ledger rows -> a picture of where rows go: a stream of corpora from the left that loses a branch at every step."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from pipelines.errors import printable
from pipelines.storage.manifest import LedgerRow

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#9c6b4e", "#97bbf5")
OTHERS = "#9498a0"
LEFT, COLUMN, STREAM, BRANCH, TOP = 210.0, 124, 220, 70, 46  # pixels


class _Band(NamedTuple):
    """A part of the stream, as wide as it has rows: from `y0` at one step to `y1` at the next, `height` high."""

    y0: float
    y1: float
    height: float


def svg(ledger: Sequence[LedgerRow], title: str) -> str:
    """A self-contained SVG of steps left to right; heights are in proportion to rows, colours are corpora.

    A step that drops nothing is left out; the eight largest corpora have a colour of their own. Empty without a row.
    """
    steps = list(dict.fromkeys(row.step for row in ledger))
    into = dict.fromkeys(dict.fromkeys(row.corpus for row in ledger), 0)
    for row in ledger:
        into[row.corpus] = max(into[row.corpus], row.into)
    whole = sum(into.values())
    dropped = {(row.step, row.corpus): row.dropped for row in ledger}
    losing = [step for step in steps if any(dropped.get((step, corpus), 0) for corpus in into)]
    if not whole:
        return ""
    order = sorted(into, key=lambda corpus: -into[corpus])
    colours = {corpus: COLOURS[place] if place < len(COLOURS) else OTHERS for place, corpus in enumerate(order)}
    scale, shapes, left = STREAM / whole, list[str](), dict(into)
    x, y = LEFT, float(TOP)
    line = 0.0
    for corpus in order:
        height = into[corpus] * scale
        line = max(line + 13, y + height / 2 + 4)
        if line < TOP + STREAM + 40:
            shapes.append(_text(x - 8, line, f"{_escaped(corpus)} {into[corpus]:,}", "end"))
        shapes.append(f'<rect x="{x - 4}" y="{y:.1f}" width="4" height="{height:.1f}" fill="{colours[corpus]}"/>')
        y += height
    for step in losing:
        floor = TOP + STREAM + 30
        gone = sum(dropped.get((step, corpus), 0) for corpus in order)
        y0, y1, out = float(TOP), float(TOP), floor
        for corpus in order:
            lost = dropped.get((step, corpus), 0)
            kept = (left[corpus] - lost) * scale
            shapes.append(_path(x, x + COLUMN, _Band(y0, y1, kept), colours[corpus]))
            branch = max(lost * scale, 0.6 if lost else 0)
            if lost:
                shapes.append(_path(x, x + 0.6 * COLUMN, _Band(y0 + kept, out, branch), colours[corpus], 0.85))
            y0 += left[corpus] * scale
            y1 += kept
            out += branch
            left[corpus] -= lost
        label = [_escaped(step), f"{gone:,}", f"{gone / whole:.1%}"]
        shapes += [_text(x + 0.6 * COLUMN + 3, floor + 12 + 14 * line, text) for line, text in enumerate(label)]
        x += COLUMN
    kept = sum(left.values())
    shapes.append(_text(x + 6, TOP + kept * scale / 2 + 4, f"{kept:,} kept, {kept / whole:.1%}"))
    width, height = x + 150, TOP + STREAM + 30 + max(BRANCH, STREAM * 0.3)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="sans-serif" font-size="12" fill="#555">'
        f"<title>{_escaped(title)}: {whole:,} rows in, {kept:,} kept</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{_text(12, 22, _escaped(title), size=15)}'
        f"{''.join(shapes)}</svg>"
    )


def total(ledgers: Sequence[Sequence[LedgerRow]]) -> list[LedgerRow]:
    """The sum of several ledgers by step and corpus, in the order in which they name them."""
    out: dict[tuple[str, str], LedgerRow] = {}
    for row in (row for ledger in ledgers for row in ledger):
        key = (row.step, row.corpus)
        if known := out.get(key):
            numbers = ("into", "dropped", "kept", "changed")
            row = row.model_copy(update={name: getattr(row, name) + getattr(known, name) for name in numbers})
        out[key] = row
    steps = list(dict.fromkeys(step for step, _ in out))
    return [row for step in steps for (own, _), row in out.items() if own == step]


def _path(x0: float, x1: float, band: _Band, colour: str, opacity: float = 0.55) -> str:
    """A band between two x, with level ends."""
    middle, (y0, y1, height) = (x0 + x1) / 2, band
    return (
        f'<path d="M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}'
        f"v{height:.1f}C{middle:.1f} {y1 + height:.1f} {middle:.1f} {y0 + height:.1f} {x0:.1f} {y0 + height:.1f}Z"
        f'" fill="{colour}" fill-opacity="{opacity}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{text}</text>'


def _escaped(text: str) -> str:
    return escape(printable(text))
