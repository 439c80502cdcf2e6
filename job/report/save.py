"""The report that a run leaves in its store at its end; without it the end stands all the same."""

from __future__ import annotations

import time
from collections.abc import Callable

from job.background import GaveUp, wait_for
from job.report.page import report
from job.store import Store

SECONDS = 45.0
"""Timeout: a pod is deleted 60 s after its run has ended."""


def store_report(
    store: Store, run: str, stopping: Callable[[], bool] = lambda: False, seconds: float = SECONDS
) -> str:
    """Write `<name>/<run id>/report.html`; returns why that failed, "" if it did not.

    A store may not answer, so this waits no longer than `seconds`, and only until `stopping`.
    """
    until = time.monotonic() + seconds

    def work() -> None:
        store.put(f"{run}/report.html", report([(store, run)]).encode())

    try:
        wait_for(work, lambda: stopping() or time.monotonic() > until)
    except GaveUp:
        return "a signal came first" if stopping() else f"it took longer than {seconds:g} s"
    except Exception as fault:  # a report is a help, never a condition
        return f"{type(fault).__name__}: {fault}".splitlines()[0]
    return ""
