"""Kills a side's training, starts it again, and compares how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tests.bench.survival.problem import EPOCHS, PER_EPOCH, STEPS, TRAIN, write
from tests.bench.survival.training import SIDES
from tests.bench.survival.witness import VARIABLE, Orders

ROOT = Path(__file__).parents[3]
TRIES = 2
"""Starts in a row that may fail before a training counts as lost."""
MOST = 100
"""Starts of a training."""

Rows = list[int]
Kill = int | Literal["writing"]
"""Mean number of steps between two kills; or one kill, in the midst of writing a checkpoint."""


class Step(NamedTuple):
    """A step that an attempt took: its number, and the rows of its batch."""

    number: int
    rows: Rows


class Unit(NamedTuple):
    """What is measured at once."""

    side: str
    kill: Kill
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How a training under kills ended."""

    side: str
    kill: Kill
    seed: int
    kills: int
    needed: int
    """Steps of a training without kills."""
    done: int
    """Steps taken in all attempts."""
    seconds: float
    """CPU seconds of all attempts, which other processes do not lengthen."""
    undisturbed: float
    """CPU seconds of the training without kills."""
    error: str | None
    """The last line of stderr, if it could not be completed."""
    identical: bool | None = None
    """Whether the weights are those of the undisturbed training, bit for bit."""
    difference: float | None = None
    """The largest between two weights."""
    repeated: int | None = None
    """Samples that an epoch of the steps behind the final weights saw again, over all epochs."""
    skipped: int | None = None
    """Samples that an epoch of them did not see, over all epochs."""
    digest: str = ""
    """Of the undisturbed weights; the same in every unit if the side repeats itself."""


class Attempt(NamedTuple):
    code: int
    """Exit code, or minus the signal that ended it."""
    seconds: float
    """Of CPU."""
    steps: list[Step]
    error: str


def measure(unit: Unit, peers: Path | None = None) -> Outcome:
    """Train undisturbed and under kills. peers: a folder with further packages."""
    with tempfile.TemporaryDirectory() as scratch:
        alone, killed = Path(scratch, "alone"), Path(scratch, "killed")
        write(alone)
        write(killed)
        whole = attempt(unit.side, alone, Orders(str(alone / "log")), peers)
        if whole.code:
            raise RuntimeError(f"{unit.side} fails undisturbed: {whole.error}")
        size = (alone / "final.pt").stat().st_size // 2
        attempts = list(until_complete(unit, killed, size, peers))
        wanted = torch.load(alone / "final.pt")
        kills = sum(each.code < 0 for each in attempts)
        facts = (
            *(*unit, kills, len(whole.steps), sum(len(each.steps) for each in attempts)),
            *(sum(each.seconds for each in attempts), whole.seconds),
        )
        if attempts[-1].code:
            return Outcome(*facts, error=attempts[-1].error.replace(scratch, "…"))
        found = torch.load(killed / "final.pt")
        return Outcome(
            *facts,
            None,
            all(torch.equal(found[name], wanted[name]) for name in wanted),
            max(float((found[name] - x).abs().max()) for name, x in wanted.items() if x.numel()),
            *irregular(lasting(attempts)),
            digest(wanted),
        )


def until_complete(unit: Unit, folder: Path, size: int, peers: Path | None) -> Iterator[Attempt]:
    """Attempts until one completes the training, or TRIES in a row fail."""
    draw = random.Random(f"{unit.kill} {unit.seed}")
    failed = 0
    for number in range(MOST):
        orders = Orders(str(folder / f"log-{number}"))
        if unit.kill != "writing":
            orders = orders._replace(after=draw.randint(unit.kill // 2, 3 * unit.kill // 2))
        elif number == 0:  # the second checkpoint: there is one to fall back to
            orders = orders._replace(writing=2 * SIDES[unit.side].period, size=size)
        done = attempt(unit.side, folder, orders, peers)
        yield done
        failed = failed + 1 if done.code > 0 else 0
        if done.code == 0 or failed == TRIES:
            return
        if number == 0 and unit.kill == "writing" and done.code != -signal.SIGXFSZ:
            raise RuntimeError(f"{unit.side} ended otherwise than in a write: {done}")
    raise RuntimeError(f"{unit.side} is not complete after {MOST} attempts")


def attempt(side: str, folder: Path, orders: Orders, peers: Path | None) -> Attempt:
    """One process, to its end."""
    log, errors = Path(orders.log), folder / "stderr"
    log.touch()
    paths = [str(ROOT), *([str(peers)] if peers else [])]
    environment = os.environ | {
        VARIABLE: json.dumps(orders._asdict()),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "tests.bench.survival.training", side, str(folder)]
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:  # processes of its own end with it, as in a container
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.returncode = code = os.waitstatus_to_exitcode(status)
    steps = [Step(*json.loads(line)) for line in log.read_text().splitlines()]
    last = errors.read_text().strip().splitlines()[-1:]
    return Attempt(code, used.ru_utime + used.ru_stime, steps, last[0] if code > 0 and last else "")


def lasting(attempts: list[Attempt]) -> list[Step]:
    """The steps that the final weights come from: what an attempt goes on from stays."""
    chain: list[Step] = []
    for each in attempts:
        if each.steps:
            chain = [step for step in chain if step.number < each.steps[0].number] + each.steps
    return chain


def irregular(chain: list[Step]) -> tuple[int, int]:
    """Samples seen again in an epoch, or after the last, and not seen in one, over all epochs."""
    seen = [Counter[int]() for _ in range(EPOCHS)]
    repeated = sum(len(step.rows) for step in chain if step.number > STEPS)
    for step in chain:
        if step.number <= STEPS:
            seen[(step.number - 1) // PER_EPOCH].update(step.rows)
    repeated += sum(count - 1 for epoch in seen for count in epoch.values())
    return repeated, sum(TRAIN - len(epoch) for epoch in seen)


def digest(weights: dict[str, Tensor]) -> str:
    """Of the bits of all weights."""
    hashed = hashlib.sha256()
    for name in sorted(weights):
        hashed.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]
