"""The table of comparison and leaderboard: a row per model or recipe, as Markdown and as a page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean
from typing import NamedTuple

from pipelines.evals import Measure, Metric
from pipelines.report import data_card
from pipelines.report.format import NONE, change_style, figure_style, has_interval
from pipelines.report.page import render
from pipelines.results.summary import BETTER, NOT_ABOVE_CHANCE, WORSE
from pipelines.statistics import over_runs

TEMPLATE = "comparison.html"
MARKED = (BETTER, WORSE, NOT_ABOVE_CHANCE)


class Cell(NamedTuple):
    """The text of a cell, and `better`, `worse` or ``: its colour on a page."""

    text: str
    tone: str = ""


@dataclass
class Table:
    """A comparison of models."""

    title: str
    caption: str
    head: list[str]
    rows: list[list[Cell]]
    notes: list[str]
    text_columns: Sequence[int] = (0,)

    @property
    def numeric(self) -> list[int]:
        """The columns of numbers."""
        return [i for i in range(len(self.head)) if i not in self.text_columns]

    def texts(self) -> list[list[str]]:
        """The texts of the rows."""
        return [[cell.text for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """The table for a terminal or a README, without its notes."""
        marks = ["---:" if i in self.numeric else "---" for i in range(len(self.head))]
        escaped = [[data_card.cell(text) for text in row] for row in (self.head, *self.texts())]
        return "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], marks, *escaped[1:]))

    def page(self, picture: bytes | None = None, picture_title: str = "") -> str:
        """The table as one HTML file that loads nothing."""
        encoded = base64.b64encode(picture).decode() if picture else None
        return render(TEMPLATE, table=self, picture=encoded, picture_title=picture_title)


def figure_cell(item: Metric | None, what: Measure, note: str = "", result: str = "") -> Cell:
    """`26.9 % (24.1 to 29.7), layer 3, better`; only rates have a unit."""
    if not item:
        return Cell(NONE)
    style = figure_style(what)._replace(unit=figure_style(what).unit if what.rate else "")
    return Cell(f"{style.text(item)}{note}{_mark(result)}", _tone(result))


def change_cell(item: Metric | None, what: Measure, result: str = "") -> Cell:
    """`+20.5 points (+16.3 to +24.7), better`."""
    return Cell(f"{change_style(what).text(item, signed=True)}{_mark(result)}", _tone(result)) if item else Cell(NONE)


def mean_over_runs(items: Sequence[Metric]) -> Metric:
    """The mean of several runs with its t interval, combined in quadrature with their mean interval over items.

    Few correct items may be the same in all runs, so the spread of the runs alone would be too narrow.
    """
    return items[0] if len(items) == 1 else with_item_error(over_runs([item["value"] for item in items]), items)


def with_item_error(mean: Metric, items: Sequence[Metric]) -> Metric:
    """An interval over runs, combined in quadrature with the mean interval over items of `items`."""
    if not has_interval(mean) or not all(map(has_interval, items)):
        return mean
    low, high = (fmean(abs(item[part] - item["value"]) for item in items) for part in ("low", "high"))
    half = mean["high"] - mean["value"]
    return {**mean, "low": mean["value"] - hypot(half, low), "high": mean["value"] + hypot(half, high)}


def _mark(result: str) -> str:
    return f", {result}" if result in MARKED else ""


def _tone(result: str) -> str:
    return result if result in (BETTER, WORSE) else ""
