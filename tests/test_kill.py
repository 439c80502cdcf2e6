"""Runs killed by SIGKILL, again and again, at seeded random instants and in the midst of writing a
checkpoint, end as if nothing had happened."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nursery import Nursery, Process, until
from tests.proxy import Moment, Proxy, Request
from tests.runs import Run, Undisturbed, assert_undisturbed

WHILE = ("training", "upload", "publish")
KINDS = ("instant", "upload", "publish")
UPLOAD = re.compile(r"PUT .*/checkpoints/.*\.safetensors")
PUBLISH = re.compile(r"PUT .*/manifest\.json|PUT .*/latest\.json|DELETE .*/checkpoints/")

Kill = Callable[[Process, str, random.Random], str | None]
"""Kills a process at an instant of one of KINDS; returns one of WHILE, None where it had ended."""

FEW = pytest.param(range(4), 2, id="few")
MANY = pytest.param(range(4, 30), 4, id="many", marks=pytest.mark.slow)


@pytest.mark.parametrize(("seeds", "kills"), [FEW, MANY])
def test_kill_over_a_directory(
    nursery: Nursery,
    undisturbed: Undisturbed,
    tmp_path: Path,
    seeds: range,
    kills: int,
    record_property: Callable[[str, object], None],
) -> None:
    """Runs killed again and again end bit-identical, their histories whole."""
    landed = Counter[str]()
    for seed in seeds:
        run = Run(nursery, undisturbed.spec, str(tmp_path), f"r{seed}")
        landed += campaign(run, undisturbed, watching(run), seed, kills)
    record_property("rate", f"over a directory: {rate(seeds, landed)}")


@pytest.mark.parametrize(("seeds", "kills"), [FEW, MANY])
def test_kill_over_s3(
    nursery: Nursery,
    undisturbed: Undisturbed,
    proxy: Proxy,
    s3_url: str,
    seeds: range,
    kills: int,
    record_property: Callable[[str, object], None],
) -> None:
    """The same over a real S3 server."""
    landed = Counter[str]()
    for seed in seeds:
        run = Run(nursery, undisturbed.spec, s3_url, f"r{seed}")
        landed += campaign(run, undisturbed, intercepting(proxy), seed, kills)
    record_property("rate", f"over S3: {rate(seeds, landed)}")


def campaign(run: Run, reference: Undisturbed, kill: Kill, seed: int, kills: int) -> Counter[str]:
    """Kill a run so many times, let it end, compare; returns what the kills interrupted."""
    moments, landed = random.Random(seed), Counter[str]()
    for number in range(kills):
        during = kill(run.start(), KINDS[(seed + number) % len(KINDS)], moments)
        if during is None:
            break
        landed[during] += 1
    last = run.start()
    assert last.wait() == 0, last.err
    assert_undisturbed(run, reference)
    assert landed, "it was never killed"
    return landed


def rate(seeds: range, landed: Counter[str]) -> str:
    places = ", ".join(f"during {place} {landed[place]}" for place in WHILE)
    return (
        f"{len(seeds)} of {len(seeds)} killed runs identical; {landed.total()} kills landed: "
        f"{places}"
    )


def at_random(process: Process, moments: random.Random) -> None:
    """Wait for an instant while it starts or trains."""
    lines = moments.randint(0, 40)
    until(lambda: process.out.count("\n") >= lines or process.code is not None)
    time.sleep(moments.uniform(0, 0.05 if lines else 0.5))


def dead(process: Process) -> bool:
    """Kill it; returns whether it was alive."""
    process.signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def watching(run: Run) -> Kill:
    """Kills when the run's directory shows that a checkpoint is being uploaded or published."""

    def kill(process: Process, kind: str, moments: random.Random) -> str | None:
        if kind == "instant":
            at_random(process, moments)
        else:
            lines = moments.randint(1, 40)
            until(lambda: process.out.count("\n") >= lines or process.code is not None)
            until(lambda: under_way(run) == kind or process.code is not None, pause=0)
        return under_way(run) if dead(process) else None

    return kill


def under_way(run: Run) -> str:
    """What happens in the run, as far as its directory shows: a checkpoint that does not count
    is newer than those that do, or is being deleted."""
    named = run.named
    newest = max(map(step_of, named), default=0)
    for folder in Path(run.url, run.key).glob("checkpoints/*"):
        if f"checkpoints/{folder.name}" not in named:
            complete = (folder / "manifest.json").exists()
            return "publish" if complete or step_of(folder.name) < newest else "upload"
    return "training"


def step_of(folder: str) -> int:
    return int(folder.rpartition("/")[2].partition("-")[0])


def intercepting(proxy: Proxy) -> Kill:
    """Kills when a request of the process that uploads or publishes passes the proxy."""

    def kill(process: Process, kind: str, moments: random.Random) -> str | None:
        if kind == "instant":
            at_random(process, moments)
            return "training" if dead(process) else None
        pattern = UPLOAD if kind == "upload" else PUBLISH
        count, when = moments.randint(1, 4), moments.choice(("begins", "half", "ends"))

        def watch(request: Request, moment: Moment) -> None:
            nonlocal count
            if moment == when and pattern.match(f"{request.method} {request.path}"):
                count -= 1
                if count == 0:
                    os.kill(process.pid, signal.SIGKILL)

        proxy.watch = watch
        process.wait()
        proxy.watch = lambda *_: None
        return kind if process.code == -signal.SIGKILL else None

    return kill
