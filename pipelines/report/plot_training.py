"""Plots of trainings: loss curves, the probe of layers, and the trade-off of a comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.evals import Metric
from pipelines.report.format import has_interval
from pipelines.report.plot_style import (
    COLOURS,
    INK,
    SERIES,
    SIZE,
    STYLES,
    add_legend,
    mark_layer,
    new_figure,
    set_layer_axis,
    to_bytes,
)

MEASURES = {
    "margin_recall@1": ("margin recall@1", "#0072b2", "o", "-"),
    "recall@1": ("recall@1", "#d55e00", "s", "--"),
    "mexa": ("MEXA", "#009e73", "^", "-."),
}
"""{column of layer_probe: (label, colour, marker, dash)}."""
POINTS = 400  # most points of a curve; more are averaged


def loss_curves(logs: Mapping[str, Path], svg: bool = False) -> bytes | None:
    """Training loss over steps, one panel for each {name: log.jsonl}, one line per objective; None without a log."""
    curves = {name: found for name, path in logs.items() if (found := read_log(path))}
    if not curves:
        return None
    names = sorted({objective for found in curves.values() for objective in found})
    figure, panels = new_figure(len(curves))
    for axes, (title, found) in zip(panels, curves.items(), strict=True):
        for objective, points in found.items():
            index = names.index(objective)
            steps, losses = zip(*_thinned(points), strict=True)
            dash = ("-", "--", "-.", ":")[index % 4]
            colour = SERIES[index % len(SERIES)]
            axes.plot(steps, losses, color=colour, linestyle=dash, linewidth=1.6, label=objective)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        axes.set_ylabel("Loss, nats")
        axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("Step")
    add_legend(figure, panels)
    return to_bytes(figure, svg)


def layer_probe(rows: Sequence[Mapping[str, Any]], svg: bool = False) -> bytes:
    """The figures of layer_probe by layer, one panel per pooling; rows: those of `probe.measure`."""
    poolings = sorted({row["pooling"] for row in rows})
    figure, panels = new_figure(len(poolings))
    for axes, pooling in zip(panels, poolings, strict=True):
        own = sorted((row for row in rows if row["pooling"] == pooling), key=lambda row: row["layer"])
        x = [row["layer"] for row in own]
        for measure, (label, colour, marker, dash) in MEASURES.items():
            y = [row[measure] * 100 for row in own]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=1.6, markersize=5, label=label)
        axes.axhline(own[0]["chance"] * 100, color=COLOURS["chance"], linestyle=":", linewidth=1.4, label="chance")
        mark_layer(axes, next(row["layer"] for row in own if row["chosen"]), "chosen")
        axes.set_title(f"pooling {pooling}", fontsize=11, color=INK, loc="left")
        axes.set_ylabel("%, mean over pairs")
        axes.margins(y=0.2)  # room for the word
        axes.set_ylim(bottom=0)
        set_layer_axis(axes, x, named=axes is panels[-1])
    add_legend(figure, panels)
    return to_bytes(figure, svg)


def trade_off(
    points: Mapping[str, tuple[Metric, Metric]], across: str, chance: float | None = None, svg: bool = False
) -> bytes:
    """{name: (change of a loss, recall)} as points with their intervals; the best lie above and to the left.

    across: the title of the x axis. Base is at 0; it and the control keep their colours.
    """
    figure, (axes,) = new_figure(1)
    figure.set_size_inches(SIZE[0] * 1.3, SIZE[1] * 1.5)
    others = [name for name in points if name not in STYLES]
    free = [colour for colour in SERIES if colour not in {COLOURS[name] for name in points if name in STYLES}]
    for name, (change, recall) in points.items():
        place = others.index(name) if name in others else 0
        colour = COLOURS[name] if name in STYLES else free[place % len(free)]
        marker = STYLES[name][0] if name in STYLES else "oDvPX*<>"[place // len(free) % 8]
        bars = {axis: _bars(item) for axis, item in (("xerr", change), ("yerr", recall))}
        axes.errorbar(
            change["value"] * 100, recall["value"] * 100, **bars, color=colour, marker=marker, markersize=7,
            linestyle="none", elinewidth=1, alpha=0.9, label=name,
        )  # fmt: skip
    if chance is not None:
        axes.axhline(chance * 100, color=COLOURS["chance"], linestyle=":", linewidth=1.4, label="chance")
    axes.set_xlabel(across)
    axes.set_ylabel("Recall@1 of the best layer, %,\nmean over pairs")
    axes.set_ylim(bottom=0)
    add_legend(figure, [axes])
    return to_bytes(figure, svg)


def _bars(item: Metric) -> list[list[float]] | None:
    """Distances to the bounds in percent, as `errorbar` has them."""
    if not has_interval(item):
        return None
    return [[(item["value"] - item["low"]) * 100], [(item["high"] - item["value"]) * 100]]


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """{objective: [(step, loss)]} of a training log, in step order; an incomplete line is left out.

    A resumed run repeats steps: the last line of a step counts.
    """
    found: dict[str, dict[int, float]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                losses = {str(name): float(loss) for name, loss in row.get("loss", {}).items() if loss is not None}
                step = int(row["step"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for name, loss in losses.items():
                found.setdefault(name, {})[step] = loss
    return {name: sorted(points.items()) for name, points in sorted(found.items())}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most POINTS points, each the mean of its neighbours, so that a long curve is small and smooth."""
    size = -(-len(points) // POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(chunk[-1][0], sum(loss for _, loss in chunk) / len(chunk)) for chunk in chunks]
