"""Whole runs over a real S3 server that fails them in every way that servers do."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.nursery import Nursery, Process, until
from tests.proxy import Fault, Proxy, Request, Rule
from tests.runs import QUICK, SPEC, Run, Undisturbed, assert_undisturbed
from tests.small import write

BUSY = 40.0
"""Seconds that a busy machine may take besides what is stated."""
FAULTS: tuple[Fault, ...] = ("cut", "lose", "503", "500", "hang", "slow")


def some(fault: Fault, writes: bool) -> Rule:
    """Every third request of a kind fails, twelve of them in all."""
    count = itertools.count()

    def rule(request: Request) -> Fault | None:
        if request.writes != writes:
            return None
        number = next(count)
        return fault if number % 3 == 1 and number < 36 else None

    return rule


def short(folder: Path, **edits: Any) -> Path:
    """The spec of a run that bears an outage of 2 s."""
    return write(folder, SPEC | {"checkpoint.offline_minutes": 2 / 60} | edits)


def events(process: Process, kind: str) -> list[dict[str, Any]]:
    return [event for event in process.events if event["event"] == kind]


def quick_only(*faults: Fault) -> list[Any]:
    return [f if f in faults else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS]


# --- passing faults ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fault", quick_only("503"))
def test_some_writes_fail(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, fault: Fault
) -> None:
    """A run of which every third write fails, the first ones included, ends undisturbed."""
    proxy.rule = some(fault, writes=True)
    run = Run(nursery, undisturbed.spec, s3_url)
    process = run.start(patches=QUICK)
    assert process.wait() == 0, process.err
    proxy.rule = lambda _: None
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("fault", quick_only("cut"))
def test_some_reads_fail(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, fault: Fault
) -> None:
    """A run that is interrupted, and of which every third read fails, ends undisturbed."""
    run = Run(nursery, undisturbed.spec, s3_url)
    first = run.start(patches=QUICK)
    first.until_step(20)
    first.signal(15)
    assert first.wait() == 75
    proxy.rule = some(fault, writes=False)
    process = run.start(patches=QUICK)
    assert process.wait() == 0, process.err
    proxy.rule = lambda _: None
    assert_undisturbed(run, undisturbed)


def test_answers_lost_for_a_while(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str
) -> None:
    """Where all writes arrive and no answer comes back, not to any attempt, the run goes on; it
    does not take its own lease and head, once it sees them, for another process's."""
    run = Run(nursery, undisturbed.spec, s3_url)
    process = run.start(patches=QUICK)
    process.until_step(10)
    lost = itertools.count()
    proxy.rule = lambda request: "lose" if request.writes and next(lost) < 24 else None
    assert process.wait() == 0, process.err
    assert next(lost) > 24
    assert_undisturbed(run, undisturbed)


def test_outage(nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str) -> None:
    """While the store refuses every connection the run trains on; when it is back, everything
    arrives, and nothing shows of it."""
    run = Run(nursery, undisturbed.spec, s3_url)
    process = run.start(patches=QUICK)
    process.until_step(10)
    proxy.refuse()
    process.until_step(60)
    time.sleep(3.0)
    assert process.code is None
    proxy.accept()
    assert process.wait() == 0, process.err
    assert_undisturbed(run, undisturbed)


def test_throttled_store_does_not_slow_training(
    nursery: Nursery, proxy: Proxy, s3_url: str, tmp_path: Path
) -> None:
    """Over 1 MB/s, where the checkpoints taken would need minutes, training takes seconds: newer
    ones replace those that wait."""
    spec = write(
        tmp_path,
        {
            "model.hidden": 128,
            "train.epochs": 8,
            "checkpoint.every_steps": 1,
            "checkpoint.verify": False,
        },
    )
    run = Run(nursery, spec, s3_url)
    proxy.rule = lambda _: "slow"
    process = run.start()
    assert process.wait() == 0, process.err
    (finished,) = events(process, "run.finished")
    saved = events(process, "checkpoint.saved")
    needed = finished["steps"] * saved[0]["size"] / 1e6
    assert finished["seconds"] < needed / 3
    assert len(saved) < finished["steps"] / 2
    assert saved[-1]["step"] == finished["steps"]


