"""How a run's numbers are spelled, on the screen and in every text: one way for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from job.journal import Line


def number(record: Line, name: str, digits: int = 4) -> str:
    """Of a record; nan where it is not finite, a dash where it is not there."""
    return _spelled(record, name, f".{digits}g")


def percent(record: Line, name: str, digits: int = 1) -> str:
    """A share of a record, likewise."""
    return _spelled(record, name, f".{digits}%")


def _spelled(record: Line, name: str, form: str) -> str:
    value = record.get(name)
    return f"{value:{form}}" if value is not None else "nan" if name in record else "-"


def measured(gate: Line) -> str:
    """What a gate has measured, in its unit."""
    return (percent if gate["unit"] == "share" else number)(gate, "measured")


def counted(count: int, noun: str) -> str:
    """`1 step`, `1,260 steps`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """`1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def size(count: float) -> str:
    """Of bytes, `378 kB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def loss_label(task: str, facts: Line) -> str:
    """A task with its loss's unit, where the record tells one."""
    unit = facts.get("loss_unit")
    return f"{task}, {unit}" if unit else task
