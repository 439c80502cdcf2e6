"""Every number of a run's events, one at a time, with what it is: tidy, for any notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import NamedTuple

from job.journal import Line

ENVELOPE = frozenset({"ts", "schema", "run_id", "seq", "event", "step", "epoch", "tasks"})
"""Where a number is, not a number itself."""
TRAINED = frozenset({"loss", "loss_original", "drop", "skill", "saturated"})
"""Of the training split, though their names do not say so."""
UNITS = {
    **{"step_ms": "ms", "seconds": "s", "checkpoint_age": "s"},
    **{"size": "bytes", "samples_per_second": "samples/s"},
}
FLAG = "_nonfinite"


class Metric(NamedTuple):
    """What a number is of."""

    metric: str
    """The field's name, as in the events."""
    task: str | None = None
    other: str | None = None
    """The other task, of a cosine between two."""
    about: str | None = None
    """A gate in words, an alarm's kind, why the run ended."""

    @property
    def split(self) -> str | None:
        """The samples that it was measured on; None where it is of none."""
        if self.metric.startswith("val_"):
            return "validation"
        return "train" if self.metric.startswith("train_") or self.metric in TRAINED else None


class Told(NamedTuple):
    """An event with its numbers."""

    seq: int
    ts: datetime
    attempt: int
    """Which start of the run told it, from 1."""
    event: str
    step: int | None
    epoch: int | None
    counts: bool
    """False where a resume has taken it back."""
    values: list[tuple[Metric, float]]
    """Not a number where the record says that it was not finite."""


class Teller:
    """Turns a run's events, in their order, into their numbers."""

    def __init__(self) -> None:
        self.attempt = 0
        self.units: dict[str, str] = {}
        """Of the tasks' losses; older records do not tell them."""

    def tell(self, event: Line, counts: bool) -> Told:
        """One event."""
        if event["event"] == "run.started":
            self.attempt += 1
            self.units = {n: task.get("loss_unit", "") for n, task in event["tasks"].items()}
        return Told(
            event["seq"],
            datetime.fromisoformat(event["ts"]),
            self.attempt,
            event["event"],
            event.get("step"),
            event.get("epoch"),
            counts,
            list(_values(event)),
        )

    def unit(self, metric: Metric) -> str | None:
        """Of a number; None where it has none or the record does not tell."""
        if metric.metric.endswith("_original") or metric.metric.startswith("baseline_"):
            return self.units.get(metric.task or "") or None
        return UNITS.get(metric.metric)


_metric = cache(Metric)
"""A run has few, and millions of values of each."""


def _values(event: Line) -> Iterator[tuple[Metric, float]]:
    about = event.get("gate") or event.get("kind") or event.get("reason")
    if event["event"] == "alarm":
        yield _metric("alarm", event.get("task"), about=about), 1.0
        return
    for name, value in _numbers({k: v for k, v in event.items() if k not in ENVELOPE}):
        yield _metric(name, about=about), value
    for task, record in event.get("tasks", {}).items():
        for name, value in _numbers(record):
            yield _metric(name, task), value
        for other, value in _numbers(record.get("cosines", {})):
            yield _metric("cosines", task, other), value


def _numbers(record: Line) -> Iterator[tuple[str, float]]:
    """The numbers of a record; texts and lists are none."""
    for name, value in record.items():
        if value is None:
            yield name, math.nan
        elif isinstance(value, bool):
            if not (name.endswith(FLAG) and name.removesuffix(FLAG) in record):
                yield name, float(value)
        elif isinstance(value, int | float):
            yield name, float(value)
