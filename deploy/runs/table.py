"""Runs as a table, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deploy.runs.state import RunState
from job.show.columns import TextColumn, fitted_table
from job.show.console import WIDE_PAGE, Screen, literal
from job.show.format import number
from job.show.printable import printable

BY_IMPORTANCE = ("RUN", "STATE", "EPOCH", "REASON", "ETA", "LOSS", "SPENT", "$/H", "GPU", "AGE")
"""Columns, the first of which stay on a narrow terminal."""
RIGHT = ("EPOCH", "ETA", "$/H", "SPENT", "AGE")
FOLDED = {"LOSS": 12, "GPU": 12}
"""Columns whose text may take several lines, and their least width."""


def print_states(states: Sequence[RunState]) -> None:
    """Print the table; for a single run that is too wide for it, a line for each column."""
    console = Screen(WIDE_PAGE)
    rows = [_cells(state) for state in states]
    table = _table(rows, console.width)
    if table.caption and len(rows) == 1:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column()
        table.add_column(overflow="fold")
        for title, text in rows[0].items():
            table.add_row(title, Text(text))
    console.print(table)
    for state in states:
        lines = [f"{state.run}: {state.error}"] if state.error else []
        if state.resume_command:
            lines += [f"{state.run}: {state.state}; resume it with: {state.resume_command}"]
        if state.control:
            lines += [f"{state.run}: a control, whose targets are permuted: no run of its job"]
        for line in lines:
            console.print(literal(line), soft_wrap=True)


def _table(rows: Sequence[dict[str, str]], width: int) -> Table:
    # A run's name is broken only if not even its state would fit beside it.
    folded = FOLDED | {"RUN": max(FOLDED["GPU"], width - 12)}
    columns = [
        TextColumn(title, [Text(row[title]) for row in rows], title in RIGHT, folded.get(title))
        for title in rows[0]
    ]
    return fitted_table(columns, BY_IMPORTANCE, width, lines=False)


def _cells(state: RunState) -> dict[str, str]:
    """The row's texts by column, safe for a terminal."""
    losses = " ".join(f"{task} {number(state.losses, task, 3)}" for task in state.losses)
    epoch, epochs = _or_dash(state.epoch), f"/{state.epochs}" if state.epochs else ""
    cells = {
        "RUN": state.run,
        "STATE": state.state,
        "EPOCH": f"{epoch}{epochs}",
        "ETA": duration(state.eta_seconds),
        "LOSS": losses or "-",
        "GPU": state.gpu or "-",
        "$/H": _or_dash(state.cost_per_hour),
        "SPENT": _money(state.spent_usd),
        "AGE": duration(state.age_seconds),
        "REASON": state.reason or "-",
    }
    return {title: printable(text) for title, text in cells.items()}


def _money(usd: float | None) -> str:
    if usd is None:
        return "-"
    return f"{usd:.2f}" if usd >= 0.01 or usd == 0 else "<0.01"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def duration(seconds: float | None) -> str:
    """Seconds in one or two units: 42s, 3m05s, 2h07m, 3d04h."""
    if seconds is None:
        return "-"
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"
