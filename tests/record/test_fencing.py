"""Two real processes for one run: only one of them writes, whatever their clocks say."""

from __future__ import annotations

import fcntl
import re
import signal
import time
from pathlib import Path

import pytest

from job.store import Store
from tests.support.faulty_proxy import Proxy
from tests.support.runs import SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.tiny_job import write
from tests.support.warm_process import Nursery, Process

LEASE = 1.0
ENDLESS = SPEC | {"train.epochs": 100_000, "checkpoint.lease_seconds": LEASE}


def freeze(process: Process, run: Run) -> None:
    """Stop a process, but not while it holds the lock of a directory, which takes milliseconds."""
    if run.url.startswith("s3://"):
        process.signal(signal.SIGSTOP)
        return
    with Path(run.url, ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process.signal(signal.SIGSTOP)
        while not is_stopped(process.pid):  # else it may take the lock on its way to a halt
            time.sleep(0.001)


def is_stopped(pid: int) -> bool:
    """True if every thread of a process stands."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


def objects(store: Store) -> dict[str, bytes]:
    return {entry.key: store.get(entry.key).data for entry in store.list("")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store_url", "skew"),
    [("directory", -600), pytest.param("s3", 600, marks=pytest.mark.slow)],
    indirect=["store_url"],
)
def test_frozen_process_is_overtaken(
    nursery: Nursery, undisturbed: Undisturbed, store_url: str, tmp_path: Path, skew: float
) -> None:
    """A process frozen past its lease has lost the run to a second, whose clock is wrong by ten
    minutes and which ends the run undisturbed; awake again, the first one changes nothing of
    that, and exits with 1 and a line that says why."""
    spec = write(tmp_path, SPEC | {"checkpoint.lease_seconds": LEASE})
    run = Run(nursery, spec, store_url)
    first, hold = run.start_held(10)
    hold.until_reached()
    freeze(first, run)
    assert first.code is None
    begun = time.monotonic()
    second = run.start(skew=skew)
    assert second.wait() == 0, second.err
    assert time.monotonic() - begun > LEASE
    assert "waiting 1 s: the run's last holder may be alive" in second.err
    assert_undisturbed(run, undisturbed)
    before, history = objects(run.store), run.history(superseded=True)

    hold.release()
    first.signal(signal.SIGCONT)
    assert first.wait() == 1
    assert first.err.startswith("evengrad: another process has written small/r/")
    assert first.err.count("\n") == 1
    after = objects(run.store)
    assert {key: after.get(key) for key in before} == before
    # What it was in the midst of writing when it was frozen may have arrived. It does not count.
    for key in after.keys() - before.keys():
        assert re.search("/events/000001-|/checkpoints/[0-9]+-1/", key)
    assert run.history(superseded=True) == history


@pytest.mark.slow
@pytest.mark.parametrize(
    "store_url", ["directory", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_living_holder_keeps_the_run(nursery: Nursery, store_url: str, tmp_path: Path) -> None:
    """While one process runs, a second waits for about the lease's time and is refused, also with
    a clock that is ten minutes fast; with --take-over it gets the run, and the first one ends."""
    run = Run(nursery, write(tmp_path, ENDLESS), store_url)
    first, hold = run.start_held(3)
    hold.until_reached()
    second = run.start(skew=600)
    assert second.wait() == 1
    lines = second.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("waiting 1 s: the run's last holder may be alive")
    assert f"evengrad: process {first.pid}@" in lines[1]
    assert "holds this run and lives; stop it, or take the run over with --take-over" in lines[1]
    assert first.code is None

    third = run.start("--take-over")
    hold.release()
    assert first.wait() == 1
    assert "evengrad: another process has written small/r/" in first.err
    assert third.code is None
    third.signal(signal.SIGTERM)
    assert third.wait() == 75
    assert "resumed_from" in third.events[0]
    seqs = [event["seq"] for event in run.history(superseded=True)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_dead_holder_is_not_waited_for(nursery: Nursery, tmp_path: Path) -> None:
    """A run whose holder was killed on this machine goes on at once, its lease long or not."""
    spec = write(tmp_path, ENDLESS | {"checkpoint.lease_seconds": 3600})
    run = Run(nursery, spec, str(tmp_path / "store"))
    first = run.start()
    first.until_step(3)
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = run.start()
    second.until_step(5)
    assert second.code is None
    assert second.err == ""


@pytest.mark.slow
def test_store_without_conditions(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, tmp_path: Path
) -> None:
    """A server that ignores If-Match and If-None-Match is refused in one line, before anything is
    written, unless the spec allows it; then an alarm says so, and the run ends as any other."""
    proxy.rule = lambda _: "unconditional"
    run = Run(nursery, write(tmp_path, SPEC), s3_url)
    refused = run.start()
    assert refused.wait() == 1
    assert refused.err == (
        f"evengrad: {s3_url} ignores conditional writes, so two processes could overwrite each "
        "other; use another store, or set checkpoint.unfenced in the spec\n"
    )
    assert objects(run.store) == {}
    run = Run(nursery, write(tmp_path, SPEC | {"checkpoint.unfenced": True}), s3_url)
    assert run.start().wait() == 0
    assert "a second process would not be noticed" in run.alarms()["unfenced"]
    assert_undisturbed(run, undisturbed)
