"""Epochs and alarms of a resumed run from before this process, for its screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from job.events.log import Line
from job.events.superseded import SupersededEvents
from job.record.document import Damaged
from job.record.history import lines_backwards, parsed
from job.store import Store, StoreError

EPOCHS = 40
"""Epochs that are read at most: no terminal draws a longer curve."""
SECONDS = 0.5
"""Longest delay of a start by this reading; events that are not read by then are not shown."""
STEP = b'"event":"step"'
PREFIX = 200
"""Bytes at the beginning of a line that hold the event's kind."""


def earlier_events(store: Store, run: str, step: int, seconds: float = SECONDS) -> list[Line]:
    """The events before a resume at `step` that a screen shows, in order.

    These are the last EPOCHS epochs, their checkpoints, and alarms. Events that cannot be read are
    left out: a run does not fail for them.
    """
    events: list[Line] = []
    superseded = SupersededEvents()
    epochs = 0
    with suppress(StoreError, Damaged):
        for event in _backwards(store, run, seconds):
            superseded.add(event)
            if _is_shown(event, step) and superseded.counts(event):
                events.append(event)
                epochs += event["event"] == "epoch"
            if epochs == EPOCHS:
                break
    return events[::-1]


def _is_shown(event: Line, step: int) -> bool:
    """True if an event is of a kind that a screen shows, and this resume keeps it."""
    of_checkpoint = event["event"] in ("epoch", "checkpoint.saved") and event["step"] <= step
    return event["event"] == "alarm" or of_checkpoint


def _backwards(store: Store, run: str, seconds: float) -> Iterator[Line]:
    """Events from the last one back, for a number of seconds; without steps, which are most."""
    deadline = time.monotonic() + seconds
    for lines in lines_backwards(store, run):
        yield from (parsed(line) for line in lines if STEP not in line[:PREFIX])
        if time.monotonic() > deadline:
            return
