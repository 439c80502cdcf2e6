"""A sign of life on this machine: a small file that the trainer writes and its supervisor reads.

`python -m job.heartbeat` is the container's health check: exit code 0 while the file is fresh.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

VARIABLE = "EVENGRAD_HEARTBEAT"
"""Environment variable with the file's path; a trainer that finds it set is a supervised one."""
DEFAULT = "/tmp/evengrad-heartbeat.json"  # noqa: S108 - the container's own, and nobody else's
SECONDS = 1.0
"""Between two writes; no store is asked, so that none can stop it."""
FRESH = 60.0
"""Age in seconds from which the container counts as unhealthy."""


class Beat(NamedTuple):
    """What the file says."""

    phase: str
    """As in `status.json`."""
    step: int
    """Steps taken."""
    evaluated: int = 0
    """Batches evaluated: an evaluation may take longer than a stall."""


def path_of(environment: Mapping[str, str]) -> Path | None:
    """Where a supervised trainer writes; None for any other."""
    path = environment.get(VARIABLE)
    return Path(path) if path else None


def read(path: Path) -> Beat | None:
    """What was last written; None before that."""
    with suppress(OSError, ValueError, TypeError):
        return Beat(**json.loads(path.read_text()))
    return None


@contextmanager
def beating(path: Path | None, beat: Callable[[], Beat]) -> Iterator[None]:
    """Write what `beat` returns, every second, until left; nothing without a path."""
    if path is None:
        yield
        return
    left = threading.Event()

    def work() -> None:
        while not left.is_set():
            write(path, beat())
            left.wait(SECONDS)

    thread = threading.Thread(target=work, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
        write(path, beat())


def write(path: Path, beat: Beat) -> None:
    """Replace the file, whole; a full disk is no reason to stop training."""
    partial = path.with_suffix(".part")
    with suppress(OSError):
        partial.write_text(json.dumps(beat._asdict()))
        partial.rename(path)


def written(path: Path) -> float | None:
    """When the file was last written, in Unix time; None where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def healthy(path: Path, now: float) -> bool:
    """Whether the file was written within FRESH seconds before `now` (Unix time)."""
    at = written(path)
    return at is not None and now - at < FRESH


if __name__ == "__main__":
    sys.exit(not healthy(Path(os.environ.get(VARIABLE, DEFAULT)), time.time()))
