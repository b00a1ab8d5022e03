"""The pictures of report and probe: by layer, loss curves, languages; as PNG or as SVG in the page's colours."""

import hashlib
import importlib.util
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import languages
from pipelines.evals import Metric, States
from pipelines.evals._states import unit
from pipelines.results.summary import Metrics, by_layer, figure, gap_rows, models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design": told apart with any colour vision. Markers and dashes say it again.
COLOURS = {"base": "#7a7a7a", "control": "#d55e00", "aligned": "#0072b2", "merged": "#cc79a7", "chance": "#999999"}
STYLES = {"base": ("s", "--"), "control": ("^", "-."), "aligned": ("o", "-"), "merged": ("D", "-")}
OBJECTIVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
LEVELS = {"chance": ("chance", ":"), "random": ("random model", "--"), "ngrams": ("n-grams", "-.")}
"""What finds translations without learning, and its dashes."""
WIDEST = 60  # letters of all labels, from which on four do not stand beside each other
MEASURES = {
    "margin_recall@1": ("margin recall@1", "#0072b2", "o", "-"),
    "recall@1": ("recall@1", "#d55e00", "s", "--"),
    "mexa": ("MEXA", "#009e73", "^", "-."),
}
"""What is drawn of layer_probe, and how."""
RECALLS = {"recall@1": "States as they are", "recall@1_centered": "Less the mean of each language"}
"""What is drawn of retrieval by layer."""
GUARDS = {
    "effective_rank": ("Effective rank", 1),
    "uniformity": ("Uniformity, nats", 1),
    "variance_ratio": ("Between languages, %", 100),
    "language_probe": ("Language told, %", 100),
}
"""What is drawn of each layer's states, and its scale."""
POINTS_MAPPED = 1_200  # most sentences of a map, over all languages
MOST_MAPPED = 60  # of one language
MARKS = "osv^DPX*"
UMAP_FROM = 500
"""Sentences, both models together, from which on UMAP is drawn where it is installed; its neighbourhoods are of 15."""
INK = "#010203"  # stands for the page's text colour until the SVG is written
SIZE = (5.0, 3.2)  # inches; small, so that the text stays readable on a phone
PANELS = 4  # most metrics of a plot of gaps; the table has all
POINTS = 400  # most points of a curve; more are averaged


def recall_by_layer(metrics: Metrics, svg: bool = False) -> bytes | None:
    """Mean recall@1 over pairs at each layer for base, control and aligned; None where no metric is per layer.

    Where it was measured, also of states less the mean of their language, in a panel below.
    """
    panels = {
        metric: curves
        for metric in RECALLS
        if (curves := {name: found for name in models(metrics) if (found := by_layer(metrics, name, metric))})
    }
    if not panels:
        return None
    figure, grid = _figure(len(panels), height=2.4)
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
            if (level := _level(metrics, name)) is not None and (metric == "recall@1" or name == "chance"):
                label = f"{what} ({level:.2g} %)"
                axes.axhline(level, color=COLOURS["chance"], linestyle=dash, linewidth=1.4, label=label)
        if (trained := metrics.get("trained_layer")) is not None:
            _mark(axes, trained, "trained")
        _layer_axis(axes, sorted({n for layers in curves.values() for n in layers}), named=axes is grid[-1])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Recall@1, %, mean over pairs" if len(panels) == 1 else "Recall@1, %")
        if len(panels) > 1:
            axes.set_title(RECALLS[metric], fontsize=11, color=INK, loc="left")
    _legend(figure, grid)
    return _bytes(figure, svg)


def gaps(metrics: Metrics, svg: bool = False) -> bytes | None:
    """How far each language lies behind the pivot, a panel a metric: base, control and aligned; None without a gap."""
    found = [row for row in gap_rows(metrics) if row.name != "Mean"]
    panels = list(dict.fromkeys((row.task, row.metric) for row in found))[:PANELS]
    if not panels:
        return None
    figure, axes_of = _figure(len(panels))
    most = max(sum((row.task, row.metric) == panel for row in found) for panel in panels)
    figure.set_size_inches(SIZE[0], (0.32 * most + 0.9) * len(panels) + 0.5)
    for axes, panel in zip(axes_of, panels, strict=True):
        rows = [row for row in found if (row.task, row.metric) == panel][::-1]
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
    axes_of[-1].set_xlabel("Behind English, % of English's figure" if metrics.get("pivot", "eng_Latn") == "eng_Latn"
                           else "Behind the pivot, % of its figure")  # fmt: skip
    _legend(figure, axes_of)
    return _bytes(figure, svg)


