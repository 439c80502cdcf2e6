"""Who may write a run: a lease in the store, with an epoch that rises at every change of holder.

The epoch is the fencing token: it is in the keys and documents that a holder writes. Nobody's wall
clock is trusted: a lease is stale when the one who wants it has watched it unchanged for as long as
it is granted, by its own monotonic clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from job.document import Body, Damaged, Document, Fenced
from job.store import Store

POLL = 0.5
"""Seconds between looks at a lease that may be stale."""


class Held(Exception):
    """Another process holds the lease and lives."""


class Holder(NamedTuple):
    """A process, such that no other one on earth is taken for it."""

    machine: str
    """Boot id and process namespace."""
    process: str
    """Process id and the time it started, in clock ticks since boot."""

    @classmethod
    def me(cls) -> Holder:
        """The process that asks."""
        machine = f"{_line('/proc/sys/kernel/random/boot_id')}/{_link('/proc/self/ns/pid')}"
        return cls(machine, _process(os.getpid()) or str(os.getpid()))

    def is_dead(self) -> bool:
        """Whether it certainly is: it ran where this process runs, and does so no more."""
        pid = int(self.process.partition("@")[0])
        here = Holder.me().machine == self.machine and "/pid" in self.machine
        return here and _process(pid) != self.process


def _process(pid: int) -> str | None:
    """`pid@start time`; None for no process or one that only waits to be reaped."""
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


class Lease:
    """The right to write one run."""

    def __init__(self, store: Store, run: str, seconds: float, fenced: bool = True) -> None:
        self.document = Document(store, f"{run}/lease.json", fenced)
        self.seconds = seconds
        self.epoch = 0
        self.beats = 0

    def acquire(
        self, above: int, take_over: bool, waiting: Callable[[float], object] = lambda _: None
    ) -> int:
        """Take the lease and return its epoch, which is higher than `above`.

        A lease that is neither released nor of a process that is known to be dead is watched for
        as long as it is granted; `waiting` is told the seconds once. `take_over` does not wait.
        Raises Held where it is renewed meanwhile, or where a third process takes it.
        """
        found = self._found()
        if found is None and self.document.damaged and not take_over:
            found = self._await_renewal(waiting)
        if found is not None and not take_over:
            self._await(found, waiting)
        while True:
            self.epoch = 1 + max(above, found["epoch"] if found else 0)
            try:
                self._write(released=False)
                return self.epoch
            except Fenced as fenced:
                before, found = found, self._found()
                # A holder that renews just now does not keep out a process that takes over.
                same = before and found and before["epoch"] == found["epoch"]
                if not (take_over and same):
                    raise Held("another process has just taken this run") from fenced

    def _found(self) -> Body | None:
        # The epoch of a damaged lease is not lost: the run's head has it.
        with suppress(Damaged):
            return self.document.read()
        return None

    def _await_renewal(self, waiting: Callable[[float], object]) -> Body | None:
        """Watch a lease that says nothing, for as long as this process would hold it."""
        waiting(self.seconds)
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(min(POLL, self.seconds / 4))
            if (found := self._found()) is not None:
                return found
        return None

    def renew(self) -> None:
        """Show that this holder lives; raises Fenced where another has the lease by now."""
        self.beats += 1
        self._write(released=False)

    def release(self) -> None:
        """Give the lease back, so that the next holder need not wait."""
        self._write(released=True)

    def _await(self, found: Body, waiting: Callable[[float], object]) -> None:
        if found["released"] or Holder(found["machine"], found["process"]).is_dead():
            return
        waiting(float(found["seconds"]))
        until = time.monotonic() + float(found["seconds"])
        while time.monotonic() < until:
            time.sleep(min(POLL, float(found["seconds"]) / 4))
            now = self.document.read()
            if now is None or now["released"]:
                return
            if now["nonce"] != found["nonce"]:
                raise Held(
                    f"process {found['process']} on machine {found['machine']} holds this run and "
                    "lives; stop it, or take the run over with --take-over"
                )

    def _write(self, released: bool) -> None:
        machine, process = Holder.me()
        self.document.write(
            {
                "schema": 1,
                "epoch": self.epoch,
                "machine": machine,
                "process": process,
                "seconds": self.seconds,
                "beats": self.beats,
                "released": released,
            }
        )
