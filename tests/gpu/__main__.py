"""All that needs a GPU, in at most ten minutes: the tests, then measurements. `make test-gpu`.

Each part has a limit of its own, so that one that hangs does not take the others' time. Where there
is no CUDA device the tests are skipped, and each measurement says that it did not run. The exit
code is 1 if any part that ran has failed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import NamedTuple

import torch

from tests.gpu.devices import NO_CUDA


class Part(NamedTuple):
    """A command, without the interpreter."""

    name: str
    command: str
    limit: int
    """Seconds."""


TESTS = Part("tests", "-m pytest tests/gpu -m gpu", 210)
NETWORKS = "-m tests.bench.networks --device cuda --results build/networks-cuda.jsonl"
MEASUREMENTS = (
    Part("the ledger beside its peers", "-m tests.bench.ledger --device cuda --quick", 90),
    Part(
        "the ledger in several networks, time and peak memory, 32 tasks",
        f"{NETWORKS} --networks lstm mlp transformer --tasks 32 --batches 256 --minutes 1",
        100,
    ),
    Part(
        "the same beside a compiled step, 4 tasks",
        f"{NETWORKS} --networks lstm mlp --tasks 4 --batches 256 --minutes 1 --compiled",
        100,
    ),
    Part("a checkpoint's copy", "-m tests.bench.stall --device cuda --gb 1 10", 90),
)
LIMIT = 600
assert TESTS.limit + sum(part.limit for part in MEASUREMENTS) <= LIMIT


def ends_well(part: Part) -> bool:
    """Run it; returns whether it ended with code 0 within its limit."""
    print(f"\n== {part.name}: python {part.command}", flush=True)
    begun = time.monotonic()
    try:
        command = [sys.executable, *part.command.split()]
        code = subprocess.run(command, timeout=part.limit).returncode
    except subprocess.TimeoutExpired:
        code = None
    ended = f"its limit of {part.limit} s is over" if code is None else f"exit code {code}"
    print(f"== {part.name}: {ended}, {time.monotonic() - begun:.0f} s", flush=True)
    return code == 0


def main() -> int:
    """Run all parts; returns the exit code."""
    each = [ends_well(TESTS)]
    for part in MEASUREMENTS:
        if torch.cuda.is_available():
            each.append(ends_well(part))
        else:
            print(f"NOT RUN: {part.name}: {NO_CUDA}")
    return 0 if all(each) else 1


if __name__ == "__main__":
    sys.exit(main())
