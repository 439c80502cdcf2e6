"""How far a run is, folded from its events one after another: no clock, no file, no terminal."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from job.journal import Line

POINTS = 128
"""Most events that are kept of a kind, to draw a curve."""
ALARMS = 50
"""Alarms that are kept, the newest."""


class Thinned:
    """Events of one kind, evenly thinned where there are many; the first one stays."""

    def __init__(self) -> None:
        self.events: list[Line] = []
        self._every, self._count = 1, 0

    def add(self, event: Line) -> None:
        """Keep it, or pass it over."""
        if self._count % self._every == 0:
            self.events.append(event)
            if len(self.events) > POINTS:
                del self.events[1::2]
                self._every *= 2
        self._count += 1

    def forget(self, from_seq: int) -> None:
        """Drop the events from this number on."""
        self.events = [event for event in self.events if event["seq"] < from_seq]
        self._count = len(self.events) * self._every


class Progress:
    """What a run's events have told so far."""

    def __init__(self) -> None:
        self.started: Line | None = None
        self.finished: Line | None = None
        self.epochs, self.steps = Thinned(), Thinned()
        self.epoch: Line | None = None
        """The newest."""
        self.step: Line | None = None
        """The newest; None where no step was taken since the run began or went on."""
        self.alarms: deque[Line] = deque(maxlen=ALARMS)
        self.alarm_count = 0
        self.troubled: dict[str, Line] = {}
        """By task, its newest alarm."""
        self.saved: Line | None = None
        """The newest checkpoint."""
        self.gates: dict[str, Line] = {}
        """By the gate in words, its verdict."""
        self.base: int = 0
        """Steps that were there when this attempt began."""
        self._first: Line | None = None
        """Step of this attempt, from which its pace is taken."""

    def take(self, event: Line) -> None:
        """Take in one event; one of an unknown kind says nothing."""
        taking = getattr(self, "_" + str(event["event"]).replace(".", "_"), None)
        if taking is not None:
            taking(event)

    # --- what follows from them ---------------------------------------------------------------

    @property
    def tasks(self) -> list[str]:
        """In the spec's order."""
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
        """Epochs of the whole run; None before the end of one tells how many steps each has."""
        if self.epoch is None or self.started is None:
            return None
        per_epoch: float = self.epoch["step"] / self.epoch["epoch"]
        return round(float(self.started["steps"]) / per_epoch)

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this attempt so far, evaluation and checkpoints included."""
        first, last = self._first, self._newest
        if first is None or last is None or self.started is None or last["step"] <= first["step"]:
            return None
        passed = datetime.fromisoformat(last["ts"]) - datetime.fromisoformat(first["ts"])
        pace = passed.total_seconds() / (last["step"] - first["step"])
        return float(pace * max(0, self.started["steps"] - last["step"]))

    @property
    def _newest(self) -> Line | None:
        """Of steps and epochs."""
        told = [e for e in (self.step, self.epoch) if e]
        return max(told, key=lambda e: int(e["seq"])) if told else None

    def at_step(self, task: str) -> Line:
        """What the newest step says of a task; empty before one."""
        return {} if self.step is None else dict(self.step["tasks"].get(task, {}))

    def after_epoch(self, task: str) -> Line:
        """What the newest epoch says of a task; empty before one."""
        return {} if self.epoch is None else dict(self.epoch["tasks"].get(task, {}))

    def curve(self, task: str) -> list[float | None]:
        """Its training loss in original units: by epoch, or by step where one epoch is not enough.

        None where it is not finite.
        """
        if len(self.epochs.events) > 1 or (self.epoch and not self.steps.events):
            told, name = self.epochs.events, "train_loss_original"
            told = told if told[-1] is self.epoch else [*told, self.epoch or {}]
        else:
            told, name = self.steps.events, "loss_original"
        return [event["tasks"].get(task, {}).get(name) for event in told]

    # --- one event each -----------------------------------------------------------------------

    def _run_started(self, e: Line) -> None:
        self.started, self.finished = e, None
        self.base = e.get("resumed_from", 0)
        self.step = self._first = None

    def _superseded(self, e: Line) -> None:
        first = e["from_seq"]
        self.base, self.step = e["step"], None
        self.epochs.forget(first)
        self.steps.forget(first)
        if self.epoch is not None and self.epoch["seq"] >= first:
            self.epoch = self.epochs.events[-1] if self.epochs.events else None
        self.gates = {name: gate for name, gate in self.gates.items() if gate["seq"] < first}

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
            self.troubled[e["task"]] = e

    def _checkpoint_saved(self, e: Line) -> None:
        self.saved = e

    def _gate(self, e: Line) -> None:
        self.gates[e["gate"]] = e

    def _run_finished(self, e: Line) -> None:
        self.finished = e
