"""Tables on standard output: drawn by `rich` on a terminal, plain text with aligned columns elsewhere."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from pipelines.errors import printable


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1, title: str = "") -> None:
    """Print a table; the first `text_columns` columns are aligned to the left, the others, numbers, to the right."""
    head, rows = [printable(cell) for cell in head], [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(head, rows, text_columns, printable(title))
    else:
        print(printable("\n".join([*filter(None, [title]), *plain_table(head, rows, text_columns)])))


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> list[str]:
    """The lines of a table as plain text, two spaces between columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def print_json(value: Any) -> None:
    """Print JSON for a script: indented, in ASCII, so that no character of foreign text is obeyed by a terminal."""
    print(printable(json.dumps(value, indent=1, default=str)))


def _print_rich(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=Text(title, style="bold") if title else None, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(
            Text(name),
            justify="left" if i < text_columns else "right",
            no_wrap=i == 0 or i >= text_columns,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
