"""Which of a run's events a user wants to see, and what of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args

from deploy.exits import INVALID, CommandError
from job.events import Event
from job.events.log import Line

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class EventFilter:
    """Conditions on events; None or empty: no condition."""

    task: str | None = None
    kinds: frozenset[str] = frozenset()
    since: datetime | None = None
    last: int | None = None
    """How many of the newest events."""

    @property
    def takes_all(self) -> bool:
        """True if every event passes whole."""
        return self == EventFilter()

    def select(self, events: Iterable[Line]) -> list[Line]:
        """The events that pass, each with the wanted task alone; `last` is not applied."""
        narrowed = [self.narrow(event) for event in events if self._passes(event)]
        return [event for event in narrowed if event is not None]

    def narrow(self, event: Line | None) -> Line | None:
        """An event with the wanted task alone; None if it says nothing about that task."""
        if self.task is None or event is None:
            return event
        if event.get("task", self.task) != self.task:
            return None
        tasks = event.get("tasks")
        if tasks is None:
            return event
        return {**event, "tasks": {self.task: tasks[self.task]}} if self.task in tasks else None

    def _passes(self, event: Line) -> bool:
        late = self.since is None or datetime.fromisoformat(event["ts"]) >= self.since
        return late and (not self.kinds or event["event"] in self.kinds)


def check_kinds(asked: Iterable[str]) -> frozenset[str]:
    """The kinds of events asked for; raises CommandError for a kind that does not exist."""
    kinds = [part.model_fields["event"].default for part in get_args(get_args(Event)[0])]
    if unknown := sorted(set(asked) - set(kinds)):
        why = f"--event: found {', '.join(unknown)}; must be one of {', '.join(kinds)}"
        raise CommandError(INVALID, why)
    return frozenset(asked)


def parse_since(text: str | None) -> datetime | None:
    """A time, or one so long ago; raises CommandError."""
    if text is None:
        return None
    try:
        if ago := re.fullmatch(r"([0-9.]+)([smhd])", text):
            return datetime.now(UTC) - timedelta(seconds=float(ago[1]) * UNITS[ago[2]])
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        why = f"--since: found {text!r}; it must be such as 90s, 15m, 2h, 1d, or an ISO 8601 time"
        raise CommandError(INVALID, why) from None
    return time if time.tzinfo else time.astimezone()
