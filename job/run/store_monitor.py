"""Alarms about the store: it is out of reach, it is back, a checkpoint is overdue.

Kinds of alarm: `store_lost`, `store_found`, `checkpoint_overdue`, `waiting_for_store`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

OVERDUE_SECONDS = 60.0
"""After which a checkpoint that is not in the store yet is overdue."""
USUAL_TIMES = 3
"""The same as a multiple of what the last checkpoint took, if that is longer."""

Raise = Callable[[str, str], None]
"""Raises an alarm of a kind, with a message."""


class StoreMonitor:
    """Raises each alarm once an outage, and once a late checkpoint. For several threads."""

    def __init__(self, alarm: Raise, clock: Callable[[], float] = time.monotonic) -> None:
        self.alarm, self.clock = alarm, clock
        self._lost_at: float | None = None
        self._taken: dict[int, float] = {}
        """By step, when a snapshot was taken that is not in the store yet."""
        self._durable_step = 0
        self._usual = 0.0
        """Seconds from the last durable snapshot until it was stored."""
        self._overdue = self._closed = False
        self._lock = threading.Lock()

    def snapshot_taken(self, step: int) -> None:
        """A snapshot is on its way to the store."""
        with self._lock:
            self._taken[step] = self.clock()

    def snapshot_stored(self, step: int, seconds: float) -> None:
        """A snapshot is durable, so many seconds after it was taken."""
        with self._lock:
            self._taken = {s: at for s, at in self._taken.items() if s > step}
            self._durable_step, self._usual, self._overdue = step, seconds, False

    def look(self, offline: float | None, outage: str = "") -> None:
        """Raise the alarms that are due.

        offline: seconds without the store, None with it. outage: its last error.
        """
        with self._lock:
            if not self._closed:
                self._check_store(offline, outage)
                self._check_checkpoint()

    def waiting(self) -> None:
        """Training has ended, and events or a checkpoint wait for the store."""
        self.alarm("waiting_for_store", "training is done; its record waits for the store")

    def close(self) -> None:
        """Raise nothing more: the run's last event comes next."""
        with self._lock:
            self._closed = True

    def _check_store(self, offline: float | None, outage: str) -> None:
        if offline is not None and self._lost_at is None:
            self._lost_at = self.clock() - offline
            why = f": {outage}" if outage else ""
            self.alarm("store_lost", f"the store is out of reach; events wait on this machine{why}")
        elif offline is None and self._lost_at is not None:
            seconds, self._lost_at = self.clock() - self._lost_at, None
            self.alarm("store_found", f"the store answers again after {seconds:.0f} s")

    def _check_checkpoint(self) -> None:
        if self._overdue or not self._taken:
            return
        step = min(self._taken)
        age = self.clock() - self._taken[step]
        if age > max(OVERDUE_SECONDS, USUAL_TIMES * self._usual):
            self._overdue = True
            newest = f"step {self._durable_step}" if self._durable_step else "none"
            self.alarm(
                "checkpoint_overdue",
                f"the checkpoint of step {step} is not in the store after {age:.0f} s; the newest "
                f"there: {newest}",
            )
