"""Columns that a terminal has room for: what does not fit gives way whole, and no number is cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

FOLDED = 10
"""Characters that folded text has at least; no number is longer."""
LINES, BARE = 3, 2
"""Characters between two columns, with lines between them or without."""


class Column(NamedTuple):
    """A column of a table."""

    name: str
    least: int
    """Characters that it needs, and could use."""
    most: int
    title: str = ""
    right: bool = False


def fit(wanted: Sequence[Column], room: int, gap: int) -> dict[Column, int]:
    """Of columns, the most important first, those that fit into `room` characters: their widths.

    What is left over goes to those that could use it, in the same order.
    """
    left, widths = room + gap, dict[Column, int]()
    for column in wanted:
        if column.least + gap > left:
            break
        widths[column] = column.least
        left -= column.least + gap
    for column in widths:
        more = min(left, column.most - column.least)
        widths[column] += more
        left -= more
    return widths


class Told(NamedTuple):
    """A column of a printed table."""

    title: str
    cells: Sequence[Text]
    right: bool = False
    folded: int | None = None
    """Characters in which its texts may be folded; None: it holds numbers."""

    @property
    def column(self) -> Column:
        """What it needs."""
        most = max(cell_len(part) for part in [self.title, *(cell.plain for cell in self.cells)])
        titled = max(map(cell_len, self.title.split()), default=0)
        whole = max([titled, *(cell_len(cell.plain) for cell in self.cells)])
        least = whole if self.folded is None else max(titled, min(whole, self.folded))
        return Column(self.title, least, most)


def fitted(
    told: Sequence[Told], wanted: Sequence[str], width: int, title: str = "", lines: bool = True
) -> Table:
    """A table of at most so many characters; wanted: its columns, the most important first.

    Where there is not room for all, it has no lines; where that is not enough, columns give way,
    and what is left out is said below.
    """
    columns = {one.title: one.column for one in told}
    order = [columns[name] for name in wanted]
    widths = fit(order, width - LINES - 1, LINES)
    table = Table(title=title or None, title_justify="left", caption_justify="left")
    if not lines or len(widths) < len(order):
        table.box, table.pad_edge = None, False
        widths = fit(order, width, BARE)
    for one in told:
        if columns[one.title] in widths:
            table.add_column(
                one.title,
                justify="right" if one.right else "left",
                width=widths[columns[one.title]],
                overflow="fold",
            )
    kept = [one.cells for one in told if columns[one.title] in widths]
    for row in zip(*kept, strict=True):
        table.add_row(*row)
    left = [column.name for column in order if column not in widths]
    table.caption = f"no room for: {', '.join(left)}" if left else None
    return table
