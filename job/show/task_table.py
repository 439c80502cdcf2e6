"""The tasks of a run as a table: a row for each, with as many columns as fit the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.text import Text

from job.show.columns import Column, fit
from job.show.format import loss_label, number, percent, percent_with_error
from job.show.glyphs import Glyphs, Viewport, bar, curve
from job.show.progress import Progress

GAP = " "
LOSS, DROP, SKILL, SHARE, WEIGHT = 9, 7, 12, 5, 9
"""Characters that a number usually takes: `0.0001234`, `-123.4%`, `-12.3 ± 4.5%`, `100%`."""

Cell = tuple[str, str]
"""Text and style."""


def task_table(run: Progress, view: Viewport, rows: int) -> Iterator[Text]:
    """A header, then at most `rows` lines.

    If the tasks are more, those with alarms or small shares stay, and a line counts the others.
    """
    if not run.tasks or rows < 1:
        return
    columns = _columns(run, view)
    yield Text(_row([_padded(column, width, column.title) for column, width in columns]), "dim")
    visible = _visible(run, rows)
    for task in visible:
        line = Text()
        cells = _cells(run, task, view, {column.name: width for column, width in columns})
        for column, width in columns:
            text, style = cells[column.name]
            line.append(_padded(column, width, view.cut(text, width)) + GAP, style)
        line.rstrip()
        yield line
    hidden = [task for task in run.tasks if task not in visible]
    if hidden and rows > 1:
        yield Text(view.cut(_hidden_line(run, hidden)), "dim")


def _columns(run: Progress, view: Viewport) -> list[tuple[Column, int]]:
    """The columns that fit, in their order, with their widths."""
    longest = max(cell_len(text) for text in ["task", *(_label(run, t, view) for t in run.tasks)])
    names = Column("task", min(10, longest), longest, "task")
    numbers = [_numbers(run, task, view.glyphs) for task in run.tasks]

    def column(name: str, usual: int) -> Column:
        width = max([usual, *(len(of_task[name]) for of_task in numbers)])
        return Column(name, width, width, name, right=True)

    loss, skill = column("loss", LOSS), column("val. skill", SKILL)
    drop, trivial = column("drop", DROP), column("trivial", DROP)
    share, weight = column("share", SHARE), column("weight", WEIGHT)
    title = "by epoch" if len(run.epochs.events) > 1 else "by step"
    drawn = Column("curve", 8, min(40, max(8, run.epoch_count or 0)), title)
    share_bar = Column("bar", 6, 20)
    alarm = Column("alarm", 14, 22)
    wanted = [names, loss, share, skill, drawn, drop, trivial, share_bar, weight]
    widths = fit([*wanted, *[alarm] * bool(run.alarm_of)], view.width, len(GAP))
    order = (names, loss, drawn, drop, trivial, skill, share, share_bar, weight, alarm)
    return [(column, widths[column]) for column in order if column in widths]


def _visible(run: Progress, rows: int) -> list[str]:
    """All tasks if they fit; else those with alarms, then those with the smallest shares."""
    if len(run.tasks) <= rows:
        return run.tasks

    def rank(task: str) -> tuple[bool, float]:
        share = run.at_step(task).get("grad_share")
        return task not in run.alarm_of, 1.0 if share is None else share

    chosen = set(sorted(run.tasks, key=rank)[: max(1, rows - 1)])
    return [task for task in run.tasks if task in chosen]


def _hidden_line(run: Progress, hidden: Sequence[str]) -> str:
    """How many tasks are hidden, and the range of their shares."""
    known = (run.at_step(task).get("grad_share") for task in hidden)
    shares = [share for share in known if share is not None]
    between = f", shares {min(shares):.1%} to {max(shares):.1%}" if shares else ""
    return f"and {len(hidden)} more{between}"


def _numbers(run: Progress, task: str, glyphs: Glyphs) -> dict[str, str]:
    """A task's numbers, by column. Share and weight are the newest step's, others the epoch's.

    Before the first epoch ends the loss is that step's, too.
    """
    now, epoch = run.at_step(task), run.after_epoch(task)
    return {
        "loss": number(epoch, "train_loss_original") if epoch else number(now, "loss_original"),
        "drop": percent(epoch, "drop"),
        "trivial": percent(epoch, "drop_trivial"),
        "val. skill": glyphs.replace(percent_with_error(epoch, "val_skill", "val_skill_error")),
        "share": percent(now, "grad_share", 0),
        "weight": number(now, "weight"),
    }


def _cells(run: Progress, task: str, view: Viewport, widths: dict[str, int]) -> dict[str, Cell]:
    """A task's cells, by column."""
    kind = run.alarm_of[task]["kind"].replace("_", " ") if task in run.alarm_of else ""
    negative = (run.after_epoch(task).get("val_skill") or 0) < 0
    share = run.at_step(task).get("grad_share")
    styles = {"loss": "bold", "val. skill": "red" if negative else "", "share": "cyan"}
    return {
        "task": (_label(run, task, view), "yellow" if kind else ""),
        "curve": (curve(run.curve(task), widths.get("curve", 0), view.glyphs), ""),
        "bar": (bar(share, widths.get("bar", 0), view.glyphs), "cyan"),
        "alarm": (kind, "yellow"),
        **{
            name: (text, styles.get(name, ""))
            for name, text in _numbers(run, task, view.glyphs).items()
        },
    }


def _label(run: Progress, task: str, view: Viewport) -> str:
    """A task's name with its loss's unit, and a mark, which needs no colour, if it has an alarm."""
    assert run.started is not None
    label = view.glyphs.replace(loss_label(task, run.started["tasks"][task]))
    return f"{'! ' if task in run.alarm_of else ''}{label}"


def _row(cells: Sequence[str]) -> str:
    return GAP.join(cells).rstrip()


def _padded(column: Column, width: int, text: str) -> str:
    padding = " " * max(0, width - cell_len(text))
    return padding + text if column.right else text + padding
