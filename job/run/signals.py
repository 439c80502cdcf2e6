"""SIGTERM and SIGINT: the first one asks the run to end, a second one ends the process."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)
MARGIN = 1.0
"""Seconds after the grace at which the process ends, whatever it waits for."""


class Grace:
    """The time that a run has left after a signal.

    A run that has not ended by then ends all the same: `on_overrun` is called in another thread,
    and then the process exits with `code`.
    """

    def __init__(self, seconds: float, code: int, on_overrun: Callable[[], None]) -> None:
        self.seconds, self.code, self.on_overrun = seconds, code, on_overrun
        self.stop_at = math.inf
        """End of the grace by the monotonic clock; infinite before a signal."""
        self._woken = threading.Event()
        self._requested = self._over = False

    @property
    def requested(self) -> bool:
        """True once the run should end: a signal came to this rank or another one."""
        return self._requested

    @property
    def seconds_left(self) -> float:
        """Seconds until the grace is over; infinite before a signal."""
        return max(0.0, self.stop_at - time.monotonic())

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Handle SIGNALS while in the block; call it in the main thread."""
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        threading.Thread(target=self._enforce, name="grace", daemon=True).start()
        try:
            yield
        finally:
            self._over = True
            for number, handler in before.items():
                signal.signal(number, handler)
            self._woken.set()

    def begin(self) -> None:
        """Start the grace, unless it has started: another rank was asked to end."""
        if not self._requested:
            self.stop_at, self._requested = time.monotonic() + self.seconds, True
            self._woken.set()

    def _stop(self, *_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.begin()

    def _enforce(self) -> None:
        self._woken.wait()
        time.sleep(self.seconds_left + MARGIN if self.requested else 0)
        if not self._over:
            try:
                self.on_overrun()
            finally:
                os._exit(self.code)
