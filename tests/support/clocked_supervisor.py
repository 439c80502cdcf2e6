"""The real supervisor with a clock that a test moves: `python -m tests.support.clocked_supervisor`.

SUPERVISOR_CLOCK names a file with the seconds by which the clock is ahead; none is 0.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from job.supervise.__main__ import main


def clock() -> float:
    """The monotonic clock, moved."""
    with suppress(OSError):
        return time.monotonic() + float(Path(os.environ["SUPERVISOR_CLOCK"]).read_text())
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main(clock))
