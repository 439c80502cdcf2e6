"""`cancel.json`: a request to end a run, written from outside, read by the run's container."""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import ClassVar

from job.record.document import Contents, seal
from job.store import Missing, Store, StoreError

SECONDS = 5.0
"""Between two reads of the store."""


class CancelRequest(Contents):
    """A request to end a run. It counts if the document is there, damaged or not."""

    FILE: ClassVar[str] = "cancel.json"

    at: str
    """When it was made, UTC, ISO 8601."""
    nonce: str


def request_cancel(store: Store, run: str) -> None:
    """Ask the run's container to end; raises StoreError."""
    request = CancelRequest(at=datetime.now(UTC).isoformat(), nonce=uuid.uuid4().hex)
    store.put(CancelRequest.key(run), seal(request.body()))


def is_cancelled(store: Store, run: str) -> bool:
    """True if somebody has asked for the run's end; raises StoreError."""
    try:
        store.get(CancelRequest.key(run))
    except Missing:
        return False
    return True


class CancelWatcher:
    """Waits for a request in a thread of its own, for as long as the process lives."""

    def __init__(self, store: Store, run: str) -> None:
        self.asked = _is_asked(store, run)
        if not self.asked:
            threading.Thread(target=self._work, args=(store, run), daemon=True).start()

    def _work(self, store: Store, run: str) -> None:
        wait = threading.Event()
        while not self.asked:
            wait.wait(SECONDS)
            self.asked = _is_asked(store, run)


def _is_asked(store: Store, run: str) -> bool:
    """The same, but False if the store does not answer."""
    with suppress(StoreError):
        return is_cancelled(store, run)
    return False
