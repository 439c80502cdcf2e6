"""Proof on this machine that a trainer is alive: a small file that its supervisor reads.

`python -m job.run.liveness` is the container's health check: exit code 0 while the file is fresh.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from job.env import LIVENESS_FILE

DEFAULT = "/tmp/evengrad-heartbeat.json"  # noqa: S108 - in a container, which has its own /tmp
SECONDS = 1.0
"""Between two writes. They ask no store, so no store can hold them up."""
FRESH = 60.0
"""Age in seconds from which the container counts as unhealthy."""


class Liveness(NamedTuple):
    """Content of the file."""

    phase: str
    """As in `status.json`."""
    step: int
    """Steps taken."""
    evaluated: int = 0
    """Batches evaluated: an evaluation may take longer than the stall limit."""


def read(path: Path) -> Liveness | None:
    """What was written last; None before that."""
    with suppress(OSError, ValueError, TypeError):
        return Liveness(**json.loads(path.read_text()))
    return None


@contextmanager
def kept_fresh(path: Path | None, current: Callable[[], Liveness]) -> Iterator[None]:
    """Write what `current` returns every second while in the block; nothing without a path."""
    if path is None:
        yield
        return
    left = threading.Event()

    def work() -> None:
        while not left.is_set():
            write(path, current())
            left.wait(SECONDS)

    thread = threading.Thread(target=work, name="liveness", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        write(path, current())


def write(path: Path, content: Liveness) -> None:
    """Replace the whole file; a full disk does not stop training."""
    partial = path.with_suffix(".part")
    with suppress(OSError):
        partial.write_text(json.dumps(content._asdict()))
        partial.rename(path)


def last_written(path: Path) -> float | None:
    """When the file was last written, in Unix time; None if there is no file."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def healthy(path: Path, now: float) -> bool:
    """True if the file was written within FRESH seconds before `now` (Unix time)."""
    at = last_written(path)
    return at is not None and now - at < FRESH


if __name__ == "__main__":
    sys.exit(not healthy(Path(os.environ.get(LIVENESS_FILE, DEFAULT)), time.time()))
