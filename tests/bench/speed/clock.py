"""When a side's process took its first step and its last, and what memory it held."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEGUN = "SPEED_BEGUN"
"""Environment variable: when the process was started, seconds since the epoch."""


class Clock:
    """Marks of one process."""

    def __init__(self) -> None:
        self.begun = float(os.environ[BEGUN])
        self.first: float | None = None
        self.borrowed = 0.0

    @contextmanager
    def borrowing(self) -> Iterator[None]:
        """What a bare program would not import: its time is not counted until the first step."""
        begun = time.time()
        yield
        self.borrowed += time.time() - begun

    def stepped(self) -> None:
        """A step is over."""
        if self.first is None:
            self.first = time.time()

    def write(self, path: Path, loss: float) -> None:
        """Training is over. loss: the mean of the tasks' validation losses."""
        assert self.first is not None
        marks = {
            "first_step": self.first - self.begun - self.borrowed,
            "training": time.time() - self.first,
            "borrowed": self.borrowed,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "loss": loss,
        }
        path.write_text(json.dumps(marks))
