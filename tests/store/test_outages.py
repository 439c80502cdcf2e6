"""Whole runs over a real S3 server that fails in every way that servers do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_proxy import Answer, Fault, Proxy, Request, Rule
from tests.support.hold import Hold
from tests.support.runs import EPOCHS, QUICK, SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.s3_server import (
    ACCESS_KEY,
    NEXT_ACCESS_KEY,
    NEXT_SECRET_KEY,
    SECRET_KEY,
)
from tests.support.tiny_job import STEPS, write
from tests.support.warm_process import Nursery, Process, until

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
    """The spec of a run that ends after an outage of 2 s."""
    return write(folder, SPEC | {"checkpoint.offline_minutes": 2 / 60} | edits)


def events(process: Process, kind: str) -> list[dict[str, Any]]:
    return [event for event in process.events if event["event"] == kind]


def held_with_checkpoint(run: Run, **circumstances: Any) -> tuple[Process, Hold]:
    """A process of the run that waits in the middle of training, with a checkpoint in the store."""
    process, hold = run.start_held(20, **circumstances)
    hold.until_reached()
    until(lambda: "checkpoint.saved" in process.out, say=lambda: process.err)
    return process, hold


def quick_only(*faults: Fault) -> list[Any]:
    return [f if f in faults else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS]


# --- passing faults ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fault", quick_only("503"))
def test_some_writes_fail(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, fault: Fault
) -> None:
    """A run ends undisturbed although every third write fails, the first ones included."""
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
    """An interrupted run goes on and ends undisturbed although every third read fails."""
    run = Run(nursery, undisturbed.spec, s3_url)
    first, hold = held_with_checkpoint(run, patches=QUICK)
    first.signal(15)
    hold.release()
    assert first.wait() == 75
    proxy.rule = some(fault, writes=False)
    process = run.start(patches=QUICK)
    assert process.wait() == 0, process.err
    proxy.rule = lambda _: None
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_answers_lost_for_a_while(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str
) -> None:
    """If all writes arrive but their answers are lost, for several attempts, the run goes on; it
    recognizes its own lease and run index and does not take them for another process's."""
    run = Run(nursery, undisturbed.spec, s3_url)
    process, hold = run.start_held(10, patches=QUICK)
    hold.until_reached()
    lost = itertools.count()
    proxy.rule = lambda request: "lose" if request.writes and next(lost) < 24 else None
    hold.release()
    assert process.wait() == 0, process.err
    assert next(lost) > 24
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_outage(nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str) -> None:
    """While the store refuses every connection the run trains to its last step; when the store is
    back everything arrives, and the run ends undisturbed."""
    run = Run(nursery, undisturbed.spec, s3_url)
    process, hold = run.start_held(10, patches=QUICK)
    hold.until_reached()
    proxy.refuse()
    hold.release()
    process.until_step(EPOCHS * STEPS)
    assert process.code is None
    proxy.accept()
    assert process.wait() == 0, process.err
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_slow_upload_does_not_hold_training(
    nursery: Nursery, proxy: Proxy, s3_url: str, tmp_path: Path
) -> None:
    """While the first checkpoint is still on its way, training goes on to the last step: newer
    checkpoints replace those that wait."""
    spec = write(tmp_path, SPEC | {"checkpoint.every_steps": 1, "checkpoint.verify": False})
    run = Run(nursery, spec, s3_url)
    proxy.rule = lambda request: (
        "held" if request.writes and "/checkpoints/" in request.path else None
    )
    process = run.start()
    process.until_step(EPOCHS * STEPS)
    assert events(process, "checkpoint.saved") == []
    proxy.release()
    assert process.wait() == 0, process.err
    saved = events(process, "checkpoint.saved")
    assert saved[-1]["step"] == EPOCHS * STEPS
    assert len(saved) <= 3


