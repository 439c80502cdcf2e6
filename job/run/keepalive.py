"""The run's keep-alive: every few seconds it renews the lease, and stores events and status."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from job.record.document import Damaged, Document, Fenced
from job.record.lease import Lease
from job.record.segments import EventUploader
from job.record.status import Status
from job.store import Unavailable

SECONDS = 3.0
"""Between two renewals, unless the lease is so short that it needs them more often."""


class KeepAlive:
    """Renews in a thread of its own, until it is stopped or fails.

    body: the content of the status. after: called after each renewal, in the thread that renewed.
    """

    def __init__(
        self,
        lease: Lease,
        records: EventUploader,
        status: Document,
        body: Callable[[], Status],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.lease, self.records, self.status = lease, records, status
        self.body, self.after = body, after
        self.failure: BaseException | None = None
        """What ended it for good, such as Fenced; the training thread looks at it every step."""
        self._renewed = 0.0
        self._renewing = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="keep-alive", daemon=True)

    def start(self) -> None:
        """Start the thread; raises StoreError."""
        with suppress(Damaged):  # it is replaced in any case
            self.status.read()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; `renew` may still be called."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def renew(self) -> None:
        """Renew the lease, store events and status now; raises Fenced, UploadFailed, Forbidden."""
        with self._renewing:
            # The lease first: a process that lost it writes nothing more. While the store is out
            # of reach, no takeover can be noticed, and events wait on this machine.
            self._renew_lease()
            self.records.flush(before=self._renew_lease_in_time)  # there may be many to send
            if self.records.down_since is None:
                with suppress(Unavailable):
                    self._write_status()
            self.after()

    def _renew_lease(self) -> None:
        with suppress(Unavailable):
            self.lease.renew()
        self._renewed = time.monotonic()

    def _renew_lease_in_time(self) -> None:
        if time.monotonic() - self._renewed > self.lease.seconds / 4:
            self._renew_lease()

    def _write_status(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self.status.write(self.body().model_copy(update={"heartbeat": now}).body())
        except Fenced:
            # Another process wrote it, or someone deleted it. The lease alone decides which, at
            # the next renewal.
            with suppress(Damaged):
                self.status.read()

    def _work(self) -> None:
        while not self._stopped.wait(min(SECONDS, self.lease.seconds / 4)):
            try:
                self.renew()
            except BaseException as failure:  # the training thread raises it
                self.failure = failure
                return
