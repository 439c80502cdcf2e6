"""A run's events in the store: immutable segments of JSON lines whose names say what they hold.

`events/<lease epoch>-<first seq>-<last seq>-<SHA-256, 16 digits>.jsonl`. Events are sent from
memory. While the store is out of reach they wait in the spool, where they survive the process; if
the spool cannot be written either, they wait in memory. No event is dropped.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from job.events.log import Line
from job.record.layout import SEGMENT
from job.record.spool import Spool
from job.store import Store, StoreError, Unavailable

WAITING_BYTES = 256 << 20
"""Most that waits, in the spool and in memory, while the store is out of reach."""


class UploadFailed(Exception):
    """The store was out of reach for longer, or for more events, than the run may bear."""


class Segment(NamedTuple):
    """What the name of a segment says."""

    key: str
    epoch: int
    """Lease epoch of the writer."""
    first: int
    """Number of its first event."""
    last: int
    digest: str

    @classmethod
    def named(cls, key: str) -> Segment | None:
        """From a key, or from the last part of one; None for a name that no run gives."""
        match = SEGMENT.fullmatch(key.rpartition("/")[2])
        if match is None:
            return None
        return cls(key, int(match[1]), int(match[2]), int(match[3]), match[4])

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Sorts segments by epoch, then by event."""
        return self.epoch, self.first, self.last, self.digest


def segment_name(epoch: int, first: int, last: int, data: bytes) -> str:
    """The name of a segment that holds these bytes."""
    return f"{epoch:06d}-{first:012d}-{last:012d}-{digest_of(data)}.jsonl"


def digest_of(data: bytes) -> str:
    """The digest in a segment's name."""
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass
class _Waiting:
    """A segment that has not been stored."""

    name: str
    size: int
    data: bytes | None
    """None once it is in the spool."""


class EventUploader:
    """A sink that keeps lines, and stores them as segments when flushed; safe between threads.

    alarm: is given the kind and the message of what a person should know; called by `flush`.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        epoch: int,
        offline_seconds: float,
        alarm: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.store, self.run, self.epoch = store, run, epoch
        self.offline_seconds, self.alarm = offline_seconds, alarm
        self.spool = Spool.of(store, run)
        self.down_since: float | None = None
        """When the store was first out of reach, by the monotonic clock; None if it answers."""
        self.outage = ""
        """The last error of a store that is out of reach."""
        self.spool_fault: str | None = None
        """Why the spool cannot be written; None if it can, or was not needed."""
        self._lines: list[str] = []
        self._first = 0
        self._waiting: deque[_Waiting] = deque()
        """Oldest first."""
        self._alarmed = False
        self._adding, self._keeping, self._sending = (threading.Lock() for _ in range(3))

    def __call__(self, event: Line, line: str) -> None:
        """Keep one event's line."""
        with self._adding:
            if not self._lines:
                self._first = event["seq"]
            self._lines.append(line)

    def flush(self, before: Callable[[], None] = lambda: None) -> None:
        """Store what has not been stored; `before` each segment, act.

        If the store is out of reach, keep it locally; raises UploadFailed once it has been for
        longer than the spec bears, or once too much waits. Raises StoreError for what does not
        pass, such as Forbidden.
        """
        with self._sending:
            try:
                self._send(before)
                self.down_since, self._alarmed = None, False
            except Unavailable as down:
                self.outage = str(down)
                self.keep()
                self._raise_alarm()
                self._bear(down)
            except StoreError:
                self.keep()
                raise

    def offline(self) -> float | None:
        """Seconds for which the store has been out of reach; None if it answers."""
        since = self.down_since
        return None if since is None else time.monotonic() - since

    def keep(self) -> None:
        """Write what has not been stored to the spool, where it survives this process.

        If the spool cannot be written, `spool_fault` says why, and memory keeps the rest.
        """
        with self._keeping:
            self._seal()
            try:
                for segment in self._waiting:
                    if segment.data is not None:
                        self.spool.write(segment.name, segment.data)
                        segment.data = None
                self.spool_fault = None
            except OSError as error:
                self.spool_fault = f"{self.spool} cannot be written: {error.strerror or error}"

    def tidy(self) -> None:
        """Remove the spool's folder if nothing waits in it."""
        self.spool.tidy()

    def _seal(self) -> None:
        """Make a segment of the lines; call under `_keeping`, so that there is never a gap."""
        with self._adding:
            lines, self._lines, first = self._lines, [], self._first
        if lines:
            data = "".join(f"{line}\n" for line in lines).encode()
            name = segment_name(self.epoch, first, first + len(lines) - 1, data)
            self._waiting.append(_Waiting(name, len(data), data))

    def _send(self, before: Callable[[], None]) -> None:
        """Store what waits, oldest first."""
        with self._keeping:
            self._seal()
        while self._waiting:
            segment = self._waiting[0]
            before()
            data = segment.data
            try:
                data = self.spool.read(segment.name) if data is None else data
            except FileNotFoundError:  # sent by a process here that has taken the run over
                pass
            except OSError as error:
                raise Unavailable(f"{self.spool} cannot be read: {error}") from error
            else:
                self.store.put(f"{self.run}/events/{segment.name}", data)
            with self._keeping:  # it may have come into the spool meanwhile
                self._waiting.popleft()
                if segment.data is None:
                    self._remove(segment.name)

    def _remove(self, name: str) -> None:
        try:
            self.spool.remove(name)
        except OSError as error:  # it is stored; the next process removes it
            self.spool_fault = f"{self.spool} cannot be written: {error.strerror or error}"

    def _raise_alarm(self) -> None:
        """Say once an outage that events are only in memory."""
        if self.spool_fault is not None and not self._alarmed:
            self._alarmed = True
            self.alarm(
                "spool_unwritable",
                f"{self.spool_fault}. The store is out of reach too, so events wait in memory and "
                "are lost if this process is killed; make room there, or set TMPDIR",
            )

    def _bear(self, down: Unavailable) -> None:
        """Raises UploadFailed if the outage is too long, or if too much waits."""
        now = time.monotonic()
        self.down_since = self.down_since or now
        where = f"in {self.spool}" if self.spool_fault is None else f"in memory: {self.spool_fault}"
        if now - self.down_since > self.offline_seconds:
            raise UploadFailed(
                f"the store was out of reach for {now - self.down_since:.0f} s; events wait "
                f"{where}; last error: {down}"
            )
        waiting = sum(segment.size for segment in list(self._waiting))
        if waiting > WAITING_BYTES:
            raise UploadFailed(f"{waiting >> 20} MB of events wait {where}; last error: {down}")
