"""What a report keeps of a run's events: columns of values, and what happened at which step.

Events are read from the end: what supersedes a step then comes before it, and the last step says
how many there are. However long a run is, only columns are kept (job.report.downsample).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from job.events.log import Line
from job.events.superseded import SupersededEvents
from job.report.downsample import Downsampler, Value

MOST_COLUMNS = 1000
"""As many as a wide chart has pixels."""
COSINE_COLUMNS = 240
LEAST_COLUMNS = 50
OF_STEP = ("loss_original", "grad_share", "weight")
"""A task's fields that are drawn for every step."""
OF_EPOCH = ("train_loss_original", "val_loss_original")
"""A task's fields that are drawn for every epoch."""


class RunFold:
    """Takes a run's events, the last one first."""

    def __init__(self, numbers: int) -> None:
        """numbers: of steps, to keep at most, about."""
        self.numbers = numbers
        self.started: list[Line] = []
        """Latest first."""
        self.finished: Line | None = None
        self.first_epoch: Line | None = None
        self.last_epoch: Line | None = None
        self.first_time: str | None = None
        self.last_time: str | None = None
        self.tasks: list[str] = []
        self.last_step = 0
        self.alarms: list[Line] = []
        self.gates: list[Line] = []
        """Those that were read, latest first."""
        self.predictions: list[Line] = []
        """What plots show at the end, latest first."""
        self.test: Line | None = None
        """What the test split has shown."""
        self.checkpoints: list[int] = []
        self.broken: dict[str, int] = {}
        """By task, the first step whose loss is not finite."""
        self.superseded = SupersededEvents()
        """With `to_step` in each of its events: the last step that it supersedes."""
        self._steps: Downsampler | None = None
        self._epochs: Downsampler | None = None
        self._cosines: Downsampler | None = None

    def add(self, event: Line) -> None:
        """Take one event."""
        self.last_time = self.last_time or event["ts"]
        self.first_time = event["ts"]
        kind = event["event"]
        superseding = self.superseded.of(event)
        if kind == "step":
            for each in superseding:
                each["to_step"] = max(each["to_step"], event["step"])
        if not superseding and kind in HANDLERS:
            HANDLERS[kind](self, event)

    def _started(self, event: Line) -> None:
        self.started.append(event)

    def _finished(self, event: Line) -> None:
        if not self.started and self.finished is None:  # else the run was resumed after it
            self.finished = event

    def _superseded(self, event: Line) -> None:
        self.superseded.add({**event, "to_step": event["step"]})

    def _alarm(self, event: Line) -> None:
        self.alarms.append({k: event[k] for k in ("step", "kind", "message", "task") if k in event})

    def _gate(self, event: Line) -> None:
        self.gates.append(event)

    def _predictions(self, event: Line) -> None:
        self.predictions.append(event)

    def _test(self, event: Line) -> None:
        self.test = event

    def _checkpoint(self, event: Line) -> None:
        self.checkpoints.append(event["step"])

    def _step(self, event: Line) -> None:
        tasks = event["tasks"]
        if self._steps is None:
            self.tasks, self.last_step = list(tasks), event["step"]
            most = self.numbers // (3 * (len(OF_STEP) * len(tasks) + 1))
            most = max(LEAST_COLUMNS, min(MOST_COLUMNS, most))
            self._steps = Downsampler(event["step"], most)
        row: list[Value] = [task[field] for task in tasks.values() for field in OF_STEP]
        if None in row:
            self.broken |= {
                n: event["step"] for n, t in tasks.items() if t["loss_original"] is None
            }
        row.append(event.get("cosine_min"))
        self._steps.add(event["step"], row)

    def _epoch(self, event: Line) -> None:
        tasks, number = event["tasks"], event["epoch"]
        self.first_epoch = event
        if self._epochs is None or self._cosines is None:
            self.last_epoch = event
            self._epochs = Downsampler(number, MOST_COLUMNS)
            self._cosines = Downsampler(number, COSINE_COLUMNS)
        self._epochs.add(number, [task[field] for task in tasks.values() for field in OF_EPOCH])
        pairs = combinations(tasks, 2)
        self._cosines.add(number, [tasks[a].get("cosines", {}).get(b) for a, b in pairs])

    def steps(self) -> Line:
        """The tasks' values by step, and the lowest cosine."""
        series = self._steps.series() if self._steps else []
        by_task = iter(series[:-1])
        return {
            "last": self.last_step,
            "width": self._steps.width if self._steps else 1,
            "tasks": {name: {field: next(by_task) for field in OF_STEP} for name in self.tasks}
            if series
            else {},
            "cosine_min": series[-1] if series else {"mean": []},
        }

    def epochs(self) -> Line:
        """The tasks' values by epoch."""
        series = iter(self._epochs.series() if self._epochs else [])
        names = self.last_epoch["tasks"] if self.last_epoch else ()
        return {
            "width": self._epochs.width if self._epochs else 1,
            "tasks": {name: {field: next(series) for field in OF_EPOCH} for name in names},
        }

    def cosines(self) -> Line | None:
        """The cosine of each pair of tasks by epoch; the lowest if a column has several epochs.

        None if no event has cosines.
        """
        if self._cosines is None or self.last_epoch is None:
            return None
        pairs = list(combinations(self.last_epoch["tasks"], 2))
        rows = [each.get("low", each["mean"]) for each in self._cosines.series()]
        if all(value is None for row in rows for value in row):
            return None
        return {"width": self._cosines.width, "pairs": pairs, "values": rows}

    def marks(self) -> Line:
        """What happened, by step."""
        width = self._steps.width if self._steps else 1
        kept = {(step - 1) // width: step for step in self.checkpoints}  # one a column
        return {
            "alarms": self.alarms[::-1],
            "checkpoints": sorted(kept.values()),
            "checkpoint_count": len(self.checkpoints),
            "resumes": [e["resumed_from"] for e in self.started[::-1] if "resumed_from" in e],
            "restarts": len(self.started) - 1,
            "superseded": [
                [e["step"], e["to_step"]]
                for e in self.superseded.returns[::-1]
                if e["to_step"] > e["step"]
            ],
            "broken": self.broken,
        }


HANDLERS: dict[str, Callable[[RunFold, Line], None]] = {
    "run.started": RunFold._started,
    "run.finished": RunFold._finished,
    "superseded": RunFold._superseded,
    "alarm": RunFold._alarm,
    "gate": RunFold._gate,
    "predictions": RunFold._predictions,
    "test": RunFold._test,
    "checkpoint.saved": RunFold._checkpoint,
    "step": RunFold._step,
    "epoch": RunFold._epoch,
}
