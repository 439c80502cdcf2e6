"""Who may write a run: a lease in the store, with an epoch that rises at every change of holder.

The epoch is the fencing token: it is in the keys and documents that a holder writes. No wall clock
is trusted: a lease is stale when a process that wants it has watched it unchanged for as long as it
is granted, by its own monotonic clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from job.record.document import HIGHEST_EPOCH, Contents, Damaged, Document, Fenced, Vanished
from job.store import Store

POLL = 0.5
"""Seconds between two reads of a lease that may be stale."""
LONGEST = 3600.0
"""Seconds for which a lease can be granted; the spec's bound."""


class Held(Exception):
    """Another process holds the lease and lives."""


class Holder(NamedTuple):
    """A process; no other process on earth has the same values."""

    machine: str
    """Boot id and process namespace."""
    process: str
    """Process id and the time it started, in clock ticks since boot."""

    @classmethod
    def me(cls) -> Holder:
        """The process that calls."""
        machine = f"{_line('/proc/sys/kernel/random/boot_id')}/{_link('/proc/self/ns/pid')}"
        return cls(machine, _process(os.getpid()) or str(os.getpid()))

    def is_dead(self) -> bool:
        """True if the process ran on this host and has exited."""
        pid = self.process.partition("@")[0]
        here = Holder.me().machine == self.machine and "/pid" in self.machine
        return here and pid.isdecimal() and _process(int(pid)) != self.process


def _process(pid: int) -> str | None:
    """`pid@start time`; None if there is no such process, or it only waits to be reaped."""
    try:
        # The name in parentheses may hold anything, so count from its end.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else f"{pid}@{started}"


def _line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return "unknown"


class LeaseRecord(Contents):
    """`lease.json`: who holds a run."""

    FILE: ClassVar[str] = "lease.json"

    epoch: Annotated[int, Field(ge=0, le=HIGHEST_EPOCH)]
    """Rises at every change of holder."""
    machine: str
    process: str
    """Of the holder; see Holder."""
    seconds: Annotated[float, Field(gt=0, le=LONGEST)]
    """For how long it is granted without a renewal."""
    beats: int
    """Renewals."""
    released: bool
    """True once the holder has given it back."""
    nonce: str = ""
    """Another one at every write."""

    @property
    def holder(self) -> Holder:
        """The process that holds it, or held it last."""
        return Holder(self.machine, self.process)

    @property
    def is_orphaned(self) -> bool:
        """True if its holder ran on this machine and has exited without giving it back."""
        return not self.released and self.holder.is_dead()


class Lease:
    """The right to write one run."""

    def __init__(self, store: Store, run: str, seconds: float, fenced: bool = True) -> None:
        self.document = Document(store, LeaseRecord.key(run), fenced)
        self.seconds = seconds
        self.epoch = 0
        self.beats = 0

    def acquire(
        self, above: int, take_over: bool, waiting: Callable[[float], object] = lambda _: None
    ) -> int:
        """Take the lease and return its epoch, which is higher than `above`.

        If a lease is not released and its holder may live, it is watched for as long as it is
        granted; `waiting` is called once, with the seconds. `take_over` does not wait. Raises Held
        if it is renewed meanwhile, or if a third process takes it.
        """
        found = self._read_record()
        if found is None and self.document.damaged and not take_over:
            found = self._await_readable(waiting)
        if found is not None and not take_over:
            self._await(found, waiting)
        while True:
            self.epoch = 1 + max(above, found.epoch if found else 0)
            try:
                self._write(released=False)
                return self.epoch
            except Vanished:  # removed since it was read
                found = self._read_record()
            except Fenced as fenced:
                before, found = found, self._read_record()
                # A holder that has just renewed does not keep out a process that takes over.
                same = before and found and before.epoch == found.epoch
                if not (take_over and same):
                    raise Held("another process has just taken this run") from fenced

    def _read_record(self) -> LeaseRecord | None:
        # The epoch of a damaged lease is not lost: the run index has it.
        with suppress(Damaged):
            return LeaseRecord.of(self.document)
        return None

    def _await_readable(self, waiting: Callable[[float], object]) -> LeaseRecord | None:
        """Watch a damaged lease for as long as one is granted; the intact one that replaces it."""
        waiting(self.seconds)
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(min(POLL, self.seconds / 4))
            if (found := self._read_record()) is not None:
                return found
        return None

    def renew(self) -> None:
        """Show that this holder lives; raises Fenced if another has the lease, or Vanished."""
        self.beats += 1
        self._write(released=False)

    def release(self) -> None:
        """Give the lease back, so that the next holder need not wait."""
        self._write(released=True)

    def _await(self, found: LeaseRecord, waiting: Callable[[float], object]) -> None:
        """Wait until a lease is released or stale; raises Held if its holder renews it."""
        if found.released or found.is_orphaned:
            return
        waiting(found.seconds)
        until = time.monotonic() + found.seconds
        while time.monotonic() < until:
            time.sleep(min(POLL, found.seconds / 4))
            now = LeaseRecord.of(self.document)
            if now is None or now.released:
                return
            if now.nonce != found.nonce:
                raise Held(
                    f"process {found.process} on machine {found.machine} holds this run and "
                    "lives; stop it, or take the run over with --take-over"
                )

    def _write(self, released: bool) -> None:
        machine, process = Holder.me()
        record = LeaseRecord(
            epoch=self.epoch,
            machine=machine,
            process=process,
            seconds=self.seconds,
            beats=self.beats,
            released=released,
        )
        self.document.write(record.body())
