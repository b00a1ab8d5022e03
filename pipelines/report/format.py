"""How numbers are written on all pages and in all tables: figures, changes, intervals, p values and sizes.

A rate is shown in percent and its change in percentage points; a score of 100 as it is; a change of a loss as a share
of the reference's loss; anything else with two decimals and its unit.
"""

from typing import NamedTuple

from pipelines.evals import Measure, Metric

NONE = "–"
SPACE = "\u00a0"


class Style(NamedTuple):
    """How a number is written."""

    factor: int
    unit: str
    fixed_places: int | None = None
    """Decimals; None: one, or two below 1."""

    def places(self, number: float) -> int:
        """Decimals of a number in the unit of its Metric."""
        if self.fixed_places is not None:
            return self.fixed_places
        return 2 if 0 < abs(number * self.factor) < 1 else 1

    def number(self, number: float, signed: bool = False, places: int | None = None) -> str:
        """A number without its unit, with a true minus sign."""
        places = self.places(number) if places is None else places
        return f"{number * self.factor:{'+' if signed else ''}.{places}f}".replace("-", "−")

    def interval(self, item: Metric, signed: bool = False) -> str:
        """`24.1 to 29.7`, with the decimals of the value; `` without an interval."""
        if not has_interval(item):
            return ""
        places = self.places(item["value"])
        return " to ".join(self.number(item[part], signed, places) for part in ("low", "high"))

    def text(self, item: Metric, signed: bool = False, note: str = "") -> str:
        """`26.9 % (24.1 to 29.7)`; note stands before the interval."""
        interval = self.interval(item, signed)
        return f"{self.number(item['value'], signed)}{self.unit}{f' ({note}{interval})' if interval else ''}"


def figure_style(what: Measure) -> Style:
    """How a figure is written."""
    if what.rate:
        return Style(100, f"{SPACE}%")
    return Style(1, "", 1) if what.score else Style(1, f" {what.unit}", 2)


def change_style(what: Measure) -> Style:
    """How a difference of two figures is written; a relative one is a share of the reference's figure."""
    if what.relative:
        return Style(100, f"{SPACE}%")
    if what.rate or what.score:
        return Style(100 if what.rate else 1, " points")
    return Style(1, f" {what.unit}", 2)


def has_interval(item: Metric) -> bool:
    """Whether a figure or a difference has a confidence interval."""
    return item.get("low") is not None and item.get("high") is not None


def percent(share: float) -> str:
    """0.2693 -> `26.9 %`, with a space that does not break."""
    style = Style(100, f"{SPACE}%")
    return f"{style.number(share)}{style.unit}"


def plain(number: float | None, what: Measure) -> str:
    """A figure in a table of different metrics: `26.9 %` of a rate, `45.3` of a score, `2.13` of anything else."""
    if number is None:
        return NONE
    return f"{number * 100:.1f} %" if what.rate else f"{number:.1f}" if what.score else f"{number:.2f}"


def cell(item: Metric | None, style: Style, signed: bool = False) -> dict[str, str]:
    """{value, interval} without units, for a table whose heading gives them."""
    if not item:
        return {"value": NONE, "interval": ""}
    return {"value": style.number(item["value"], signed), "interval": style.interval(item, signed)}


def test_cells(change: Metric | None, style: Style) -> dict[str, str]:
    """{p, least}: the p value of a change, and the smallest change that the test detects with a power of 80 %."""
    p, least = (change or {}).get("p"), (change or {}).get("detectable")
    return {
        "p": "" if p is None else "< 0.01" if p < 0.01 else f"{p:.2f}",
        "least": "" if least is None else style.number(least),
    }


def count(number: int) -> str:
    """1234 -> `1,234`."""
    return f"{number:,}"


def size(count: int) -> str:
    """Bytes in GiB, MiB or KiB."""
    for shift, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.1f} {unit}"
    return f"{count / 1024:.0f} KiB"


def scalar(item: object) -> str:
    """A number of a manifest."""
    if isinstance(item, float):
        return f"{item:.4g}"
    return NONE if item is None else f"{item:,}" if isinstance(item, int) else str(item)
