"""Tables for people: aligned and folded in a terminal, plain lines when piped."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterable, Sequence

STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
"""Cells that get a colour in a terminal."""

PIPED_WIDTH = 10_000
"""Columns when piped: no cell is folded."""


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([x.replace("|", "\\|") for x in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in cells)


def text(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Return rows as a table without lines.

    Args:
        rows: the cells of each row.
        right: numbers of the columns that are aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    terminal = sys.stdout.isatty()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for number in range(max(map(len, cells), default=0)):
        table.add_column(justify="right" if number in set(right) else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    width = shutil.get_terminal_size().columns if terminal else PIPED_WIDTH
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=terminal, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
