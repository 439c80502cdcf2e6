"""A run's cancellation: `cancel.json`, written from outside, read by the run's container."""

from __future__ import annotations

import threading
from contextlib import suppress

from job.store import Missing, Store, StoreError

SECONDS = 5.0
"""Between two looks."""


def key_of(run: str) -> str:
    """Where the request lies."""
    return f"{run}/cancel.json"


def is_asked(store: Store, run: str) -> bool:
    """Whether somebody has asked for the run's end; a store that does not answer says no."""
    with suppress(Missing, StoreError):
        store.get(key_of(run))
        return True
    return False


class Watch:
    """Looks in a thread of its own, for as long as the process lives."""

    def __init__(self, store: Store, run: str) -> None:
        self.asked = is_asked(store, run)
        if not self.asked:
            threading.Thread(target=self._work, args=(store, run), daemon=True).start()

    def _work(self, store: Store, run: str) -> None:
        wait = threading.Event()
        while not self.asked:
            wait.wait(SECONDS)
            self.asked = is_asked(store, run)
