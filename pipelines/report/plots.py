"""Plots of an evaluation: recall by layer, gaps, guards, and every language against every other."""

import numpy as np

from pipelines import languages
from pipelines.report.plot_style import (
    COLOURS,
    INK,
    SIZE,
    STYLES,
    add_legend,
    mark_layer,
    new_figure,
    set_layer_axis,
    to_bytes,
)
from pipelines.results.metric_key import MetricKey
from pipelines.results.summary import Metrics, by_layer, figure, gap_rows, keys_of, mean, models

LEVELS = {"chance": ("chance", ":"), "random": ("random model", "--"), "ngrams": ("n-grams", "-.")}
"""{baseline: (label, dash)}: what finds translations without learning."""
RECALLS = {"recall@1": "States as they are", "recall@1_centered": "States minus the mean of each language"}
"""{metric of retrieval: title of its panel}."""
GUARDS = {
    "effective_rank": ("Effective rank", 1),
    "uniformity": ("Uniformity, nats", 1),
    "variance_ratio": ("Between languages, %", 100),
    "language_probe": ("Language identified, %", 100),
}
"""{metric of representation: (title of its panel, scale)}."""
PANELS = 4  # most metrics of a plot of gaps; the table has all


def recall_by_layer(metrics: Metrics, svg: bool = False) -> bytes | None:
    """Mean recall@1 over pairs at each layer for base, control and aligned; None where no metric is per layer.

    Where it was measured, a panel below shows states minus the mean of their language.
    """
    panels = {
        metric: curves
        for metric in RECALLS
        if (curves := {name: found for name in models(metrics) if (found := by_layer(metrics, name, metric))})
    }
    if not panels:
        return None
    figure, grid = new_figure(len(panels), height=2.4)
    for axes, (metric, curves) in zip(grid, panels.items(), strict=True):
        for name, layers in curves.items():
            x, marker, dash = list(layers), *STYLES[name]
            y = [layers[layer]["value"] * 100 for layer in x]
            width = 2.4 if name == "aligned" else 1.6
            axes.plot(
                x, y, color=COLOURS[name], marker=marker, linestyle=dash, linewidth=width, markersize=5, label=name
            )
            if all("low" in layers[layer] for layer in x):
                low, high = ([layers[layer][part] * 100 for layer in x] for part in ("low", "high"))
                axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        for name, (what, dash) in LEVELS.items():
            if (level := _baseline_level(metrics, name)) is not None and (metric == "recall@1" or name == "chance"):
                label = f"{what} ({level:.2g} %)"
                axes.axhline(level, color=COLOURS["chance"], linestyle=dash, linewidth=1.4, label=label)
        if (trained := metrics.trained_layer) is not None:
            mark_layer(axes, trained, "trained")
        set_layer_axis(axes, sorted({n for layers in curves.values() for n in layers}), named=axes is grid[-1])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Recall@1, %, mean over pairs" if len(panels) == 1 else "Recall@1, %")
        if len(panels) > 1:
            axes.set_title(RECALLS[metric], fontsize=11, color=INK, loc="left")
    add_legend(figure, grid)
    return to_bytes(figure, svg)


def gaps(metrics: Metrics, svg: bool = False) -> bytes | None:
    """How far each language lies behind the pivot, one panel per metric; None without a gap."""
    found = [row for row in gap_rows(metrics) if row.name != "Mean"]
    panels = list(dict.fromkeys((row.key.task, row.key.metric) for row in found))[:PANELS]
    if not panels:
        return None
    figure, axes_of = new_figure(len(panels))
    most = max(sum((row.key.task, row.key.metric) == panel for row in found) for panel in panels)
    figure.set_size_inches(SIZE[0], (0.32 * most + 0.9) * len(panels) + 0.5)
    for axes, panel in zip(axes_of, panels, strict=True):
        rows = [row for row in found if (row.key.task, row.key.metric) == panel][::-1]
        for place, row in enumerate(rows):
            shown = {name: item["value"] * 100 for name, item in row.cells.items() if item}
            axes.hlines(place, min(shown.values()), max(shown.values()), color=INK, alpha=0.25, linewidth=1.2)
            for name, number in shown.items():
                axes.plot(number, place, color=COLOURS[name], marker=STYLES[name][0], linestyle="none", markersize=6,
                          label=name)  # fmt: skip
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
        axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{panel[0]}, {panel[1].replace('_', ' ')}", fontsize=11, color=INK, loc="left")
    axes_of[-1].set_xlabel("Behind English, % of English's figure" if metrics.pivot == "eng_Latn"
                           else "Behind the pivot, % of its figure")  # fmt: skip
    add_legend(figure, axes_of)
    return to_bytes(figure, svg)


