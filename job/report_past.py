"""What a run's events leave of it for a report: columns of values, and what happened at which step.

They are taken from the end: what supersedes a step then comes before it, and the last step tells
how many there are. Of a run of any length only columns are kept (job.report_columns).
"""

from __future__ import annotations

from itertools import combinations

from job.history import OF_TRAINING
from job.journal import Line
from job.report_columns import Columns, Value

MOST_COLUMNS = 1000
"""As many as a wide chart has pixels."""
COSINE_COLUMNS = 240
LEAST_COLUMNS = 50
OF_STEP = ("loss_original", "grad_share", "weight")
"""What is shown of a task at every step."""
OF_EPOCH = ("train_loss_original", "val_loss_original")
"""And at every epoch."""


class Past:
    """Takes a run's events, the last one first."""

    def __init__(self, numbers: int) -> None:
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
        """Those read, latest first."""
        self.checkpoints: list[int] = []
        self.broken: dict[str, int] = {}
        """By task, the first step whose loss is not finite."""
        self.gone: list[Line] = []
        """Events `superseded`, and of each in `to_step` the last step that it undid."""
        self._steps: Columns | None = None
        self._epochs: Columns | None = None
        self._cosines: Columns | None = None

    def add(self, event: Line) -> None:
        """Take one event."""
        self.last_time = self.last_time or event["ts"]
        self.first_time = event["ts"]
        kind = event["event"]
        if kind in OF_TRAINING and self._is_gone(event):
            return
        if kind in TAKEN:
            TAKEN[kind](self, event)

    def _is_gone(self, event: Line) -> bool:
        found = False
        for undone in self.gone:
            if undone["from_seq"] <= event["seq"] <= undone["to_seq"]:
                found = True
                if event["event"] == "step":
                    undone["to_step"] = max(undone["to_step"], event["step"])
        return found

    def _started(self, event: Line) -> None:
        self.started.append(event)

    def _finished(self, event: Line) -> None:
        if not self.started and self.finished is None:  # or the run went on after it
            self.finished = event

    def _superseded(self, event: Line) -> None:
        self.gone.append({**event, "to_step": event["step"]})

    def _alarm(self, event: Line) -> None:
        self.alarms.append({k: event[k] for k in ("step", "kind", "message", "task") if k in event})

    def _gate(self, event: Line) -> None:
        self.gates.append(event)

    def _checkpoint(self, event: Line) -> None:
        self.checkpoints.append(event["step"])

    def _step(self, event: Line) -> None:
        tasks = event["tasks"]
        if self._steps is None:
            self.tasks, self.last_step = list(tasks), event["step"]
            most = self.numbers // (3 * (len(OF_STEP) * len(tasks) + 1))
            most = max(LEAST_COLUMNS, min(MOST_COLUMNS, most))
            self._steps = Columns(event["step"], most)
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
            self._epochs = Columns(number, MOST_COLUMNS)
            self._cosines = Columns(number, COSINE_COLUMNS)
        self._epochs.add(number, [task[field] for task in tasks.values() for field in OF_EPOCH])
        pairs = combinations(tasks, 2)
        self._cosines.add(number, [tasks[a].get("cosines", {}).get(b) for a, b in pairs])

    def told_steps(self) -> Line:
        """By step."""
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

    def told_epochs(self) -> Line:
        """By epoch."""
        series = iter(self._epochs.series() if self._epochs else [])
        names = self.last_epoch["tasks"] if self.last_epoch else ()
        return {
            "width": self._epochs.width if self._epochs else 1,
            "tasks": {name: {field: next(series) for field in OF_EPOCH} for name in names},
        }

    def told_cosines(self) -> Line | None:
        """By epoch; None where no event tells them. Of several epochs the lowest one counts."""
        if self._cosines is None or self.last_epoch is None:
            return None
        pairs = list(combinations(self.last_epoch["tasks"], 2))
        rows = [each.get("low", each["mean"]) for each in self._cosines.series()]
        if all(value is None for row in rows for value in row):
            return None
        return {"width": self._cosines.width, "pairs": pairs, "values": rows}

    def told_marks(self) -> Line:
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
                [e["step"], e["to_step"]] for e in self.gone[::-1] if e["to_step"] > e["step"]
            ],
            "broken": self.broken,
        }


TAKEN = {
    "run.started": Past._started,
    "run.finished": Past._finished,
    "superseded": Past._superseded,
    "alarm": Past._alarm,
    "gate": Past._gate,
    "checkpoint.saved": Past._checkpoint,
    "step": Past._step,
    "epoch": Past._epoch,
}