def layer_probe(rows: Sequence[Mapping[str, Any]], svg: bool = False) -> bytes:
    """What layer_probe found of each layer, a panel for each pooling; rows: those of `probe.measure`."""
    poolings = sorted({row["pooling"] for row in rows})
    figure, panels = _figure(len(poolings))
    for axes, pooling in zip(panels, poolings, strict=True):
        own = sorted((row for row in rows if row["pooling"] == pooling), key=lambda row: row["layer"])
        x = [row["layer"] for row in own]
        for measure, (label, colour, marker, dash) in MEASURES.items():
            y = [row[measure] * 100 for row in own]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=1.6, markersize=5, label=label)
        axes.axhline(own[0]["chance"] * 100, color=COLOURS["chance"], linestyle=":", linewidth=1.4, label="chance")
        _mark(axes, next(row["layer"] for row in own if row["chosen"]), "chosen")
        axes.set_title(f"pooling {pooling}", fontsize=11, color=INK, loc="left")
        axes.set_ylabel("%, mean over pairs")
        axes.margins(y=0.2)  # room for the word
        axes.set_ylim(bottom=0)
        _layer_axis(axes, x, named=axes is panels[-1])
    _legend(figure, panels)
    return _bytes(figure, svg)


def guards(metrics: Metrics, svg: bool = False) -> bytes | None:
    """What the states of each layer are like, a panel a guard, means over languages; None where none was measured."""
    panels = {
        metric: {
            name: found for name in models(metrics) if (found := by_layer(metrics, name, metric, "representation"))
        }
        for metric in GUARDS
    }
    panels = {metric: curves for metric, curves in panels.items() if curves}
    if not panels:
        return None
    figure, grid = _figure(len(panels))
    for axes, (metric, curves) in zip(grid, panels.items(), strict=True):
        title, scale = GUARDS[metric]
        for name, layers in curves.items():
            x, marker, dash = list(layers), *STYLES[name]
            y, low, high = ([layers[n][part] * scale for n in x] for part in ("value", "low", "high"))
            axes.plot(x, y, color=COLOURS[name], marker=marker, linestyle=dash, linewidth=1.6, markersize=4, label=name)
            axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        _layer_axis(axes, sorted({n for layers in curves.values() for n in layers}), named=axes is grid[-1])
    _legend(figure, grid)
    return _bytes(figure, svg)


def heat_map(metrics: Metrics, svg: bool = False) -> bytes | None:
    """Recall@1 of every language that asks (row) among every other's sentences (column), before and after aligning.

    Over the items that all languages share where they were measured, else of the recipe's pairs. None of one pair.
    """
    tables = {name: found for name in ("base", "aligned") if (found := _crossed(metrics, name))}
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
    bar.set_label("Recall@1, %; rows ask, columns answer", color=INK, fontsize=10)
    bar.ax.tick_params(colors=INK, labelsize=9)
    bar.outline.set_visible(False)  # type: ignore[operator]
    return _bytes(figure, svg)


def ways(states: Mapping[str, States]) -> list[str]:
    """How these can be drawn: `pca`, and `umap` where it is installed and there are enough; [] without two models."""
    if not {"base", "aligned"} <= set(states):
        return []
    count = sum(len(rows) for name in ("base", "aligned") for rows in _mapped(states[name]).values())
    return ["pca", "umap"] if count >= UMAP_FROM and importlib.util.find_spec("umap") else ["pca"]


def language_maps(states: Mapping[str, States]) -> dict[str, bytes]:
    """{file name: PNG} of every way in which these can be drawn."""
    names = {"pca": "language_map", "umap": "language_map_umap"}
    return {names[way]: language_map(states, way) for way in ways(states)}


