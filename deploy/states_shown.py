"""Runs as a table, a line each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.state import State

COLUMNS = ("RUN", "STATE", "EPOCH", "ETA", "LOSS", "GPU", "$/H", "SPENT", "AGE", "REASON")
RIGHT = ("EPOCH", "ETA", "$/H", "SPENT", "AGE")
WIDTH = 160
"""Columns where there is no terminal to ask."""


def print_states(states: Sequence[State]) -> None:
    """The table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in RIGHT else "left", overflow="fold")
    for state in states:
        table.add_row(*map(escape, _cells(state)))
    console.print(table)
    for state in states:
        if state.error:
            console.print(f"{escape(state.run)}: {escape(state.error)}", soft_wrap=True)


def _cells(state: State) -> list[str]:
    losses = " ".join(f"{k} {'-' if v is None else f'{v:.3g}'}" for k, v in state.losses.items())
    return [
        state.run,
        state.state,
        _or_dash(state.epoch),
        duration(state.eta_seconds) if state.state != "finished" else "-",
        losses or "-",
        state.gpu or "-",
        _or_dash(state.cost_per_hour),
        _money(state.spent_usd),
        duration(state.age_seconds),
        state.reason or "-",
    ]


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
