"""A run's events on the screen while it is followed, with what its pods cost."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from deploy.runs.registry import PodRegistry
from job.events.log import Line
from job.show.console import Screen
from job.show.frame import PodCost
from job.show.lines import Readable
from job.show.live import Live, make_display


class EventDisplay:
    """Shows events as the job itself does; as lines on stderr if stdout is for JSON."""

    def __init__(self, registry: PodRegistry, as_json: bool) -> None:
        self._registry = registry
        self._sink = Readable(Screen(stderr=True)) if as_json else make_display()
        if isinstance(self._sink, Live):
            self._sink.store = registry.record.store
            self._sink.cost = self._cost

    def add(self, events: Iterable[Line]) -> None:
        """Show new events, and what has changed beside them."""
        for event in events:
            self._sink(event, "")
        self._sink.tick()

    def close(self) -> None:
        """Leave the screen as it was."""
        self._sink.close()

    def _cost(self) -> PodCost:
        record = self._registry.record
        cost, spent = record.attempts[-1].cost, record.spent(datetime.now(UTC))
        return PodCost(cost, spent, record.deadline)
