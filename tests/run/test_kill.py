"""Runs killed by SIGKILL again and again, at seeded random instants and while they write a
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
from typing import Any

import pytest

from tests.support.faulty_proxy import Moment, Proxy, Request
from tests.support.hold import Hold
from tests.support.runs import EPOCHS, EVERYTHING, SPEC, Run, Undisturbed, assert_undisturbed
from tests.support.runs import undisturbed as undisturbed_of
from tests.support.tiny_job import SMALL, STEPS, Trained, job, saved_weights, write
from tests.support.warm_process import Nursery, Process, until

WHILE = ("training", "upload", "publish")
KINDS = ("instant", "upload", "publish")
UPLOAD = re.compile(r"PUT .*/checkpoints/.*\.safetensors")
PUBLISH = re.compile(r"PUT .*/manifest\.json|PUT .*/latest\.json|DELETE .*/checkpoints/")

LAST = EPOCHS * STEPS - 1
"""The step after which a run waits for a kill, so that none comes too late."""

Kill = Callable[[Run, str, random.Random], str | None]
"""Starts the run and kills it at an instant of one of KINDS; returns one of WHILE, or None if it
had ended."""

FEW = pytest.param(range(2), 2, id="few")
MANY = pytest.param(range(2, 12), 4, id="many", marks=pytest.mark.slow)


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
        landed += campaign(run, undisturbed, watching, seed, kills)
    record_property("rate", f"over a directory: {rate(seeds, landed)}")


@pytest.mark.slow
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


@pytest.mark.slow
def test_kill_with_every_part_of_training(nursery: Nursery, tmp_path: Path) -> None:
    """So do runs with Muon, rates by name, frozen and pretrained parts, parts of batches, a
    warm-up, a plateau and an average."""
    write(tmp_path)
    section = saved_weights(
        Trained(*job(tmp_path, {"seed": 5})).training, tmp_path / "t.safetensors"
    )
    reference = undisturbed_of(nursery, tmp_path, EVERYTHING | {"model.weights": section})
    assert b"ema.trunk" in reference.end.model
    for seed in range(3):
        run = Run(nursery, reference.spec, str(tmp_path / "killed"), f"r{seed}")
        campaign(run, reference, watching, seed, 3)


SAMPLES = SMALL["tasks"][:2]
SMALLER = {"dropout": {"input": 0.2, "hidden": 0.2, "heads": 0.2}, "projection": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "lstm": {"model": {"kind": "lstm", "hidden": 4, "layers": 2, "projection": 4}},
    "mlp": {"model": {"kind": "mlp", "hidden": [8, 6], **SMALLER}, "tasks": SAMPLES},
    "conv1d": {"model": {"kind": "conv1d", "width": 4, "layers": 2, "causal": True, **SMALLER}},
    "conv2d": {
        "model": {"kind": "conv2d", "width": 4, **SMALLER},
        "tasks": SAMPLES,
        "data.inputs": {"features": {"kind": "image"}},
    },
    "transformer": {"model": {"kind": "transformer", "width": 8, "heads": 2, **SMALLER}},
    "mmoe": {
        "model": {"kind": "conv1d", "width": 4, "layers": 2, **SMALLER}
        | {"experts": {"kind": "mmoe", "count": 2, "width": 4}},
    },
    "ple": {
        "model": {"kind": "mlp", "hidden": [8], **SMALLER}
        | {"experts": {"kind": "ple", "count": 2, "levels": 2, "width": 4}},
        "tasks": [task | {"head": {"hidden": [4], "share": "both"}} for task in SAMPLES],
    },
}
"""Every kind of network, with dropout, as edits of the small spec."""


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_kill_with_every_network(nursery: Nursery, tmp_path: Path, name: str) -> None:
    """So do runs of every built-in network."""
    spec = write(tmp_path, SPEC | NETWORKS[name])
    whole = Run(nursery, spec, str(tmp_path / "whole"))
    process = whole.start()
    assert process.wait() == 0, process.err
    killed = Run(nursery, spec, str(tmp_path / "killed"))
    campaign(killed, Undisturbed(spec, whole.end()), watching, list(NETWORKS).index(name), 3)


def campaign(run: Run, reference: Undisturbed, kill: Kill, seed: int, kills: int) -> Counter[str]:
    """Kill a run so many times, let it end, compare; returns what the kills interrupted."""
    moments, landed = random.Random(seed), Counter[str]()
    for number in range(kills):
        during = kill(run, KINDS[(seed + number) % len(KINDS)], moments)
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


def at_random(process: Process, hold: Hold, moments: random.Random) -> None:
    """Wait for an instant while it starts or trains."""
    lines = moments.randint(0, 40)
    until(lambda: process.out.count("\n") >= lines or hold.is_reached() or stopped(process))
    time.sleep(moments.uniform(0, 0.05 if lines else 0.5))


def stopped(process: Process) -> bool:
    """True once it has ended: all that was left to do lay behind the held step."""
    return process.code is not None


def dead(process: Process) -> bool:
    """Kill it; returns whether it was alive."""
    process.signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def watching(run: Run, kind: str, moments: random.Random) -> str | None:
    """Kill when the run's directory shows that a checkpoint is being uploaded or published."""
    process, hold = run.start_held(LAST)
    if kind == "instant":
        at_random(process, hold, moments)
    else:
        lines = moments.randint(1, 40)
        until(lambda: process.out.count("\n") >= lines or hold.is_reached() or stopped(process))
        until(lambda: under_way(run) == kind or hold.is_reached() or stopped(process), pause=0)
    return under_way(run) if dead(process) else None


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

    def kill(run: Run, kind: str, moments: random.Random) -> str | None:
        if kind == "instant":
            process, hold = run.start_held(LAST)
            at_random(process, hold, moments)
            return "training" if dead(process) else None
        pattern = UPLOAD if kind == "upload" else PUBLISH
        count, when = moments.randint(1, 4), moments.choice(("begins", "half", "ends"))
        process = run.start()

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
