"""What SIGTERM and SIGINT do to a run: the first one asks it to end, a second one ends it."""

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
"""Seconds after the grace at which the process is ended, whatever it waits for."""


class Grace:
    """How long a run may go on after a signal.

    `late` is called, from a thread of its own, where the run has not ended by then; after that
    the process ends with `code`.
    """

    def __init__(self, seconds: float, code: int, late: Callable[[], None]) -> None:
        self.seconds, self.code, self.late = seconds, code, late
        self.stop_at = math.inf
        """By the monotonic clock, once a signal has come."""
        self._woken = threading.Event()
        self._asked = self._over = False

    @property
    def asked(self) -> bool:
        """Whether a signal has come, here or to another rank."""
        return self._asked

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.stop_at - time.monotonic())

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Take the signals; from the main thread only."""
        before = {number: signal.signal(number, self._stop) for number in SIGNALS}
        threading.Thread(target=self._watch, name="grace", daemon=True).start()
        try:
            yield
        finally:
            self._over = True
            for number, handler in before.items():
                signal.signal(number, handler)
            self._woken.set()

    def begin(self) -> None:
        """The grace begins now, if it has not: another rank was asked to end."""
        if not self._asked:
            self.stop_at, self._asked = time.monotonic() + self.seconds, True
            self._woken.set()

    def _stop(self, *_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.begin()

    def _watch(self) -> None:
        self._woken.wait()
        time.sleep(self.left + MARGIN if self.asked else 0)
        if not self._over:
            try:
                self.late()
            finally:
                os._exit(self.code)