def guards(metrics: Metrics, svg: bool = False) -> bytes | None:
    """The guards of each layer's states, one panel each, means over languages; None where none was measured."""
    panels = {
        metric: {
            name: found for name in models(metrics) if (found := by_layer(metrics, name, metric, "representation"))
        }
        for metric in GUARDS
    }
    panels = {metric: curves for metric, curves in panels.items() if curves}
    if not panels:
        return None
    figure, grid = new_figure(len(panels))
    for axes, (metric, curves) in zip(grid, panels.items(), strict=True):
        title, scale = GUARDS[metric]
        for name, layers in curves.items():
            x, marker, dash = list(layers), *STYLES[name]
            y, low, high = ([layers[n][part] * scale for n in x] for part in ("value", "low", "high"))
            axes.plot(x, y, color=COLOURS[name], marker=marker, linestyle=dash, linewidth=1.6, markersize=4, label=name)
            axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        set_layer_axis(axes, sorted({n for layers in curves.values() for n in layers}), named=axes is grid[-1])
    add_legend(figure, grid)
    return to_bytes(figure, svg)


def heat_map(metrics: Metrics, svg: bool = False) -> bytes | None:
    """Recall@1 of every query language (row) among every other's sentences (column), before and after alignment.

    Over the items that all languages share where these were measured, else of the recipe's pairs. None for one pair.
    """
    tables = {name: found for name in ("base", "aligned") if (found := _directed_recall(metrics, name))}
    langs = sorted({lang for found in tables.values() for pair in found for lang in pair})
    if len(langs) < 3:
        return None
    from matplotlib.figure import Figure

    size, large = len(langs), len(langs) > 12
    side = 3.0 if size <= 6 else 0.45 * size if not large else 5.6
    figure = Figure(figsize=(side + 1.2, len(tables) * (side + 0.6) + 0.9), layout="constrained")
    grid = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    top = max(max(found.values()) for found in tables.values()) * 100 or 1
    for axes, (name, found) in zip(grid, tables.items(), strict=True):
        cells = np.full((size, size), np.nan)
        for (src, tgt), value in found.items():
            cells[langs.index(src), langs.index(tgt)] = value * 100
        axes.pcolormesh(cells, cmap="cividis", vmin=0, vmax=top, edgecolors="none", rasterized=large)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        names = [languages.name(lang) for lang in langs]
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(size) + 0.5, names)
        axes.tick_params(colors=INK, labelsize=6 if large else 9, length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(name, fontsize=11, color=INK, loc="left")
        for row, column in np.argwhere(np.isfinite(cells)).tolist() if not large else []:
            value = cells[row, column]
            axes.text(
                column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=8,
                color="#111111" if value > 0.55 * top else "#ffffff",
            )  # fmt: skip
    bar = figure.colorbar(grid[0].collections[0], ax=list(grid), orientation="horizontal", fraction=0.05, pad=0.02)
    bar.set_label("Recall@1, %; rows: query, columns: candidates", color=INK, fontsize=10)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return to_bytes(figure, svg)


def _directed_recall(metrics: Metrics, name: str) -> dict[tuple[str, str], float]:
    """{(query language, candidate language): recall@1} of one model."""
    sources = {"recall@1_from_src": False, "recall@1_from_tgt": True}
    keys = [key for key in map(MetricKey.parse, metrics.figures(name)) if key.layer is None and key.task == "retrieval"]
    shared = [key for key in keys if key.metric.removesuffix("/shared") in sources and key.metric.endswith("/shared")]
    out: dict[tuple[str, str], float] = {}
    for key in shared or [key for key in keys if key.metric in sources]:
        item, langs = figure(metrics, name, str(key)), key.languages
        if item is not None and len(langs) == 2:
            src, tgt = reversed(langs) if sources[key.metric.removesuffix("/shared")] else langs
            out[src, tgt] = item["value"]
    return out


def _baseline_level(metrics: Metrics, name: str) -> float | None:
    """Mean recall@1 over pairs, %, of chance or a baseline, which have no layers."""
    level = mean(metrics, name, keys_of(metrics, "retrieval", "recall@1"))
    return level["value"] * 100 if level else None
