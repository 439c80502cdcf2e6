"""A run's events in the store: immutable segments of JSON lines, each named by its first seq."""

from __future__ import annotations

import time

from job.journal import Line
from job.store import Store

SECONDS = 5.0
"""Between segments, at most, while events come."""


class Records:
    """Sink that keeps lines and stores them as segments."""

    def __init__(self, store: Store, run: str, epoch: int = 0) -> None:
        self.store, self.run, self.epoch = store, run, epoch
        self.waiting: list[str] = []
        self.first_seq = 0
        self.since = time.monotonic()

    def __call__(self, event: Line, line: str) -> None:
        """Keep one event's line."""
        if not self.waiting:
            self.first_seq = event["seq"]
        self.waiting.append(line)
        if time.monotonic() - self.since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store what has not been stored yet."""
        self.since = time.monotonic()
        if self.waiting:
            key = f"{self.run}/events/{self.epoch:06d}-{self.first_seq:012d}.jsonl"
            self.store.put_if_absent(key, "".join(f"{x}\n" for x in self.waiting).encode())
            self.waiting.clear()
