"""The tasks of a run as a table: a row each, with as many columns as a terminal has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from job.columns import Column, fit
from job.figures import loss_label, number, percent
from job.glyphs import Room, bar, curve
from job.progress import Progress

GAP = " "
LOSS, DROP, SKILL, SHARE, WEIGHT = 9, 7, 7, 5, 9
"""Characters of a number, usually: `0.0001234`, `-123.4%`, `100%`."""

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
    longest = max(cell_len(_name(run, task, room)) for task in run.tasks)
    names = Column("task", min(10, longest), longest, "task")
    numbers = [_numbers(run, task) for task in run.tasks]

    def column(name: str, usual: int) -> Column:
        width = max([usual, *(len(told[name]) for told in numbers)])
        return Column(name, width, width, name, right=True)

    loss, drop, skill = column("loss", LOSS), column("drop", DROP), column("skill", SKILL)
    share, weight = column("share", SHARE), column("weight", WEIGHT)
    title = "by epoch" if len(run.epochs.events) > 1 else "by step"
    drawn = Column("curve", 8, min(40, max(8, run.epoch_count or 0)), title)
    pulls = Column("bar", 6, 20)
    alarm = Column("alarm", 14, 22)
    wanted = [names, loss, share, drawn, skill, drop, pulls, weight, *[alarm] * bool(run.troubled)]
    widths = fit(wanted, room.width, len(GAP))
    order = (names, loss, drawn, drop, skill, share, pulls, weight, alarm)
    return [(column, widths[column]) for column in order if column in widths]


def _chosen(run: Progress, rows: int) -> list[str]:
    """Where not all tasks fit: those with alarms, then those with the smallest shares."""
    if len(run.tasks) <= rows:
        return run.tasks

    def need(task: str) -> tuple[bool, float]:
        share = run.at_step(task).get("grad_share")
        return task not in run.troubled, 1.0 if share is None else share

    wanted = set(sorted(run.tasks, key=need)[: max(1, rows - 1)])
    return [task for task in run.tasks if task in wanted]


def _rest(run: Progress, left: Sequence[str]) -> str:
    found = (run.at_step(task).get("grad_share") for task in left)
    shares = [share for share in found if share is not None]
    between = f", shares {min(shares):.1%} to {max(shares):.1%}" if shares else ""
    return f"and {len(left)} more{between}"


def _numbers(run: Progress, task: str) -> dict[str, str]:
    """By column. Share and weight are the newest step's, the others the newest epoch's.

    Before the first epoch the loss is that step's, too.
    """
    now, epoch = run.at_step(task), run.after_epoch(task)
    return {
        "loss": number(epoch, "train_loss_original") if epoch else number(now, "loss_original"),
        "drop": percent(epoch, "drop"),
        "skill": percent(epoch, "skill"),
        "share": percent(now, "grad_share", 0),
        "weight": number(now, "weight"),
    }


def _cells(run: Progress, task: str, room: Room, widths: dict[str, int]) -> dict[str, Cell]:
    """A task's cells by column."""
    kind = run.troubled[task]["kind"].replace("_", " ") if task in run.troubled else ""
    below = (run.after_epoch(task).get("skill") or 0) < 0
    share = run.at_step(task).get("grad_share")
    styles = {"loss": "bold", "skill": "red" if below else "", "share": "cyan"}
    return {
        "task": (_name(run, task, room), "yellow" if kind else ""),
        "curve": (curve(run.curve(task), widths.get("curve", 0), room.glyphs), ""),
        "bar": (bar(share, widths.get("bar", 0), room.glyphs), "cyan"),
        "alarm": (kind, "yellow"),
        **{name: (text, styles.get(name, "")) for name, text in _numbers(run, task).items()},
    }


def _name(run: Progress, task: str, room: Room) -> str:
    """With its loss's unit, and a mark that needs no colour where there was an alarm."""
    assert run.started is not None
    label = room.glyphs.of(loss_label(task, run.started["tasks"][task]))
    return f"{'! ' if task in run.troubled else ''}{label}"


def _row(cells: Sequence[str]) -> str:
    return GAP.join(cells).rstrip()


def _padded(column: Column, width: int, text: str) -> str:
    padding = " " * max(0, width - cell_len(text))
    return padding + text if column.right else text + padding
