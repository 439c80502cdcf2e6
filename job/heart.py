"""The run's heartbeat: every few seconds it renews the lease, stores events, and tells its status.

`status.json`: phase, step, epoch, progress, eta_seconds, boots, heartbeat (UTC), lease_epoch, and
the last losses per task.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from job.document import Body, Damaged, Document, Fenced
from job.lease import Lease
from job.records import Records
from job.store import Unavailable

SECONDS = 3.0
"""Between two beats, unless the lease wants them closer."""


class Heart:
    """Beats in a thread of its own, until it is stopped or fails."""

    def __init__(
        self, lease: Lease, records: Records, status: Document, body: Callable[[], Body]
    ) -> None:
        self.lease, self.records, self.status, self.body = lease, records, status, body
        self.failure: BaseException | None = None
        """What ended it for good, such as Fenced; the training thread looks at it every step."""
        self._renewed = 0.0
        self._beating = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat; raises StoreError."""
        with suppress(Damaged):  # to be replaced in any case
            self.status.read()
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one may still `beat` by hand."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def beat(self) -> None:
        """Renew, store and tell, now; raises Fenced, UploadFailed, Forbidden."""
        with self._beating:
            # The lease first: who has lost it writes nothing more. With the store out of reach
            # there is nobody to lose it to that we could know of, and records wait locally.
            self._renew()
            self.records.flush(before=self._renew_in_time)  # there may be many to send
            if self.records.down_since is None:
                with suppress(Unavailable):
                    self._tell()

    def _renew(self) -> None:
        with suppress(Unavailable):
            self.lease.renew()
        self._renewed = time.monotonic()

    def _renew_in_time(self) -> None:
        if time.monotonic() - self._renewed > self.lease.seconds / 4:
            self._renew()

    def _tell(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self.status.write({"schema": 1, "heartbeat": now, **self.body()})
        except Fenced:
            # Or someone deleted it. The lease alone decides, and at the next beat it will.
            with suppress(Damaged):
                self.status.read()

    def _work(self) -> None:
        while not self._stopped.wait(min(SECONDS, self.lease.seconds / 4)):
            try:
                self.beat()
            except BaseException as failure:  # handed to the training thread, which raises it
                self.failure = failure
                return
