"""One process at a time has the right to write a run, and knows when it has lost it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from job.record.document import Document, Fenced
from job.record.lease import Held, Holder, Lease
from job.store import Store
from job.store.directory import DirectoryStore

SECONDS = 1.0
LONG = 600.0
"""Longer than anything takes but waiting for it."""


def lease(store: Store, seconds: float = SECONDS) -> Lease:
    return Lease(store, "name/run", seconds)


def elsewhere(store: Store, machine: str = "other/pid:[1]") -> None:
    """Make the lease one of a process on another machine."""
    document = Document(store, "name/run/lease.json")
    body = document.read()
    assert body is not None
    del body["nonce"]
    document.write({**body, "machine": machine})


@contextmanager
def other_process(store: DirectoryStore) -> Iterator[subprocess.Popen[str]]:
    """A process that has taken the lease, and waits."""
    code = """
        import sys
        from pathlib import Path
        from job.record.lease import Lease
        from job.store.directory import DirectoryStore
        lease = Lease(DirectoryStore(Path(sys.argv[1])), "name/run", 60)
        print(lease.acquire(0, False), flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), store.url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_epoch_rises_with_every_holder(store: Store) -> None:
    """The first has epoch 1, and each that follows a released lease one more, at once."""
    waits: list[float] = []
    for epoch in (1, 2, 3):
        mine = lease(store, 60)
        assert mine.acquire(0, take_over=False, waiting=waits.append) == epoch
        mine.renew()
        mine.release()
    assert waits == []


def test_the_epoch_is_above_that_of_the_index(tmp_path: Path) -> None:
    """The run index may know a higher epoch than a lease that was lost; it counts."""
    assert lease(DirectoryStore(tmp_path)).acquire(7, take_over=False) == 8


def test_a_damaged_lease_is_taken_above_the_index(tmp_path: Path) -> None:
    """Damage to the lease loses no epoch: the run index has it."""
    store = DirectoryStore(tmp_path)
    lease(store).acquire(0, take_over=False)
    store.put("name/run/lease.json", b"damaged")
    assert lease(store).acquire(1, take_over=False) == 2


class Watching:
    """The watcher's time, in place of the module `time`: its third pause sees an act."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act, self.now, self.pauses = act, 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1
        if self.pauses == 3:
            self.act()


def test_a_living_holder_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is renewed while it is watched is not taken; the holder is named."""
    store = DirectoryStore(tmp_path)
    first = lease(store)
    first.acquire(0, take_over=False)
    watching = Watching(first.renew)
    monkeypatch.setattr("job.record.lease.time", watching)
    with pytest.raises(Held, match=rf"process {os.getpid()}@\d+ .* --take-over"):
        lease(store).acquire(1, take_over=False)
    assert watching.pauses == 3
    first.renew()  # and goes on with it


def test_a_stale_lease_is_taken_after_its_time(tmp_path: Path) -> None:
    """One that is not renewed for as long as it was granted is taken; its holder is fenced."""
    store = DirectoryStore(tmp_path)
    first, second = lease(store), lease(store, 60)
    first.acquire(0, take_over=False)
    waits: list[float] = []
    begun = time.monotonic()
    assert second.acquire(1, take_over=False, waiting=waits.append) == 2
    assert time.monotonic() - begun >= SECONDS
    assert waits == [SECONDS]  # what the holder was granted, not what the next one wants
    for act in (first.renew, first.release):
        with pytest.raises(Fenced):
            act()
    second.renew()


def test_taking_over_does_not_wait(tmp_path: Path) -> None:
    """With `take_over` a living holder is fenced at once."""
    store = DirectoryStore(tmp_path)
    first = lease(store, 60)
    first.acquire(0, take_over=False)
    waits: list[float] = []
    assert lease(store, 60).acquire(0, take_over=True, waiting=waits.append) == 2
    assert waits == []
    with pytest.raises(Fenced):
        first.renew()


