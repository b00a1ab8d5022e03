"""The pictures of report and probe: figures by layer and loss curves, as PNG or as SVG in the page's colours."""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.summary import MODELS, Metrics, by_layer, gap_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design": told apart with any colour vision. Markers and dashes say it again.
COLOURS = {"base": "#7a7a7a", "control": "#d55e00", "aligned": "#0072b2", "chance": "#999999"}
STYLES = {"base": ("s", "--"), "control": ("^", "-."), "aligned": ("o", "-")}
OBJECTIVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
MEASURES = {
    "margin_recall@1": ("margin recall@1", "#0072b2", "o", "-"),
    "recall@1": ("recall@1", "#d55e00", "s", "--"),
    "mexa": ("MEXA", "#009e73", "^", "-."),
}
"""What is drawn of layer_probe, and how."""
INK = "#010203"  # stands for the page's text colour until the SVG is written
SIZE = (5.0, 3.2)  # inches; small, so that the text stays readable on a phone
PANELS = 4  # most metrics of a plot of gaps; the table has all
POINTS = 400  # most points of a curve; more are averaged


def recall_by_layer(metrics: Metrics, svg: bool = False) -> bytes | None:
    """Mean recall@1 over pairs at each layer for base, control and aligned; None where no metric is per layer."""
    curves = {name: found for name in MODELS if (found := by_layer(metrics, name))}
    if not curves:
        return None
    figure, (axes,) = _figure(1)
    for name, layers in curves.items():
        x, marker, dash = list(layers), *STYLES[name]
        y = [layers[layer]["value"] * 100 for layer in x]
        width = 2.4 if name == "aligned" else 1.6
        axes.plot(x, y, color=COLOURS[name], marker=marker, linestyle=dash, linewidth=width, markersize=5, label=name)
        if all("low" in layers[layer] for layer in x):
            low, high = ([layers[layer][part] * 100 for layer in x] for part in ("low", "high"))
            axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
    if chance := by_layer(metrics, "chance") or _chance(metrics):
        level = next(iter(chance.values()))["value"] * 100
        axes.axhline(level, color=COLOURS["chance"], linestyle=":", linewidth=1.4, label=f"chance ({level:.2g} %)")
    if (trained := metrics.get("trained_layer")) is not None:
        _mark(axes, trained, "trained")
    layers = sorted({layer for found in curves.values() for layer in found})
    _layer_axis(axes, layers)
    axes.set_ylabel("Recall@1, %, mean over pairs")
    axes.set_ylim(bottom=0)
    _legend(figure, [axes])
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


def _chance(metrics: Metrics) -> dict[int, dict[str, float]]:
    found = [
        item["value"] if isinstance(item, Mapping) else item
        for key, item in sorted(metrics.get("chance", {}).items())
        if key.startswith("retrieval/") and key.endswith("/recall@1")
    ]
    return {0: {"value": sum(found) / len(found)}} if found else {}


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


def _figure(panels: int) -> tuple["Figure", list[Any]]:
    """A figure of `panels` plots under each other that share the x axis."""
    from matplotlib.figure import Figure

    height = SIZE[1] if panels == 1 else 1.9 * panels + 0.4
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
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
    figure.legend(
        found.values(), found.keys(), loc="outside upper left", ncols=min(len(found), 4), frameon=False,
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
