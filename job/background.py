"""What goes on beside a thread or a process: waits that may be given up, and ends in common."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
POLL_SECONDS = 0.05
"""Between two questions whether to give up; a result is returned at once."""


PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however it ends; Linux only.

    parent: the parent's pid. If it has ended by now, this process ends at once.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


class GaveUp(Exception):
    """The caller waits no longer; the work may still go on in its daemon thread."""


def wait_for(act: Callable[[], Result], give_up: Callable[[], bool]) -> Result:
    """Run `act` in a daemon thread and return its result, or raise what it raises.

    Raises GaveUp as soon as `give_up` returns true before that.
    """
    results: list[Result] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            results.append(act())
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work, name="background", daemon=True)
    thread.start()
    while thread.is_alive():
        if give_up():
            raise GaveUp
        thread.join(POLL_SECONDS)
    if faults:
        raise faults[0]
    return results[0]


def wait_seconds(act: Callable[[], Result], seconds: float) -> Result:
    """`wait_for` that gives up after so many seconds."""
    until = time.monotonic() + seconds
    return wait_for(act, lambda: time.monotonic() > until)