def language_map(states: Mapping[str, States], way: str = "pca", svg: bool = False) -> bytes:
    """The same sentences of every language in base and aligned, on the same two axes.

    way: `pca`, the leading directions of both models' states together; `umap` (McInnes et al. 2018, arXiv 1802.03426),
    both laid out together. States are rows of length 1, as cosine sees them.
    """
    shown = {name: _mapped(states[name]) for name in ("base", "aligned")}
    rows = unit(np.concatenate([own for found in shown.values() for own in found.values()]))
    places, labels = _pca(rows) if way == "pca" else _umap(rows)
    figure, grid = _figure(2, height=3.4)
    start = 0
    for axes, (name, found) in zip(grid, shown.items(), strict=True):
        for i, (lang, own) in enumerate(found.items()):
            x, y = places[start : start + len(own)].T
            start += len(own)
            colour, mark = OBJECTIVES[i % len(OBJECTIVES)], MARKS[i % len(MARKS)]
            axes.plot(
                x, y, color=colour, marker=mark, linestyle="", markersize=3.5, alpha=0.75, markeredgewidth=0,
                label=languages.name(lang),
            )  # fmt: skip
        axes.set_title({"base": "before: base", "aligned": "after: aligned"}[name], fontsize=11, color=INK, loc="left")
        axes.set_ylabel(labels[1])
        low, high = places.min(axis=0), places.max(axis=0)
        room = np.maximum(high - low, 1e-9) * 0.05
        axes.set_xlim(low[0] - room[0], high[0] + room[0])
        axes.set_ylim(low[1] - room[1], high[1] + room[1])
    grid[-1].set_xlabel(labels[0])
    _legend(figure, grid)
    return _bytes(figure, svg)


