"""A run's events in the store: immutable segments of JSON lines that tell their own completeness.

`events/<lease epoch>-<first seq>-<last seq>-<SHA-256, 16 digits>.jsonl`. While the store is down,
segments wait in a local folder, in order; none is dropped.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from job.journal import Line
from job.store import Store, Unavailable

SPOOL_BYTES = 256 << 20
"""Most that waits locally while the store is down."""


class UploadFailed(Exception):
    """The store was out of reach for longer, or for more, than the run may bear."""


class Segment(NamedTuple):
    """What the key of a segment says."""

    key: str
    epoch: int
    first: int
    last: int
    digest: str

    @classmethod
    def named(cls, key: str) -> Segment | None:
        """From a key; None where it is not one of a segment."""
        parts = key.rpartition("/")[2].removesuffix(".jsonl").split("-")
        try:
            epoch, first, last = map(int, parts[:3])
            (digest,) = parts[3:]
        except ValueError:
            return None
        return cls(key, epoch, first, last, digest)


def digest_of(data: bytes) -> str:
    """The digest in a segment's name."""
    return hashlib.sha256(data).hexdigest()[:16]


def spool_of(store: Store, run: str) -> Path:
    """Where a run's segments wait on this machine; another for the same name in another store."""
    place = hashlib.sha256(store.place.encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"evengrad-{place}" / run


def upload(
    store: Store, run: str, waiting: Iterable[Path], before: Callable[[], None] = lambda: None
) -> None:
    """Send spooled segments, in order, each removed when it is stored; `before` each, act."""
    for path in waiting:
        before()
        with suppress(FileNotFoundError):  # sent by a process here that has taken the run over
            store.put(f"{run}/events/{path.name}", path.read_bytes())
            path.unlink()


class Records:
    """Sink that keeps lines, and stores them as segments when flushed; safe between threads."""

    def __init__(self, store: Store, run: str, epoch: int, offline_seconds: float) -> None:
        self.store, self.run, self.epoch = store, run, epoch
        self.offline_seconds = offline_seconds
        self.spool = spool_of(store, run)
        self.down_since: float | None = None
        """When the store was first found out of reach, by the monotonic clock."""
        self._lines: list[str] = []
        self._first = 0
        self._adding, self._keeping, self._sending = (threading.Lock() for _ in range(3))

    def __call__(self, event: Line, line: str) -> None:
        """Keep one event's line."""
        with self._adding:
            if not self._lines:
                self._first = event["seq"]
            self._lines.append(line)

    def flush(self, before: Callable[[], None] = lambda: None) -> None:
        """Store what has not been stored; `before` each segment, act.

        Where the store is out of reach, keep it in the spool; raises UploadFailed once it has
        been for longer than the spec bears, or the spool is full or cannot be written.
        """
        self.keep()
        with self._sending:
            try:
                upload(self.store, self.run, self._mine(), before)
                self.down_since = None
            except Unavailable as down:
                self._bear(down)

    def offline(self) -> float | None:
        """Seconds for which the store has been out of reach; None where it is not."""
        since = self.down_since
        return None if since is None else time.monotonic() - since

    def keep(self) -> None:
        """Write what has not been stored to the spool, where it survives this process."""
        with self._keeping:  # one at a time, so that the spool never has a gap
            with self._adding:
                lines, self._lines, first = self._lines, [], self._first
            if not lines:
                return
            data = "".join(f"{line}\n" for line in lines).encode()
            name = f"{self.epoch:06d}-{first:012d}-{first + len(lines) - 1:012d}"
            try:
                self._spool(f"{name}-{digest_of(data)}", data)
            except OSError as error:
                raise UploadFailed(f"events cannot be kept in {self.spool}: {error}") from error

    def tidy(self) -> None:
        """Remove the spool where nothing waits in it."""
        with suppress(OSError):
            for folder in (self.spool, *self.spool.parents[:2]):
                folder.rmdir()

    def _mine(self) -> list[Path]:
        return sorted(self.spool.glob(f"{self.epoch:06d}-*.jsonl"))

    def _spool(self, name: str, data: bytes) -> None:
        self.spool.mkdir(parents=True, exist_ok=True)
        partial = self.spool / f"{name}.part"
        partial.write_bytes(data)
        partial.rename(self.spool / f"{name}.jsonl")

    def _bear(self, down: Unavailable) -> None:
        now = time.monotonic()
        self.down_since = self.down_since or now
        if now - self.down_since > self.offline_seconds:
            raise UploadFailed(
                f"the store was out of reach for {now - self.down_since:.0f} s; events wait in "
                f"{self.spool}; last error: {down}"
            )
        waiting = sum(path.stat().st_size for path in self._mine())
        if waiting > SPOOL_BYTES:
            raise UploadFailed(
                f"{waiting >> 20} MB of events wait in {self.spool}; last error: {down}"
            )
