"""The tasks of a run as a table: a row each, with as many columns as a terminal has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from job.glyphs import Room, bar, curve
from job.journal import Line
from job.progress import Progress

GAP = " "
LOSS, DROP, SKILL, SHARE, WEIGHT = 9, 7, 7, 5, 9
"""Characters of a number: `0.0001234`, `-123.4%`, `100%`."""


class Column(NamedTuple):
    """A column of the table."""

    name: str
    least: int
    """Characters that it needs, and could use."""
    most: int
    title: str = ""
    right: bool = False


Cell = tuple[str, str]
"""Text and style."""


def table(run: Progress, room: Room, rows: int) -> Iterator[Text]:
    """A head, then a row for every task, or for those that need a look most and one of the rest."""
    if not run.tasks or rows < 1:
        return
    columns = _columns(run, room)
    yield Text(_row([_padded(column, width, column.title) for column, width in columns]), "dim")
    shown = _chosen(run, rows)
    for task in shown:
        line = Text()
        cells = _cells(run, task, room, {column.name: width for column, width in columns})
        for column, width in columns:
            text, style = cells[column.name]
            line.append(_padded(column, width, room.cut(text, width)) + GAP, style)
        line.rstrip()
        yield line
    left = [task for task in run.tasks if task not in shown]
    if left and rows > 1:
        yield Text(room.cut(_rest(run, left)), "dim")


def _columns(run: Progress, room: Room) -> list[tuple[Column, int]]:
    """The columns that fit, in their order, with their widths."""
    longest = max(cell_len(_name(run, task)) for task in run.tasks)
    names = Column("task", min(10, longest), longest, "task")
    loss = Column("loss", LOSS, LOSS, "loss", right=True)
    title = "by epoch" if len(run.epochs.events) > 1 else "by step"
    drawn = Column("curve", 8, min(40, max(8, run.epoch_count or 0)), title)
    drop = Column("drop", DROP, DROP, "drop", right=True)
    skill = Column("skill", SKILL, SKILL, "skill", right=True)
    share = Column("share", SHARE, SHARE, "share", right=True)
    pulls = Column("bar", 6, 20)
    weight = Column("weight", WEIGHT, WEIGHT, "weight", right=True)
    alarm = Column("alarm", 14, 22)
    wanted = [names, loss, share, drawn, skill, drop, pulls, weight, *[alarm] * bool(run.troubled)]
    left, widths = room.width + len(GAP), dict[Column, int]()
    for column in wanted:
        if column.least + len(GAP) > left:
            break
        widths[column] = column.least
        left -= column.least + len(GAP)
    for column in widths:
        more = min(left, column.most - column.least)
        widths[column] += more
        left -= more
    order = (names, loss, drawn, drop, skill, share, pulls, weight, alarm)
    return [(column, widths[column]) for column in order if column in widths]


def _chosen(run: Progress, rows: int) -> list[str]:
    """Where not all tasks fit: those with alarms, then those with the smallest shares."""
    if len(run.tasks) <= rows:
        return run.tasks

    def need(task: str) -> tuple[bool, float]:
        share = run.now(task).get("grad_share")
        return task not in run.troubled, 1.0 if share is None else share

    wanted = set(sorted(run.tasks, key=need)[: max(1, rows - 1)])
    return [task for task in run.tasks if task in wanted]


def _rest(run: Progress, left: Sequence[str]) -> str:
    found = (run.now(task).get("grad_share") for task in left)
    shares = [share for share in found if share is not None]
    between = f", shares {min(shares):.1%} to {max(shares):.1%}" if shares else ""
    return f"and {len(left)} more{between}"


def _cells(run: Progress, task: str, room: Room, widths: dict[str, int]) -> dict[str, Cell]:
    """A task's cells by column. Drop and skill are of the newest epoch, as is the loss after it."""
    now, epoch = run.now(task), run.after_epoch(task)
    kind = run.troubled[task]["kind"].replace("_", " ") if task in run.troubled else ""
    loss = _number(epoch, "train_loss_original") if epoch else _number(now, "loss_original")
    below = (epoch.get("skill") or 0) < 0
    return {
        "task": (_name(run, task), "yellow" if kind else ""),
        "loss": (loss, "bold"),
        "curve": (curve(run.curve(task), widths.get("curve", 0), room.glyphs), ""),
        "drop": (_percent(epoch, "drop"), ""),
        "skill": (_percent(epoch, "skill"), "red" if below else ""),
        "share": (_percent(now, "grad_share", 0), "cyan"),
        "bar": (bar(now.get("grad_share"), widths.get("bar", 0), room.glyphs), "cyan"),
        "weight": (_number(now, "weight"), ""),
        "alarm": (kind, "yellow"),
    }


def _name(run: Progress, task: str) -> str:
    """With its unit, and a mark that needs no colour where there was an alarm."""
    assert run.started is not None
    unit = run.started["tasks"][task].get("unit")
    return f"{'! ' if task in run.troubled else ''}{task}{f', {unit}' if unit else ''}"


def _row(cells: Sequence[str]) -> str:
    return GAP.join(cells).rstrip()


def _padded(column: Column, width: int, text: str) -> str:
    padding = " " * max(0, width - cell_len(text))
    return padding + text if column.right else text + padding


def _number(values: Line, name: str) -> str:
    """Of a record; nan where it is not finite, a dash where it is not there."""
    value = values.get(name)
    return f"{value:.4g}" if value is not None else "nan" if name in values else "-"


def _percent(values: Line, name: str, digits: int = 1) -> str:
    value = values.get(name)
    return f"{value:.{digits}%}" if value is not None else "nan" if name in values else "-"
