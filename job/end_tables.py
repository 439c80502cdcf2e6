"""What became of a run as tables: a row for every task, a row for every gate."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from job.columns import Told, fitted
from job.figures import loss_label, measured, number, percent
from job.glyphs import Glyphs
from job.journal import Line

LEAST_NAME = 10
"""Characters of a task's name, or of a gate, before it is broken."""
WANTED = (
    *("task", "loss", "skill", "drop", "share", "trivial"),
    *("val. loss", "val. skill", "weight"),
)
"""Columns of the summary, those first that stay on a narrow terminal."""


def summary(started: Line, epoch: Line, width: int, glyphs: Glyphs) -> Table:
    """The tasks after an epoch, in so many characters; started: {} where it is not known."""
    facts = {name: started.get("tasks", {}).get(name, {}) for name in epoch["tasks"]}
    tasks = [_outcome(facts[name], task) for name, task in epoch["tasks"].items()]
    names = [Text(glyphs.of(loss_label(name, told))) for name, told in facts.items()]
    columns = [Told("task", names, folded=LEAST_NAME)]
    columns += [Told(title, [task[title] for task in tasks], right=True) for title in tasks[0]]
    what = "losses in original units; share at z and weight: epoch means"
    return fitted(columns, WANTED, width, f"after epoch {epoch['epoch']}; {what}")


def _outcome(facts: Line, task: Line) -> dict[str, Text]:
    """A task's numbers, by column."""
    trivial = [facts.get("baseline_constant"), facts.get("baseline_per_position")]
    known = [loss for loss in trivial if loss is not None]
    told = {
        "loss": number(task, "train_loss_original"),
        "trivial": number({"least": min(known)} if known else {}, "least"),
        "skill": percent(task, "skill"),
        "drop": percent(task, "drop"),
        "val. loss": number(task, "val_loss_original"),
        "val. skill": percent(task, "val_skill"),
        "share": percent(task, "grad_share"),
        "weight": number(task, "weight"),
    }
    return {title: Text(text) for title, text in told.items()}


def verdict(gates: list[Line], width: int) -> Table:
    """The gates, in so many characters."""
    verdicts = [
        Text("passed", "green") if gate["passed"] else Text("failed", "red") for gate in gates
    ]
    columns = [
        Told("gate", [Text(gate["gate"]) for gate in gates], folded=LEAST_NAME),
        Told("measured", [Text(measured(gate)) for gate in gates], right=True),
        Told("verdict", verdicts),
    ]
    return fitted(columns, ("verdict", "measured", "gate"), width, "gates")
