import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipelines.report.flow import STREAM, svg, total
from pipelines.storage.manifest import LedgerRow


def row(step: str, corpus: str, into: int, dropped: int, changed: int = 0) -> LedgerRow:
    return LedgerRow(step=step, corpus=corpus, into=into, dropped=dropped, kept=into - dropped, changed=changed)


LEDGER = [
    row("normalise", "a/v1", 300, 0, 7),
    row("normalise", "<b>/v1", 100, 0),
    row("lid", "a/v1", 300, 60),
    row("lid", "<b>/v1", 100, 0),
    row("markup", "a/v1", 240, 0),
    row("markup", "<b>/v1", 100, 40),
]


def heights(picture: str) -> list[float]:
    return [float(number) for number in re.findall(r"v([\d.]+)C", picture)]


def test_the_picture_says_in_numbers_and_widths_where_rows_went() -> None:
    picture = svg(LEDGER, "clean_bitext of de–en")
    texts = [element.text or "" for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]
    assert texts[0] == "clean_bitext of de–en"
    assert {"a/v1 300", "<b>/v1 100", "lid", "60", "15.0%", "markup", "40", "10.0%", "300 kept, 75.0%"} <= set(texts)
    assert "normalise" not in texts  # drops nothing
    scale = STREAM / 400
    expected = [240, 60, 100, 240, 60, 40]  # kept and branch of a, kept of b; then kept of a, kept and branch of b
    assert heights(picture) == pytest.approx([rows * scale for rows in expected], abs=0.06)


def test_a_ledger_without_rows_has_no_picture() -> None:
    assert svg([], "x") == ""
    assert svg([row("lid", "a/v1", 0, 0)], "x") == ""


def test_ledgers_are_added_by_step_and_corpus() -> None:
    both = total([LEDGER, [row("lid", "a/v1", 10, 5, 1), row("lid", "c/v2", 2, 2)], []])
    assert [(r.step, r.corpus, r.into, r.dropped, r.kept, r.changed) for r in both if r.step == "lid"] == [
        ("lid", "a/v1", 310, 65, 245, 1),
        ("lid", "<b>/v1", 100, 0, 100, 0),
        ("lid", "c/v2", 2, 2, 0, 0),
    ]
    assert list(dict.fromkeys(r.step for r in both)) == ["normalise", "lid", "markup"]
