"""Which events of a run count: a return to a checkpoint supersedes the training after it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from job.events.log import Line

OF_TRAINING = frozenset({"step", "epoch", "gate", "predictions", "test", "run.finished"})
"""Kinds of events that a return to a checkpoint supersedes; all others stay true."""


class SupersededEvents:
    """Collects a run's events `superseded`, and knows which other events they supersede.

    An event `superseded` comes after the events that it names. A long run has many of them, and
    each of its events is asked about: that takes a search, not a look at each return.
    """

    def __init__(self, events: Iterable[Line] = ()) -> None:
        self.returns: list[Line] = []
        """The events `superseded`, in the order in which they were added."""
        self._sorted: list[Line] | None = None
        """By the last event that they supersede; None if it is to be sorted anew."""
        self._ends: list[int] = []
        """Of each in that order, the last event."""
        self._begins: list[int] = []
        """Of each and all that come after it, the first event of all."""
        for event in events:
            self.add(event)

    def add(self, event: Line) -> None:
        """Collect an event `superseded`; any other is passed over."""
        if event["event"] == "superseded":
            self.returns.append(event)
            self._sorted = None

    def of(self, event: Line) -> list[Line]:
        """The events `superseded` that supersede an event; none if it counts."""
        if event["event"] not in OF_TRAINING or not self.returns:
            return []
        returns, seq = self._in_order(), event["seq"]
        found: list[Line] = []
        place = bisect_left(self._ends, seq)
        while place < len(returns) and self._begins[place] <= seq:
            if returns[place]["from_seq"] <= seq:
                found.append(returns[place])
            place += 1
        return found

    def counts(self, event: Line) -> bool:
        """True if an event still counts."""
        return not self.of(event)

    def _in_order(self) -> list[Line]:
        if self._sorted is None:
            self._sorted = sorted(self.returns, key=lambda each: int(each["to_seq"]))
            self._ends = [each["to_seq"] for each in self._sorted]
            firsts = accumulate((each["from_seq"] for each in reversed(self._sorted)), min)
            self._begins = list(firsts)[::-1]
        return self._sorted
