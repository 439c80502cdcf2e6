"""How far a run is, folded from its events one after another: no clock, no file, no terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime

from job.events.log import Line
from job.events.superseded import SupersededEvents

POINTS = 128
"""Events of one kind that are kept at most, to draw a curve."""
ALARMS = 50
"""Alarms that are kept at most, the newest."""


class Thinned:
    """Events of one kind, evenly thinned if there are many; the first one stays."""

    def __init__(self) -> None:
        self.events: list[Line] = []
        self._every, self._count = 1, 0

    def add(self, event: Line) -> None:
        """Keep the event, or skip it."""
        if self._count % self._every == 0:
            self.events.append(event)
            if len(self.events) > POINTS:
                del self.events[1::2]
                self._every *= 2
        self._count += 1

    def drop(self, superseded: SupersededEvents) -> None:
        """Drop the events that count no more."""
        self.events = list(filter(superseded.counts, self.events))
        self._count = len(self.events) * self._every


class Progress:
    """The state of a run after the events so far."""

    def __init__(self) -> None:
        self.started: Line | None = None
        self.finished: Line | None = None
        self.epochs, self.steps = Thinned(), Thinned()
        self.epoch: Line | None = None
        """The newest."""
        self.step: Line | None = None
        """The newest; None if no step was taken since the run began or was resumed."""
        self.alarms: deque[Line] = deque(maxlen=ALARMS)
        self.alarm_count = 0
        self.alarm_of: dict[str, Line] = {}
        """By task, its newest alarm."""
        self.saved: Line | None = None
        """The newest checkpoint."""
        self.gates: dict[str, Line] = {}
        """By the gate's text, its verdict."""
        self.base: int = 0
        """The step after which this attempt began."""
        self._first: Line | None = None
        """The first step of this attempt, from which its pace is computed."""

    def take(self, event: Line) -> None:
        """Take in one event; an event of an unknown kind changes nothing."""
        if handler := HANDLERS.get(event["event"]):
            handler(self, event)

    # --- what follows from the events ---------------------------------------------------------

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the spec's order."""
        return list(self.started["tasks"]) if self.started else []

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return max(self.base, *(int(e["step"]) for e in (self.step, self.epoch) if e), 0)

    @property
    def epoch_number(self) -> int:
        """The epoch in which the run is, from 1."""
        return max(1, *(int(e["epoch"]) for e in (self.step, self.epoch) if e), 1)

    @property
    def epoch_count(self) -> int | None:
        """Epochs of the whole run; None before the first epoch ends, as its steps are unknown."""
        if self.epoch is None or self.started is None:
            return None
        per_epoch: float = self.epoch["step"] / self.epoch["epoch"]
        return round(float(self.started["steps"]) / per_epoch)

    @property
    def seconds_left(self) -> float | None:
        """Seconds left at the pace of this attempt so far, evaluation and checkpoints included."""
        first, last = self._first, self._newest
        if first is None or last is None or self.started is None or last["step"] <= first["step"]:
            return None
        passed = datetime.fromisoformat(last["ts"]) - datetime.fromisoformat(first["ts"])
        pace = passed.total_seconds() / (last["step"] - first["step"])
        return float(pace * max(0, self.started["steps"] - last["step"]))

    @property
    def _newest(self) -> Line | None:
        """The newest event among steps and epochs."""
        events = [e for e in (self.step, self.epoch) if e]
        return max(events, key=lambda e: int(e["seq"])) if events else None

    def at_step(self, task: str) -> Line:
        """A task's record in the newest step; empty before the first one."""
        return {} if self.step is None else dict(self.step["tasks"].get(task, {}))

    def after_epoch(self, task: str) -> Line:
        """A task's record in the newest epoch; empty before the first one."""
        return {} if self.epoch is None else dict(self.epoch["tasks"].get(task, {}))

    def curve(self, task: str) -> list[float | None]:
        """A task's training loss in original units: by epoch, or by step until there are two.

        None if it is not finite.
        """
        if len(self.epochs.events) > 1 or (self.epoch and not self.steps.events):
            events, name = self.epochs.events, "train_loss_original"
            events = events if events[-1] is self.epoch else [*events, self.epoch or {}]
        else:
            events, name = self.steps.events, "loss_original"
        return [event["tasks"].get(task, {}).get(name) for event in events]

    # --- one event each -----------------------------------------------------------------------

    def _run_started(self, e: Line) -> None:
        self.started, self.finished = e, None
        self.base = e.get("resumed_from", 0)
        self.step = self._first = None

    def _superseded(self, e: Line) -> None:
        superseded = SupersededEvents([e])
        self.base, self.step = e["step"], None
        self.epochs.drop(superseded)
        self.steps.drop(superseded)
        if self.epoch is not None and not superseded.counts(self.epoch):
            self.epoch = self.epochs.events[-1] if self.epochs.events else None
        self.gates = {name: gate for name, gate in self.gates.items() if superseded.counts(gate)}

    def _step(self, e: Line) -> None:
        self.step = e
        self._first = self._first or e
        self.steps.add(e)

    def _epoch(self, e: Line) -> None:
        self.epoch = e
        self.epochs.add(e)

    def _alarm(self, e: Line) -> None:
        self.alarms.append(e)
        self.alarm_count += 1
        if "task" in e:
            self.alarm_of[e["task"]] = e

    def _checkpoint_saved(self, e: Line) -> None:
        self.saved = e

    def _gate(self, e: Line) -> None:
        self.gates[e["gate"]] = e

    def _run_finished(self, e: Line) -> None:
        self.finished = e


HANDLERS: dict[str, Callable[[Progress, Line], None]] = {
    "run.started": Progress._run_started,
    "superseded": Progress._superseded,
    "step": Progress._step,
    "epoch": Progress._epoch,
    "alarm": Progress._alarm,
    "checkpoint.saved": Progress._checkpoint_saved,
    "gate": Progress._gate,
    "run.finished": Progress._run_finished,
}