# --- lasting faults ---------------------------------------------------------------------------


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.slow
def test_outage_beyond_the_bound(
    nursery: Nursery,
    undisturbed: Undisturbed,
    proxy: Proxy,
    s3_url: str,
    tmp_path: Path,
    elsewhere: bool,
) -> None:
    """A store that stays away for longer than the spec allows ends the run with 1 and
    upload_failed; the message names a folder that holds what is not stored. The run goes on from
    the store, here or on a machine without that folder, and ends undisturbed."""
    run = Run(nursery, short(tmp_path), s3_url)
    process, hold = held_with_checkpoint(run, patches=QUICK | {"tempfile:tempdir": str(tmp_path)})
    proxy.refuse()
    hold.release()
    assert process.wait() == 1
    (finished,) = events(process, "run.finished")
    assert finished["reason"] == "upload_failed"
    assert process.err.startswith("run r: ")
    assert process.err.count("\n") == 1
    folder = Path(process.err.partition("what is not stored lies in ")[2].partition(";")[0])
    assert folder.is_relative_to(tmp_path)
    assert list(folder.glob("*.jsonl"))
    assert (folder / "checkpoint" / "manifest.json").exists()

    proxy.accept()
    assert run.named
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
    """If no write succeeds any more, in whichever way, the run ends with 1 and upload_failed after
    the time that the spec allows, or in success if writes are only slow; when they succeed again
    it ends undisturbed."""
    run = Run(nursery, short(tmp_path), s3_url)
    process, hold = held_with_checkpoint(run, patches=QUICK)
    proxy.rule = lambda request: fault if request.writes else None
    hold.release()
    code = process.wait()
    assert code == 0 if fault == "slow" else code == 1
    if code == 1:
        assert events(process, "run.finished")[0]["reason"] == "upload_failed"
    proxy.rule = lambda _: None
    again = run.start()
    assert again.wait() == 0, again.err
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_start_without_store(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, fault: Fault
) -> None:
    """A run whose store fails from the start trains nothing and ends with 1 and one line."""
    proxy.rule = lambda _: fault
    process = Run(nursery, undisturbed.spec, s3_url).start(patches=QUICK)
    if fault == "slow":
        assert process.wait() == 0
        return
    assert process.wait() == 1
    assert process.out == ""
    assert process.err.startswith(f"evengrad: {s3_url}/")
    assert process.err.count("\n") == 1


# --- credentials ------------------------------------------------------------------------------


def expired(_: Request) -> Answer:
    return Answer(403, "ExpiredToken", "The provided token has expired.")


@pytest.mark.slow
def test_access_withdrawn(
    nursery: Nursery, undisturbed: Undisturbed, proxy: Proxy, s3_url: str, tmp_path: Path
) -> None:
    """Credentials that stop working during a run are an outage, which an alarm reports with the
    server's own reason; after the time that the spec allows the run ends with 1. A start with
    them is refused at once; with working ones the run goes on and ends undisturbed."""
    run = Run(nursery, short(tmp_path), s3_url)
    process, hold = held_with_checkpoint(run)
    proxy.rule = expired
    hold.release()
    assert process.wait() == 1
    (alarm,) = (e for e in events(process, "alarm") if e["kind"] == "store_lost")
    assert "403 ExpiredToken: The provided token has expired." in alarm["message"]
    assert "were the keys replaced, or has a session token expired?" in alarm["message"]
    assert events(process, "run.finished")[0]["reason"] == "upload_failed"
    assert "session token" in process.err
    assert process.err.count("\n") == 1

    refused = run.start()
    assert refused.wait() == 1
    assert "access denied (403 ExpiredToken" in refused.err
    assert "worked before" not in refused.err
    assert refused.out == ""
    proxy.rule = lambda _: None
    again = run.start()
    assert again.wait() == 0, again.err
    assert again.events[0]["resumed_from"] > 0
    assert_undisturbed(run, undisturbed)


@pytest.mark.slow
def test_keys_are_replaced(
    nursery: Nursery,
    undisturbed: Undisturbed,
    proxy: Proxy,
    s3_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the server's keys are replaced during a run, and then those in the credentials file, the
    run goes on without a restart and ends undisturbed."""
    shared = tmp_path / "credentials"

    def write_keys(access: str, secret: str) -> None:
        lines = ("[default]", f"aws_access_key_id = {access}", f"aws_secret_access_key = {secret}")
        shared.write_text("\n".join(lines))

    write_keys(ACCESS_KEY, SECRET_KEY)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    run = Run(nursery, undisturbed.spec, s3_url)
    process, hold = held_with_checkpoint(run)
    proxy.rule = lambda request: "403" if request.access_key == ACCESS_KEY else None
    until(lambda: '"kind":"store_lost"' in process.out, say=lambda: process.err)
    write_keys(NEXT_ACCESS_KEY, NEXT_SECRET_KEY)
    until(lambda: '"kind":"store_found"' in process.out, say=lambda: process.err)
    hold.release()
    assert process.wait() == 0, process.err
    assert_undisturbed(run, undisturbed)
