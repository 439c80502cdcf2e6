"""Runs as a table, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.state import State
from job.columns import Told, fitted
from job.figures import number
from job.screen import Screen

WIDTH = 160
"""Columns where there is no terminal to ask."""
WANTED = ("RUN", "STATE", "EPOCH", "REASON", "ETA", "LOSS", "SPENT", "$/H", "GPU", "AGE")
"""Those first that stay on a narrow terminal."""
RIGHT = ("EPOCH", "ETA", "$/H", "SPENT", "AGE")
FOLDED = {"LOSS": 12, "GPU": 12}
"""Columns whose texts may take several lines, of so many characters at least."""


def print_states(states: Sequence[State]) -> None:
    """The table; of a single run, where it is too wide, a line for each column."""
    console = Screen(WIDTH)
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
        if state.error:
            console.print(f"{escape(state.run)}: {escape(state.error)}", soft_wrap=True)
        if state.again:
            told = f"{state.run}: {state.state}; to go on: {state.again}"
            console.print(escape(told), soft_wrap=True)


def _table(rows: Sequence[dict[str, str]], width: int) -> Table:
    # A run's name is broken only where not even its state would stand beside it.
    folded = FOLDED | {"RUN": max(FOLDED["GPU"], width - 12)}
    columns = [
        Told(title, [Text(row[title]) for row in rows], title in RIGHT, folded.get(title))
        for title in rows[0]
    ]
    return fitted(columns, WANTED, width, lines=False)


def _cells(state: State) -> dict[str, str]:
    losses = " ".join(f"{task} {number(state.losses, task, 3)}" for task in state.losses)
    epoch, epochs = _or_dash(state.epoch), f"/{state.epochs}" if state.epochs else ""
    return {
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


def _money(usd: float | None) -> str:
    if usd is None:
        return "-"
    return f"{usd:.2f}" if usd >= 0.01 or usd == 0 else "<0.01"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def duration(seconds: float | None) -> str:
    """In one or two units: 42s, 3m05s, 2h07m, 3d04h."""
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
