"""The look of all plots: colours, panels, legend; as PNG, or as SVG in the colours of the page it is put into."""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design": distinct with any colour vision. Markers and dashes repeat it.
COLOURS = {"base": "#7a7a7a", "control": "#d55e00", "aligned": "#0072b2", "merged": "#cc79a7", "chance": "#999999"}
STYLES = {"base": ("s", "--"), "control": ("^", "-."), "aligned": ("o", "-"), "merged": ("D", "-")}
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
WIDEST = 60  # letters of all labels above which a legend has three columns instead of four
INK = "#010203"  # replaced by the page's text colour in SVG
SIZE = (5.0, 3.2)  # inches; small, so that the text stays readable on a phone


def new_figure(panels: int, height: float = 1.9) -> tuple["Figure", list[Any]]:
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


def add_legend(figure: "Figure", panels: list[Any]) -> None:
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


def set_layer_axis(axes: Any, layers: Sequence[int], named: bool = True) -> None:
    axes.set_xticks(layers if len(layers) <= 14 else layers[:: -(-len(layers) // 12)])
    if named:
        axes.set_xlabel("Layer (0 is the embeddings)")


def mark_layer(axes: Any, layer: int, word: str) -> None:
    """A vertical line at a layer, with a label."""
    axes.axvline(layer, color=INK, linewidth=0.8, alpha=0.5)
    axes.annotate(
        word, (layer, 1), xycoords=("data", "axes fraction"), xytext=(3, -11), textcoords="offset points",
        fontsize=9, color=INK,
    )  # fmt: skip


def to_bytes(figure: "Figure", svg: bool) -> bytes:
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
    for colour in sorted({*COLOURS.values(), *SERIES}):
        svg = svg.replace(colour, f"var(--c{colour[1:]}, {colour})")
    return re.sub(
        r"font-family: [^;\"]*|(?<=px )'[^;\"]*", lambda m: "font-family: inherit" if m[0][0] == "f" else "inherit", svg
    )
