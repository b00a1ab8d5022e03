"""Maps of sentence states: the same sentences of every language in two models, on the same two axes."""

import importlib.util
import warnings
from collections.abc import Mapping

import numpy as np

from pipelines import languages
from pipelines.evals import States
from pipelines.evals._states import unit
from pipelines.report.plot_style import INK, SERIES, add_legend, new_figure, to_bytes

POINTS_MAPPED = 1_200  # most sentences of a map, over all languages
MOST_MAPPED = 60  # of one language
MARKS = "osv^DPX*"
UMAP_FROM = 500
"""Sentences of both models together from which UMAP is drawn, where it is installed; its neighbourhoods are of 15."""


def ways(states: Mapping[str, States]) -> list[str]:
    """The projections to draw: `pca`, and `umap` where it is installed and there are enough; [] without two models."""
    if not {"base", "aligned"} <= set(states):
        return []
    count = sum(len(rows) for name in ("base", "aligned") for rows in _mapped(states[name]).values())
    return ["pca", "umap"] if count >= UMAP_FROM and importlib.util.find_spec("umap") else ["pca"]


def language_maps(states: Mapping[str, States]) -> dict[str, bytes]:
    """{file name: PNG} of every projection."""
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
    figure, grid = new_figure(2, height=3.4)
    start = 0
    for axes, (name, found) in zip(grid, shown.items(), strict=True):
        for i, (lang, own) in enumerate(found.items()):
            x, y = places[start : start + len(own)].T
            start += len(own)
            colour, mark = SERIES[i % len(SERIES)], MARKS[i % len(MARKS)]
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
    add_legend(figure, grid)
    return to_bytes(figure, svg)


def _mapped(states: States) -> dict[str, np.ndarray]:
    """The first sentences of each language, few enough that a map stays readable and small."""
    most = max(2, min(MOST_MAPPED, POINTS_MAPPED // max(len(states), 1)))
    return {lang: rows[:most] for lang, rows in sorted(states.items())}


def _pca(rows: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """The rows on their two leading principal axes, [N, 2], and the labels of the axes.

    The sign of an axis is chosen so that the longest row is positive: a picture is reproducible.
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
