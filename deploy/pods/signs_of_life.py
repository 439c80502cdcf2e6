"""Signs of life of a run, as the store and its pod's log show them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from deploy.output import Log
from deploy.runpod.client import RunPod
from deploy.runpod.errors import ApiError, NotThere
from deploy.runs.exit_line import exit_line
from job.record.cancel import is_cancelled
from job.record.document import Contents
from job.record.lease import LeaseRecord
from job.record.pods import Attempt
from job.record.result import Result
from job.record.status import Boots, Status
from job.store import Missing, Store, StoreError

AnyContents = TypeVar("AnyContents", bound=Contents)
PULSE = (LeaseRecord, Status, Boots)
"""Documents that a living run replaces every few seconds."""
PAUSE = 2.0
"""Seconds between two questions to the store."""
LOG_TAIL = 100
"""Lines of a pod's log that are requested at first."""
REOPEN_SECONDS = 5.0
"""Before a log's stream that was cut is opened again."""
DRAIN_SECONDS = 5.0
"""How long the rest of the log of a pod that was deleted is waited for."""
IMAGE_FAULTS = {
    "manifest unknown": "push the image, or correct --image",
    "unauthorized": "store the registry's credentials at RunPod and give their id with --registry",
    "toomanyrequests": "the registry limits anonymous pulls: give credentials with --registry",
}
"""In RunPod's own lines while it pulls: no host can get the image; and the remedy."""
HOST_FAULT = "no space left"
"""In RunPod's own lines while it pulls: this host's disk is too small; another's may not be."""


class PodLog:
    """What a pod's log has said so far, about its container and its host."""

    def __init__(self) -> None:
        self.last_line = ""
        """The container's newest line."""
        self.exit_line = ""
        """The container's `exit N: reason`, once it has one."""
        self.image_fault = ""
        """RunPod's line that the image cannot be pulled by any host, and the remedy."""
        self.host_fault = ""
        """RunPod's line that it cannot be pulled by this host."""
        self.is_over = threading.Event()
        """Set while the container's log is at its end, or there is none."""

    def add(self, source: str, line: str) -> None:
        """Note a line of the `container`, or of the `system`."""
        if source == "container":
            self.last_line = line
            self.exit_line = exit_line(line) or self.exit_line
            return
        for text, remedy in IMAGE_FAULTS.items():
            if text in line.lower():
                self.image_fault = f'"{line}"; {remedy}'
        if HOST_FAULT in line.lower():
            self.host_fault = f'"{line}"'

    @property
    def has_failed(self) -> bool:
        """True if this pod will never train."""
        return bool(self.exit_line or self.image_fault or self.host_fault)


class SignsOfLife:
    """What a run's documents say, read again and again; a store that fails says nothing.

    clock: seconds, as of time.monotonic.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        api: RunPod,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.run, self.api, self.log, self.clock = store, run, api, log, clock
        self.pause = PAUSE
        self._etags: tuple[str, ...] = ()
        self._changed = clock()

    def read(self, kind: type[AnyContents]) -> AnyContents | None:
        """A document of the run; None if there is none, or if it cannot be read now."""
        with suppress(StoreError):
            return kind.read_or_none(self.store, self.run)
        return None

    def is_cancelled(self) -> bool:
        """True if a user has asked for the run's end."""
        with suppress(StoreError):
            return is_cancelled(self.store, self.run)
        return False

    def result(self) -> Result | None:
        """The run's end, once it has one."""
        return self.read(Result)

    def has_begun(self, attempt: Attempt) -> bool:
        """True if this pod's container has begun, or has nothing left to do."""
        boots = self.read(Boots)
        return (boots is not None and boots.pod == attempt.pod) or self.result() is not None

    def failure(self) -> tuple[str | None, str]:
        """The id of the pod whose container has stored that it failed, and its `exit N: reason`.

        None and "" if none has.
        """
        status = self.read(Status)
        if status is None or status.exit_code is None:
            return None, ""
        line = exit_line(f"exit {status.exit_code}: {status.error or status.phase}")
        return status.pod, line or ""

    def stored_failure(self, attempt: Attempt) -> str:
        """`exit N: reason` if this pod's container has stored that it cannot begin; else ""."""
        pod, failure = self.failure()
        return failure if pod == attempt.pod else ""

    def silence(self) -> float:
        """Seconds since any document of PULSE changed, by this machine's clock; reads the store.

        Time in which the store does not answer does not count.
        """
        try:
            etags = tuple(self._etag(kind) for kind in PULSE)
        except StoreError:
            self._changed = self.clock()
            return 0.0
        if etags != self._etags:
            self._etags, self._changed = etags, self.clock()
        return self.clock() - self._changed

    def restart_silence(self) -> None:
        """Count the silence anew: another pod has the run."""
        self._changed = self.clock()

    def _etag(self, kind: type[Contents]) -> str:
        try:
            return self.store.get(kind.key(self.run)).etag
        except Missing:
            return ""

    @contextmanager
    def pod_log(self, pod: str) -> Iterator[PodLog]:
        """Print a pod's own log, image pull and boots included, while in the block."""
        over, heard = threading.Event(), PodLog()
        for source in ("system", "container"):
            listening = (pod, source, heard, over)
            threading.Thread(target=self._listen, args=listening, daemon=True).start()
        try:
            yield heard
        finally:
            over.set()

    def _listen(self, pod: str, source: str, heard: PodLog, over: threading.Event) -> None:
        after: str | None = None
        while not over.is_set():
            if source == "container":
                heard.is_over.clear()
            with suppress(ApiError):  # the log is a help, never a condition
                with suppress(NotThere):  # gone before this looked, or not yet known
                    for line in self.api.log(pod, source, LOG_TAIL, after):
                        if over.is_set():
                            return
                        after = line.id or after
                        if line.text and not line.text.startswith("{"):  # events: from the store
                            heard.add(source, line.text)
                            self.log(f"{source}: {line.text}")
                if source == "container":
                    heard.is_over.set()
            over.wait(REOPEN_SECONDS)