# --- lasting faults ---------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [pytest.param(False, marks=pytest.mark.slow), True])
def test_outage_beyond_the_bound(
    nursery: Nursery,
    undisturbed: Undisturbed,
    proxy: Proxy,
    s3_url: str,
    tmp_path: Path,
    elsewhere: bool,
) -> None:
    """A store that stays away ends the run with 1 and upload_failed soon after the stated time;
    the message names a folder that holds what is not stored. Nothing that was committed is lost:
    the run goes on, here or on a machine without that folder, and ends undisturbed."""
    run = Run(nursery, short(tmp_path), s3_url)
    process = run.start(patches=QUICK | {"tempfile:tempdir": str(tmp_path)})
    until(lambda: "checkpoint.saved" in process.out)
    proxy.refuse()
    begun = time.monotonic()
    assert process.wait() == 1
    assert time.monotonic() - begun < 2 + BUSY
    (finished,) = events(process, "run.finished")
    assert finished["reason"] == "upload_failed"
    assert process.err.startswith("run r: ")
    assert process.err.count("\n") == 1
    folder = Path(process.err.partition("what is not stored lies in ")[2].partition(";")[0])
    assert folder.is_relative_to(tmp_path)
    assert list(folder.glob("*.jsonl"))
    assert (folder / "checkpoint" / "manifest.json").exists()

    proxy.accept()
    before = run.named
    assert before
    assert run.result() is None
    machine = tmp_path / "other" if elsewhere else tmp_path
    machine.mkdir(exist_ok=True)
    again = run.start(patches={"tempfile:tempdir": str(machine)})
    assert again.wait() == 0, again.err
    assert again.events[0]["resumed_from"] > 0
    assert_undisturbed(run, undisturbed)


@pytest.mark.parametrize("fault", quick_only())
def test_writes_fail_for_good(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, tmp_path: Path,
    fault: Fault,
) -> None:  # fmt: skip
    """Where no write succeeds any more, in whichever way, the run ends with 1 and upload_failed
    after the stated time, or in success where writes are only slow or only seem to fail; when
    they succeed again it ends undisturbed."""
    run = Run(nursery, short(tmp_path), s3_url)
    process = run.start(patches=QUICK)
    until(lambda: "checkpoint.saved" in process.out)
    proxy.rule = lambda request: fault if request.writes else None
    begun = time.monotonic()
    code = process.wait()
    assert time.monotonic() - begun < 2 + 2 * BUSY
    assert code == 0 if fault == "slow" else code == 1
    if code == 1:
        assert events(process, "run.finished")[0]["reason"] == "upload_failed"
    proxy.rule = lambda _: None
    again = run.start()
    assert again.wait() == 0, again.err
    assert_undisturbed(run, undisturbed)


@pytest.mark.parametrize("fault", quick_only("500"))
def test_start_without_store(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, fault: Fault
) -> None:
    """A run whose store fails from the start trains nothing and ends with 1 and one line."""
    proxy.rule = lambda _: fault
    process = Run(nursery, undisturbed.spec, s3_url).start(patches=QUICK)
    if fault == "slow":
        assert process.wait() == 0
        return
    assert process.wait(BUSY) == 1
    assert process.out == ""
    assert process.err.startswith(f"evengrad: {s3_url}/")
    assert process.err.count("\n") == 1


@pytest.mark.slow
def test_access_withdrawn(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str
) -> None:
    """Credentials that stop working in mid-run end it at once with 1 and a line that says what to
    check; with working ones it goes on and ends undisturbed."""
    run = Run(nursery, undisturbed.spec, s3_url)
    process = run.start()
    until(lambda: "checkpoint.saved" in process.out)
    proxy.rule = lambda _: "403"
    assert process.wait(BUSY) == 1
    assert "access denied (403 AccessDenied); check AWS_ACCESS_KEY_ID" in process.err
    assert process.err.count("\n") == 1
    refused = run.start()
    assert refused.wait() == 1
    assert "access denied" in refused.err
    assert refused.out == ""
    proxy.rule = lambda _: None
    again = run.start()
    assert again.wait() == 0, again.err
    assert again.events[0]["resumed_from"] > 0
    assert_undisturbed(run, undisturbed)
