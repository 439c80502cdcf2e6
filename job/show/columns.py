"""Which columns of a table fit a terminal: a column is shown whole or not at all.

No number is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

LINED_GAP, BARE_GAP = 3, 2
"""Characters between two columns, with lines between them or without."""


class Column(NamedTuple):
    """A column and the characters that it needs."""

    name: str
    least: int
    """The least width that shows it."""
    most: int
    """The width beyond which it has no use for more."""
    title: str = ""
    right: bool = False


def fit(wanted: Sequence[Column], width: int, gap: int) -> dict[Column, int]:
    """The columns that fit into `width` characters, each with its own width.

    wanted: columns, the most important first; gap: characters between two. What is left over goes
    to the columns that can use it, in the same order.
    """
    left, widths = width + gap, dict[Column, int]()
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


class TextColumn(NamedTuple):
    """A column of a printed table."""

    title: str
    cells: Sequence[Text]
    right: bool = False
    folded: int | None = None
    """Least characters of a line, if texts may take several lines; None for numbers."""

    @property
    def column(self) -> Column:
        """The characters that it needs."""
        most = max(cell_len(part) for part in [self.title, *(cell.plain for cell in self.cells)])
        titled = max(map(cell_len, self.title.split()), default=0)
        whole = max([titled, *(cell_len(cell.plain) for cell in self.cells)])
        least = whole if self.folded is None else max(titled, min(whole, self.folded))
        return Column(self.title, least, most)


def fitted_table(
    columns: Sequence[TextColumn],
    wanted: Sequence[str],
    width: int,
    title: str = "",
    lines: bool = True,
) -> Table:
    """A table of at most `width` characters.

    wanted: titles of the columns, the most important first. If not all columns fit, the table has
    no lines; if that is not enough, columns are hidden, and listed below the table.
    """
    needs = {one.title: one.column for one in columns}
    order = [needs[name] for name in wanted]
    widths = fit(order, width - LINED_GAP - 1, LINED_GAP)
    table = Table(title=title or None, title_justify="left", caption_justify="left")
    if not lines or len(widths) < len(order):
        table.box, table.pad_edge = None, False
        widths = fit(order, width, BARE_GAP)
    for one in columns:
        if needs[one.title] in widths:
            table.add_column(
                one.title,
                justify="right" if one.right else "left",
                width=widths[needs[one.title]],
                overflow="fold",
            )
    kept = [one.cells for one in columns if needs[one.title] in widths]
    for row in zip(*kept, strict=True):
        table.add_row(*row)
    hidden = [column.name for column in order if column not in widths]
    table.caption = f"hidden columns: {', '.join(hidden)}" if hidden else None
    return table
