"""The numbers of a run's events, each with what it is of: tidy data for any notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import NamedTuple

from job.events.log import Line
from job.spec.tasks import METRICS

ENVELOPE = frozenset({"ts", "schema", "run_id", "seq", "event", "step", "epoch", "tasks"})
"""Fields that say where a number belongs; they are no numbers of their own."""
TRAINED = frozenset(
    {"loss", "loss_original", "drop", "drop_trivial", "saturated"}
    | {"skill", "skill_error", "skill_low"}
)
"""Fields of the training split whose names do not say so."""
SPLITS = {"train_": "train", "val_": "validation", "test_": "test"}
"""By what a number's name begins with, the split that it is of."""
OF_SPLIT = {"metrics": "train_", "val_metrics": "val_"}
"""What a task's metrics are named after: `train_accuracy`, `val_accuracy`."""
UNITS = {
    **{"step_ms": "ms", "seconds": "s", "checkpoint_age": "s"},
    **{"size": "bytes", "samples_per_second": "samples/s"},
}
FLAG = "_nonfinite"


class Metric(NamedTuple):
    """What a number measures, and of what."""

    metric: str
    """The field's name, as in the events."""
    task: str | None = None
    other: str | None = None
    """The other task of a cosine."""
    about: str | None = None
    """A gate's text, an alarm's kind, or why the run ended."""

    @property
    def split(self) -> str | None:
        """The split that it was measured on; None if it was measured on no samples."""
        for prefix, split in SPLITS.items():
            if self.metric.startswith(prefix):
                return split
        return "train" if self.metric in TRAINED else None


class EventMetrics(NamedTuple):
    """An event with its numbers."""

    seq: int
    ts: datetime
    attempt: int
    """The start of the run that recorded it, from 1."""
    event: str
    step: int | None
    epoch: int | None
    counts: bool
    """False if a resume has superseded it."""
    values: list[tuple[Metric, float]]
    """NaN if the record says that a number was not finite."""


class MetricExtractor:
    """Extracts the numbers of a run's events, which come in their order."""

    def __init__(self) -> None:
        self.attempt = 0
        self.units: dict[str, str] = {}
        """Units of the tasks' losses; older records lack them."""
        self.target_units: dict[str, str] = {}
        """Units of their targets."""

    def extract(self, event: Line, counts: bool) -> EventMetrics:
        """The numbers of one event."""
        if event["event"] == "run.started":
            self.attempt += 1
            self.units = {n: task.get("loss_unit", "") for n, task in event["tasks"].items()}
            self.target_units = {n: task["unit"] for n, task in event["tasks"].items()}
        return EventMetrics(
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
        """The unit of a number; None if it has none, or the record lacks it."""
        name = metric.metric
        if name.endswith(("_original", "_loss_error")) or name.startswith("baseline_"):
            return self.units.get(metric.task or "") or None
        measured = METRICS.get(metric.metric.partition("_")[2])
        if measured is not None and measured.has_unit:
            return self.target_units.get(metric.task or "") or None
        return UNITS.get(metric.metric)


_metric = cache(Metric)
"""A run has few metrics, and millions of values of each."""


def _values(event: Line) -> Iterator[tuple[Metric, float]]:
    about = event.get("gate") or event.get("kind") or event.get("reason")
    if event["event"] == "alarm":
        yield _metric("alarm", event.get("task"), about=about), 1.0
        return
    if event["event"] == "predictions":
        yield _metric(f"{_prefix(event['split'])}labels", event["task"]), float(event["labels"])
        return
    if event["event"] == "test":
        yield _metric("test_samples"), float(event["samples"])
        for task, record in event["tasks"].items():
            for name, value in _numbers(record | record.get("metrics", {})):
                yield _metric(f"test_{name}", task), value
        return
    for name, value in _numbers({k: v for k, v in event.items() if k not in ENVELOPE}):
        yield _metric(name, about=about), value
    for task, record in event.get("tasks", {}).items():
        for name, value in _numbers(record):
            yield _metric(name, task), value
        for other, value in _numbers(record.get("cosines", {})):
            yield _metric("cosines", task, other), value
        for field, prefix in OF_SPLIT.items():
            for name, value in _numbers(record.get(field, {})):
                yield _metric(f"{prefix}{name}", task), value


def _prefix(split: str) -> str:
    """What the names of numbers of a split begin with."""
    return next((prefix for prefix, name in SPLITS.items() if name == split), "")


def _numbers(record: Line) -> Iterator[tuple[str, float]]:
    """The numbers of a record by field; texts and lists are left out."""
    for name, value in record.items():
        if value is None:
            yield name, math.nan
        elif isinstance(value, bool):
            if not (name.endswith(FLAG) and name.removesuffix(FLAG) in record):
                yield name, float(value)
        elif isinstance(value, int | float):
            yield name, float(value)
