"""Which events of a run count: a return to a checkpoint supersedes the training after it."""

from __future__ import annotations

from collections.abc import Iterable

from job.events.log import Line

OF_TRAINING = frozenset({"step", "epoch", "gate", "predictions", "test", "run.finished"})
"""Kinds of events that a return to a checkpoint supersedes; all others stay true."""


class SupersededEvents:
    """Collects a run's events `superseded`, and knows which other events they supersede.

    An event `superseded` comes after the events that it names.
    """

    def __init__(self, events: Iterable[Line] = ()) -> None:
        self.returns: list[Line] = []
        """The events `superseded`, in the order in which they were added."""
        for event in events:
            self.add(event)

    def add(self, event: Line) -> None:
        """Collect an event `superseded`; any other is passed over."""
        if event["event"] == "superseded":
            self.returns.append(event)

    def of(self, event: Line) -> list[Line]:
        """The events `superseded` that supersede an event; none if it counts."""
        if event["event"] not in OF_TRAINING:
            return []
        return [r for r in self.returns if r["from_seq"] <= event["seq"] <= r["to_seq"]]

    def counts(self, event: Line) -> bool:
        """True if an event still counts."""
        return not self.of(event)