def test_a_renewal_does_not_keep_out_who_takes_over(tmp_path: Path) -> None:
    """A holder that renews between the look at its lease and the taking of it is fenced as well."""
    store = DirectoryStore(tmp_path)
    first, second = lease(store, 60), lease(store, 60)
    first.acquire(0, take_over=False)
    read, renewals = second.document.read, iter([first.renew, first.renew])

    def read_too_early() -> dict[str, Any] | None:
        found = read()
        next(renewals, lambda: None)()
        return found

    second.document.read = read_too_early  # type: ignore[method-assign]  # a race, made certain
    assert second.acquire(0, take_over=True) == 2
    with pytest.raises(Fenced):
        first.renew()


def test_a_dead_process_of_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    """A holder that was killed here is known to be dead, also before its parent reaps it."""
    store = DirectoryStore(tmp_path)
    with other_process(store) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        waits: list[float] = []
        assert lease(store).acquire(1, take_over=False, waiting=waits.append) == 2
        assert waits == []


def test_a_frozen_process_of_this_machine_is_not_dead(tmp_path: Path) -> None:
    """A stopped holder may wake: its lease is watched like any other."""
    store = DirectoryStore(tmp_path)
    with other_process(store) as process:
        process.send_signal(signal.SIGSTOP)
        waits: list[float] = []

        def stop_waiting(seconds: float) -> None:
            waits.append(seconds)
            raise InterruptedError

        with pytest.raises(InterruptedError):
            lease(store).acquire(1, take_over=False, waiting=stop_waiting)
        assert waits == [60]


def test_death_is_only_told_of_this_machine(tmp_path: Path) -> None:
    """A process id of another machine says nothing, even where none of that number lives here."""
    gone = Holder(Holder.me().machine, "4194305@1")  # above the kernel's highest
    assert gone.is_dead()
    assert not gone._replace(machine="other/pid:[1]").is_dead()
    assert not gone._replace(machine="unknown/unknown").is_dead()
    me = Holder.me()
    assert not me.is_dead()
    reused = me._replace(process=f"{os.getpid()}@1")
    assert reused.is_dead()  # the number was given to another process since
    store = DirectoryStore(tmp_path)
    lease(store).acquire(0, take_over=False)
    elsewhere(store)
    begun = time.monotonic()
    assert lease(store).acquire(1, take_over=False) == 2
    assert time.monotonic() - begun >= SECONDS


def test_a_lease_given_back_ends_the_waiting(tmp_path: Path) -> None:
    """Who waits for a lease takes it as soon as it is released."""
    store = DirectoryStore(tmp_path)
    first = lease(store, LONG)
    first.acquire(0, take_over=False)
    begun = time.monotonic()
    assert lease(store).acquire(1, False, waiting=lambda _: first.release()) == 2
    assert time.monotonic() - begun < LONG


def test_of_many_at_once_one_ends_with_it(store: Store) -> None:
    """However many start at the same instant, no two get one epoch, and one can write on."""
    barrier = threading.Barrier(8)

    def start(_: int) -> Lease | None:
        mine = lease(store, 60)
        barrier.wait()
        try:
            mine.acquire(0, take_over=True)
        except Held:
            return None
        return mine

    with ThreadPoolExecutor(8) as pool:
        takers = [mine for mine in pool.map(start, range(8)) if mine is not None]
    assert len({mine.epoch for mine in takers}) == len(takers)
    alive = []
    for mine in takers:
        with suppress(Fenced):
            mine.renew()
            alive.append(mine.epoch)
    assert alive == [max(mine.epoch for mine in takers)]


def test_a_damaged_lease_is_watched(tmp_path: Path) -> None:
    """One that says nothing may be of a living process: nobody takes it at once, save by force."""
    store = DirectoryStore(tmp_path)
    first = lease(store)
    first.acquire(0, take_over=False)
    path = tmp_path / "name/run/lease.json"
    path.write_bytes(path.read_bytes().replace(b'"beats"', b'"beatz"'))
    begun = time.monotonic()
    waits: list[float] = []
    assert lease(store).acquire(1, take_over=False, waiting=waits.append) == 2
    assert time.monotonic() - begun >= SECONDS
    assert waits == [SECONDS]
    path.write_bytes(path.read_bytes().replace(b'"beats"', b'"beatz"'))
    assert lease(store).acquire(2, take_over=True, waiting=waits.append) == 3
    assert waits == [SECONDS]
