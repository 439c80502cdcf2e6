"""SIGTERM and SIGINT: the run ends within its grace and can go on, whatever the store does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from job.record.history import read_document
from tests.support.command import ROOT, start
from tests.support.faulty_proxy import Fault, Proxy
from tests.support.hold import handles
from tests.support.runs import SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.tiny_job import write
from tests.support.warm_process import Nursery, until

ENDLESS = SPEC | {"train.epochs": 100_000}
STEP = 20
"""At which a run is held."""
LONG_GRACE = ("--grace", "3600")
SLOW = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=SLOW)])
def test_interrupted_run_goes_on(
    nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path, number: signal.Signals
) -> None:
    """A signal ends the run with 75, a checkpoint of its last step and the lease given back;
    started again, even from another machine, it does not wait and ends undisturbed."""
    run = Run(nursery, undisturbed.spec, str(tmp_path))
    first, hold = run.start_held(STEP, *LONG_GRACE)
    hold.interrupt(first, number)
    assert first.wait() == 75
    last = [e["step"] for e in first.events if e["event"] == "step"][-1]
    assert last == STEP + 1
    again = f"python -m job run {run.spec} --run-id r --store {run.url}"
    assert first.err == f"run r interrupted at step {last}; to go on: {again}\n"
    status = read_document(run.store, run.key, "status.json")
    assert status is not None
    assert (status["phase"], status["checkpoint_step"]) == ("interrupted", last)
    lease = read_document(run.store, run.key, "lease.json")
    assert lease is not None
    assert lease["released"]
    second = run.start()
    assert second.wait() == 0
    assert second.events[0]["resumed_from"] == last
    assert second.err == ""
    assert_undisturbed(run, undisturbed)


def test_second_signal_ends_at_once(
    nursery: Nursery, proxy: Proxy, s3_url: str, tmp_path: Path
) -> None:
    """While a first signal's grace lasts, a second one ends the process by itself."""
    run = Run(nursery, write(tmp_path, ENDLESS), s3_url)
    process = run.start(*LONG_GRACE)
    process.until_step(5)
    proxy.rule = lambda _: "hang"
    process.signal(signal.SIGTERM)
    until(lambda: not handles(process.pid, signal.SIGTERM))
    assert process.code is None
    process.signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "slow"])
def test_grace_is_kept(
    nursery: Nursery, proxy: Proxy, s3_url: str, tmp_path: Path, fault: Fault
) -> None:
    """Over a store that never answers, or slowly, the process ends when its grace is over, its
    events kept on this machine, and the run goes on from what the store has."""
    wide = {"model.hidden": 192} if fault == "slow" else {}
    run = Run(nursery, write(tmp_path, ENDLESS | wide), s3_url)
    process = run.start("--grace", "1")
    until(lambda: "checkpoint.saved" in process.out)
    proxy.rule = lambda _: fault
    step = process.out.count('"event":"step"') + 5
    process.until_step(step)
    process.signal(signal.SIGTERM)
    assert process.wait() == 75  # a silent store would hold it for `offline_minutes`, 30
    assert "interrupted at step" in process.err
    proxy.rule = lambda _: None
    again = run.start()
    again.until_step(step)
    assert again.events[0]["resumed_from"] > 0
    again.signal(signal.SIGTERM)
    assert again.wait() == 75
    seqs = [event["seq"] for event in run.history(superseded=True)]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("command", ["run", "search"])
def test_signal_that_a_library_swallows(tmp_path: Path, command: str) -> None:
    """A signal ends the process even where an import goes on after any exception, as torch does
    while it loads numpy."""
    spec = write(tmp_path, SPEC)
    space = tmp_path / "space.json"
    space.write_text('{"optimizer.lr": {"low": 1e-3, "high": 0.1, "log": true}}')
    more = ["--space", str(space), "--trials", "1"] if command == "search" else ["--run-id", "r"]
    code = f"""
import contextlib, runpy, signal, sys

class Swallow:
    def find_spec(self, name, *_):
        if name == "torch":
            with contextlib.suppress(BaseException):
                signal.raise_signal(signal.SIGTERM)

sys.meta_path.insert(0, Swallow())
sys.argv[1:] = {[command, str(spec), *more, "--store", str(tmp_path / "runs")]!r}
runpy.run_module("job", run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 75
    assert ended.stderr.startswith("interrupted before ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("delay", [0.0, *(pytest.param(d, marks=SLOW) for d in (1.0, 2.5))])
def test_signal_during_start(tmp_path: Path, delay: float) -> None:
    """A signal ends the process with 75, while it loads its libraries and after it has begun."""
    spec = write(tmp_path, ENDLESS)
    command = ("run", str(spec), "--store", str(tmp_path), "--run-id", "r", "--json")
    with start(tmp_path, *command) as process:
        until(lambda: handles(process.pid, signal.SIGTERM))
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 75