def _mapped(states: States) -> dict[str, np.ndarray]:
    """The first sentences of each language, so many that a map stays readable and light."""
    most = max(2, min(MOST_MAPPED, POINTS_MAPPED // max(len(states), 1)))
    return {lang: rows[:most] for lang, rows in sorted(states.items())}


def _pca(rows: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """[N, 2]: the rows on their two leading principal axes, and what to call these.

    Of the two senses of an axis that is taken in which the longest row is positive, so that a picture stays the same.
    """
    centred = rows - rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = left[:, :2] * sizes[:2]
    places *= np.where(places[np.abs(places).argmax(axis=0), [0, 1]] < 0, -1, 1)
    shares = sizes**2 / max(float((sizes**2).sum()), 1e-24) * 100
    return places, (f"First axis ({shares[0]:.0f} % of variance)", f"Second ({shares[1]:.0f} %)")


def _umap(rows: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    import umap  # pyright: ignore[reportMissingImports]  (the extra `maps`)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one thread is used, as a seed needs
        return np.asarray(umap.UMAP(random_state=0).fit_transform(rows)), ("UMAP 1", "UMAP 2")


def _crossed(metrics: Metrics, name: str) -> dict[tuple[str, str], float]:
    """{(language that asks, language that is asked): recall@1} of one model."""
    pattern = r"retrieval/([^/-]+)-([^/-]+)/recall@1_from_(src|tgt)"
    keys = list(metrics.get(name, {}))
    found = [m for key in keys if (m := re.fullmatch(f"{pattern}/shared", key))]
    found = found or [m for key in keys if (m := re.fullmatch(pattern, key))]
    out = {}
    for match in found:
        if (item := figure(metrics, name, match[0])) is not None:
            src, tgt, way = match.groups()
            out[(src, tgt) if way == "src" else (tgt, src)] = item["value"]
    return out


def loss_curves(logs: Mapping[str, Path], svg: bool = False) -> bytes | None:
    """Training loss over steps, one panel for each {name: log.jsonl}, one line an objective; None without a log."""
    curves = {name: found for name, path in logs.items() if (found := read_log(path))}
    if not curves:
        return None
    names = sorted({objective for found in curves.values() for objective in found})
    figure, panels = _figure(len(curves))
    for axes, (title, found) in zip(panels, curves.items(), strict=True):
        for objective, points in found.items():
            index = names.index(objective)
            steps, losses = zip(*_thinned(points), strict=True)
            dash = ("-", "--", "-.", ":")[index % 4]
            colour = OBJECTIVES[index % len(OBJECTIVES)]
            axes.plot(steps, losses, color=colour, linestyle=dash, linewidth=1.6, label=objective)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        axes.set_ylabel("Loss, nats")
        axes.set_ylim(bottom=0)
    panels[-1].set_xlabel("Step")
    _legend(figure, panels)
    return _bytes(figure, svg)


def trade_off(
    points: Mapping[str, tuple[Metric, Metric]], across: str, chance: float | None = None, svg: bool = False
) -> bytes:
    """{name: (change of a loss, recall)} as points with their intervals; what is best lies above and to the left.

    across: the title of the x axis. Base is at 0; it and the control keep their colours.
    """
    figure, (axes,) = _figure(1)
    figure.set_size_inches(SIZE[0] * 1.3, SIZE[1] * 1.5)
    others = [name for name in points if name not in STYLES]
    free = [colour for colour in OBJECTIVES if colour not in {COLOURS[name] for name in points if name in STYLES}]
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
    _legend(figure, [axes])
    return _bytes(figure, svg)


def _bars(item: Metric) -> list[list[float]] | None:
    """Distances to the bounds in percent, as `errorbar` has them."""
    if "low" not in item:
        return None
    return [[(item["value"] - item["low"]) * 100], [(item["high"] - item["value"]) * 100]]


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """{objective: [(step, loss)]} of a training log, in step order; a line cut off by a kill is left out.

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


def _level(metrics: Metrics, name: str) -> float | None:
    """Mean recall@1 over pairs, %, of chance or a baseline, which have no layers."""
    found = [
        item["value"] if isinstance(item, Mapping) else item
        for key, item in sorted(metrics.get(name, {}).items())
        if key.startswith("retrieval/") and key.endswith("/recall@1")
    ]
    return sum(found) / len(found) * 100 if found else None


def _layer_axis(axes: Any, layers: Sequence[int], named: bool = True) -> None:
    axes.set_xticks(layers if len(layers) <= 14 else layers[:: -(-len(layers) // 12)])
    if named:
        axes.set_xlabel("Layer (0 is the embeddings)")


def _mark(axes: Any, layer: int, word: str) -> None:
    """A line at a layer, and what is said of it."""
    axes.axvline(layer, color=INK, linewidth=0.8, alpha=0.5)
    axes.annotate(
        word, (layer, 1), xycoords=("data", "axes fraction"), xytext=(3, -11), textcoords="offset points",
        fontsize=9, color=INK,
    )  # fmt: skip


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most POINTS points, each the mean of its neighbours, so that a long curve is light and smooth."""
    size = -(-len(points) // POINTS)
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [(chunk[-1][0], sum(loss for _, loss in chunk) / len(chunk)) for chunk in chunks]


def _figure(panels: int, height: float = 1.9) -> tuple["Figure", list[Any]]:
    """A figure of `panels` plots under each other, each `height` inches high where there are several."""
    from matplotlib.figure import Figure

    whole = SIZE[1] if panels == 1 else height * panels + 0.4
    figure = Figure(figsize=(SIZE[0], whole), layout="constrained")
    grid = figure.subplots(panels, 1, squeeze=False)
    for axes in grid[:, 0]:
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK, labelsize=10)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, list(grid[:, 0])


def _legend(figure: "Figure", panels: list[Any]) -> None:
    """One legend above all panels, each label once."""
    found = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    columns = 4 if len("".join(found)) < WIDEST else 3
    figure.legend(
        found.values(), found.keys(), loc="outside upper left", ncols=min(len(found), columns), frameon=False,
        labelcolor=INK, fontsize=10, handlelength=2.2, columnspacing=1.0, borderpad=0.1,
    )  # fmt: skip


def _bytes(figure: "Figure", svg: bool) -> bytes:
    """PNG on white, or an <svg> element to put into a page; the same figure gives the same bytes."""
    import matplotlib

    out = io.BytesIO()
    if not svg:
        figure.savefig(out, format="png", dpi=200, facecolor="white", metadata={"Software": None})
        return out.getvalue()
    with matplotlib.rc_context({"svg.hashsalt": "isogloss", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode()
    return _themed(text[text.index("<svg") :]).encode()


def _themed(svg: str) -> str:
    """Ink in the page's text colour, series in its variables, fonts of the page, ids that clash with no other SVG."""
    mark = hashlib.sha256(svg.encode()).hexdigest()[:6]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)  # the viewBox stays: the page decides the size
    svg = re.sub(r'\bid="', f'id="{mark}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{mark}-", svg)
    svg = svg.replace(INK, "currentColor")
    for colour in sorted({*COLOURS.values(), *OBJECTIVES}):
        svg = svg.replace(colour, f"var(--c{colour[1:]}, {colour})")
    return re.sub(
        r"font-family: [^;\"]*|(?<=px )'[^;\"]*", lambda m: "font-family: inherit" if m[0][0] == "f" else "inherit", svg
    )
