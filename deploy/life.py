"""Signs of life of a run, as far as the store and its pod's log tell them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from deploy.book import Attempt
from deploy.runpod_api import ApiError, RunPod
from job.document import Body, Damaged
from job.history import read_document
from job.store import Missing, Store, StoreError

PULSE = ("lease.json", "status.json", "boots.json")
"""Documents that a living run replaces every few seconds."""
PAUSE = 2.0
"""Seconds between two questions to the store."""
LOG_TAIL = 100
"""Lines of a pod's log that are asked for at first."""
AGAIN_SECONDS = 5.0
"""Before a log's stream that was cut is opened anew."""


class Life:
    """What a run's documents say, asked for again and again: a store that fails says nothing."""

    def __init__(self, store: Store, run: str, api: RunPod, say: Callable[[str], None]) -> None:
        self.store, self.run, self.api, self.say = store, run, api, say
        self.pause = PAUSE
        self.said = ""
        """The last line that the pod's container has printed."""
        self._etags: tuple[str, ...] = ()
        self._changed = time.monotonic()

    def document(self, name: str) -> Body | None:
        """One of the run's; None where it is not, or cannot be read now."""
        with suppress(StoreError, Damaged):
            return read_document(self.store, self.run, name)
        return None

    def cancelled(self) -> bool:
        """Whether somebody has asked for the run's end."""
        return self.document("cancel.json") is not None

    def result(self) -> Body | None:
        """The run's end, once it has one."""
        return self.document("result.json")

    def shown(self, attempt: Attempt) -> bool:
        """Whether this pod's container has begun, or has nothing left to do."""
        boots = self.document("boots.json")
        return (boots is not None and boots.get("pod") == attempt.pod) or self.result() is not None

    def still(self) -> float:
        """Seconds since any of PULSE changed, by this machine's clock; asks the store.

        Time in which the store does not answer is nobody's silence but the store's.
        """
        try:
            etags = tuple(self._etag(name) for name in PULSE)
        except StoreError:
            self._changed = time.monotonic()
            return 0.0
        if etags != self._etags:
            self._etags, self._changed = etags, time.monotonic()
        return time.monotonic() - self._changed

    def begin(self) -> None:
        """Forget how long it was still: another pod has it now."""
        self._changed = time.monotonic()

    def _etag(self, name: str) -> str:
        try:
            return self.store.get(f"{self.run}/{name}").etag
        except Missing:
            return ""

    @contextmanager
    def pod_log(self, pod: str) -> Iterator[None]:
        """Say what the pod's own log says, image pull and boots too, while in the block."""
        over, self.said = threading.Event(), ""
        for source in ("system", "container"):
            threading.Thread(target=self._listen, args=(pod, source, over), daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _listen(self, pod: str, source: str, over: threading.Event) -> None:
        after: str | None = None
        while not over.is_set():
            with suppress(ApiError):  # the log is a help, never a condition
                for logged in self.api.log(pod, source, LOG_TAIL, after):
                    if over.is_set():
                        return
                    after = logged.id or after
                    line = str(logged.data.get("line", "")).rstrip()
                    if line and not line.startswith("{"):  # events come from the store
                        self.said = line if source == "container" else self.said
                        self.say(f"{source}: {line}")
            over.wait(AGAIN_SECONDS)
