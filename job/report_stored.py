"""The report that a run leaves in its store at its end; whatever becomes of it, the end stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from job.report import report
from job.store import Store

SECONDS = 45.0
"""Longest that it may take: a pod whose run has ended is ended a minute later."""
POLL = 0.05


def store_report(
    store: Store, run: str, stopping: Callable[[], bool] = lambda: False, seconds: float = SECONDS
) -> str:
    """Write `<name>/<run id>/report.html`; returns why it was not, "" where it was.

    Beside this thread, which waits only so long and only until `stopping`: a store may not answer.
    """
    why = [f"it took longer than {seconds:g} s"]

    def work() -> None:
        try:
            store.put(f"{run}/report.html", report([(store, run)]).encode())
            why[0] = ""
        except Exception as fault:  # a report is a help, never a condition
            why[0] = f"{type(fault).__name__}: {fault}".splitlines()[0]

    working = threading.Thread(target=work, name="report", daemon=True)
    working.start()
    until = time.monotonic() + seconds
    while working.is_alive() and time.monotonic() < until:
        if stopping():
            return why[0] and "a signal came first"
        working.join(POLL)
    return why[0]
