"""Telling an event's line from garbage, before a reader relies on its fields."""

from __future__ import annotations

from typing import get_args

from pydantic import BaseModel

from job.events.at_end import FinalTestTask
from job.events.types import EpochTask, Event, StepTask, TaskSetup

YOUNGER = frozenset({"saturated", "cosines"})
"""Fields that the records of older versions lack."""
COUNTS = ("step", "epoch", "steps", "epochs", "from_seq", "to_seq", "exit_code", "size", "rows")
"""Fields that are whole numbers."""
NUMBERS = frozenset({float, int, bool, type(None), dict})
"""Types of what a step or an epoch says of a task; a dict holds the cosines by task."""


def _always_written(record: type[BaseModel]) -> frozenset[str]:
    """The fields that every record of a kind has: not one that may be left out."""
    return (
        frozenset(
            name
            for name, field in record.model_fields.items()
            if field.is_required() and type(None) not in get_args(field.annotation)
        )
        - YOUNGER
    )


REQUIRED = {
    kind.model_fields["event"].default: _always_written(kind)
    for kind in get_args(get_args(Event)[0])
}
"""By kind of event."""
REQUIRED_COUNTS = {
    kind: tuple(name for name in COUNTS if name in names) for kind, names in REQUIRED.items()
}
"""Of those, the whole numbers."""
REQUIRED_OF_TASK = {
    "run.started": _always_written(TaskSetup),
    "step": _always_written(StepTask),
    "epoch": _always_written(EpochTask),
    "test": _always_written(FinalTestTask),
}
"""Fields of each task in an event."""


def is_event(line: object) -> bool:
    """True if a parsed line has the fields of its kind, and numbers where readers calculate.

    An event of a kind that a newer version writes needs `ts`, `seq` and `event` alone. Plain loops:
    a long run has millions of lines, and this takes half as long as parsing them.
    """
    if type(line) is not dict or type(line.get("seq")) is not int:
        return False
    kind = line.get("event")
    if type(kind) is not str or type(line.get("ts")) is not str:
        return False
    if kind not in REQUIRED:
        return True
    if not REQUIRED[kind] <= line.keys():
        return False
    for name in REQUIRED_COUNTS[kind]:
        if type(line[name]) is not int:
            return False
    return kind not in REQUIRED_OF_TASK or _has_tasks(kind, line["tasks"])


def _has_tasks(kind: str, tasks: object) -> bool:
    """True if an event's tasks have the fields that it needs."""
    if type(tasks) is not dict:
        return False
    required, of_numbers = REQUIRED_OF_TASK[kind], kind != "run.started"
    for task in tasks.values():
        if type(task) is not dict or not required <= task.keys():
            return False
        if of_numbers and not NUMBERS.issuperset(map(type, task.values())):
            return False
    return True
