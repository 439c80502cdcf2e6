"""The end of a run as tables: a row for each task, a row for each gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from job.events.log import Line
from job.show.columns import TextColumn, fitted_table
from job.show.console import literal
from job.show.format import (
    format_metric,
    format_number,
    loss_label,
    measurement,
    number,
    percent,
    percent_with_error,
)
from job.show.glyphs import Glyphs

LEAST_NAME = 10
"""Characters of a task's name, or of a gate, before it is broken."""
MOST_METRICS = 12
"""Tasks that are shown in a line below the table."""
WANTED = (
    *("task", "loss", "val. skill", "drop", "trivial drop", "share", "skill"),
    *("val. loss", "trivial loss", "weight"),
)
"""Columns of the summary; the first ones stay on a narrow terminal."""


def summary(started: Line, epoch: Line, width: int, glyphs: Glyphs) -> Table:
    """The tasks after an epoch, in `width` characters; started: {} if it is not known."""
    setups = {name: started.get("tasks", {}).get(name, {}) for name in epoch["tasks"]}
    tasks = [_cells(setups[name], task, glyphs) for name, task in epoch["tasks"].items()]
    names = [Text(glyphs.replace(loss_label(name, setup))) for name, setup in setups.items()]
    columns = [TextColumn("task", names, folded=LEAST_NAME)]
    columns += [
        TextColumn(title, [task[title] for task in tasks], right=True) for title in tasks[0]
    ]
    units = "losses in original units; share at z and weight: epoch means"
    errors = glyphs.replace(_sampled(started, epoch))
    title = f"after epoch {epoch['epoch']}; {units}{errors and '; '}{errors}"
    return fitted_table(columns, WANTED, width, title)


def _cells(setup: Line, task: Line, glyphs: Glyphs) -> dict[str, Text]:
    """A task's numbers, by column."""
    trivial = [setup.get("baseline_constant"), setup.get("baseline_per_position")]
    trivial.append(setup.get("trivial", {}).get("train"))
    known = [loss for loss in trivial if loss is not None]
    cells = {
        "loss": number(task, "train_loss_original"),
        "trivial loss": format_number(min(known)) if known else "-",
        "drop": percent(task, "drop"),
        "trivial drop": percent(task, "drop_trivial"),
        "skill": percent_with_error(task, "skill", "skill_error"),
        "val. loss": number(task, "val_loss_original"),
        "val. skill": percent_with_error(task, "val_skill", "val_skill_error"),
        "share": percent(task, "grad_share"),
        "weight": number(task, "weight"),
    }
    return {title: Text(glyphs.replace(text)) for title, text in cells.items()}


def _gate(gate: Line) -> str:
    """A gate's text, and why it has no measurement."""
    return f"{gate['gate']}: {gate['why']}" if gate.get("why") else str(gate["gate"])


def verdict(gates: list[Line], width: int, glyphs: Glyphs) -> Table:
    """The gates and whether they passed, in `width` characters."""
    verdicts = [
        Text("passed", "green") if gate["passed"] else Text("failed", "red") for gate in gates
    ]
    columns = [
        TextColumn("gate", [Text(_gate(gate)) for gate in gates], folded=LEAST_NAME),
        TextColumn(
            "measured", [Text(glyphs.replace(measurement(gate))) for gate in gates], right=True
        ),
        TextColumn("verdict", verdicts),
    ]
    return fitted_table(columns, ("verdict", "measured", "gate"), width, "gates")


def metrics(started: Line, epoch: Line) -> str | None:
    """Each task's first metric on the validation split, in a line; None if there is none.

    Beside it the share of crossing quantiles, if some cross.
    """
    shown = []
    for name, task in epoch["tasks"].items():
        unit = started.get("tasks", {}).get(name, {}).get("unit", "")
        measured = task.get("val_metrics", {})
        for metric, value in list(measured.items())[:1]:
            shown.append(f"{name} {format_metric(metric, value, unit)}")
        if measured.get("crossing") and next(iter(measured)) != "crossing":
            shown[-1] += f" (crossing {measured['crossing']:.2g})"
    return f"on the validation split: {_listed(shown)}" if shown else None


def _sampled(started: Line, epoch: Line) -> str:
    """Of how many samples the training losses are, and their errors; "" if of all of them."""
    shown = [
        f"{name} {number(task, 'train_loss_error', 2)}"
        for name, task in epoch["tasks"].items()
        if "train_loss_error" in task
    ]
    if not shown or not started:
        return ""
    evaluated, count = started["evaluated"], started["samples"]["train"]
    return literal(f"loss: of {evaluated:,} of {count:,} samples, standard errors {_listed(shown)}")


def on_test(started: Line, finished: Line) -> str | None:
    """Each task's skill and first metric on the test split, in a line; None without a test."""
    shown = []
    for name, task in finished.get("test", {}).items():
        unit = started.get("tasks", {}).get(name, {}).get("unit", "")
        first = list(task.get("metrics", {}).items())[:1]
        skill = percent_with_error(task, "skill", "skill_error") if "skill" in task else None
        words = [f"skill {skill}"] if skill else []
        words += [format_metric(metric, value, unit) for metric, value in first]
        shown.append(f"{name} {' and '.join(words or ['no skill'])}")
    return f"on the test split, read once: {_listed(shown)}" if shown else None


def _listed(shown: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = [f"{len(shown) - MOST_METRICS} more"] if len(shown) > MOST_METRICS else []
    return ", ".join([*shown[:MOST_METRICS], *more])


def worth(finished: Line) -> Iterator[Text]:
    """What the run is worth, in words: green only if every task beats the trivial prediction."""
    found = finished.get("worth", {})
    if not found:
        return
    if finished.get("control"):
        yield Text(
            "a control: the targets were permuted, so that there is nothing to learn", "cyan"
        )
    beating = [name for name, task in found.items() if task["beats"]]
    unsure = [name for name, task in found.items() if not task["beats"] and "skill" in task]
    untold = [
        f"{name}: {task.get('why', '-')}" for name, task in found.items() if "skill" not in task
    ]

    def skills(names: Sequence[str]) -> str:
        return ", ".join(f"{n} {percent_with_error(found[n], 'skill', 'error')}" for n in names)

    if beating and finished.get("control"):
        yield Text(
            f"a control must not beat the trivial prediction, and this one does: "
            f"{skills(beating)}; its samples are not independent, or chance did it",
            "red",
        )
    elif beating:
        text = f"beats the trivial prediction on the validation split: {skills(beating)}"
        yield Text(text, "yellow" if unsure or untold else "green")
    if unsure:
        text = "does not surely beat the trivial prediction on the validation split: "
        yield Text(f"{text}{skills(unsure)}", "red")
    if untold:
        yield Text(f"the validation split cannot tell: {'; '.join(untold)}", "yellow")
