"""What a screen is to know of a run that another process has begun: its epochs and alarms."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from job.document import Damaged
from job.history import OF_TRAINING, lines_backwards, parsed
from job.journal import Line
from job.store import Store, StoreError

EPOCHS = 40
"""Of which a curve is drawn; no terminal's is longer."""
SECONDS = 0.5
"""Most that reading may delay a start; what was not read by then is not shown."""
STEP = b'"event":"step"'
BEGINNING = 200
"""Bytes of a line in which its kind is told."""


def past(store: Store, run: str, step: int, seconds: float = SECONDS) -> list[Line]:
    """What a run that goes on from a step has told before, in order, the last EPOCHS epochs of it.

    A run does not fail for what cannot be read: it is not shown.
    """
    found: list[Line] = []
    gone: list[range] = []
    epochs = 0
    with suppress(StoreError, Damaged):
        for event in _read(store, run, seconds):
            if event["event"] == "superseded":
                gone.append(range(event["from_seq"], event["to_seq"] + 1))
            elif _stands(event, step, gone):
                found.append(event)
                epochs += event["event"] == "epoch"
            if epochs == EPOCHS:
                break
    return found[::-1]


def _stands(event: Line, step: int, gone: list[range]) -> bool:
    """Whether it is one to be shown, and neither this resume nor an earlier one has undone it."""
    if event["event"] == "alarm":
        return True
    if event["event"] not in ("epoch", "checkpoint.saved") or event["step"] > step:
        return False
    return event["event"] not in OF_TRAINING or not any(event["seq"] in seqs for seqs in gone)


def _read(store: Store, run: str, seconds: float) -> Iterator[Line]:
    """Events, the last one first, for so long; not the steps, which nearly all are."""
    until = time.monotonic() + seconds
    for lines in lines_backwards(store, run):
        yield from (parsed(line) for line in lines if STEP not in line[:BEGINNING])
        if time.monotonic() > until:
            return
