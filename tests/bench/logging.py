"""What the record of a step costs, beside the step itself.

    python -m tests.bench.logging [--steps 300] [--threads N]

Real training steps on a CPU, each collected by the ledger, fetched every 10 steps (the spec's
default) and written as JSON lines to a file. Each part has its own clock, in the midst of training,
with the caches as the step left them. Medians over blocks of 10 steps, per step; the limit is 2 %.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import IO, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from job import spec
from job.device import settle
from job.journal import Journal
from job.ledger import Ledger
from tests.bench.ledger import Evengrad, Problem

BATCH, LIMIT = 32, 0.02
EVERY = spec.Log().every


class Block(NamedTuple):
    """Seconds per step, mean over the steps from one fetch to the next."""

    step: float
    collect: float
    fetch: float
    emit: float

    @property
    def share(self) -> float:
        """Of the record in the step."""
        return (self.collect + self.fetch + self.emit) / self.step


def blocks(count: int, steps: int, device: torch.device, file: IO[str]) -> Iterator[Block]:
    """Train on `count` tasks and write the record to the file."""
    problem = Problem(count, BATCH, device)
    side = Evengrad(problem, {"kind": "fixed"})
    ledger = Ledger([task.name for task in problem.tasks])
    journal = Journal("bench", [lambda _, line: print(line, file=file, flush=True)])
    clock = time.perf_counter
    for first in range(1, steps + 1, EVERY):
        stepped = collected = 0.0
        for step in range(first, first + EVERY):
            begun = clock()
            measured = side.stepper(problem.features, problem.targets, side.optimizer)
            stepped += clock() - begun
            begun = clock()
            ledger.collect(step, 1, 1e-3, measured)
            collected += clock() - begun
        begun = clock()
        events = list(ledger.fetch())
        fetched = clock() - begun
        begun = clock()
        for event in events:
            journal.emit(event)
        yield Block(*(x / EVERY for x in (stepped, collected, fetched, clock() - begun)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    options = parser.parse_args()
    train = {"epochs": 1, "batch_size": 1, "device": "cpu", "threads": options.threads}
    device = settle(spec.Train.model_validate(train))
    threads = torch.get_num_threads()
    table = Table(title=f"the record of a training step, {threads} threads", title_justify="left")
    for column in ("tasks", "step, ms", "collect, µs", "fetch, µs", "emit, µs", "line, bytes"):
        table.add_column(column, justify="right")
    table.add_column(f"share (limit {LIMIT:.0%})", justify="right")
    for count in (4, 32):
        with tempfile.TemporaryFile("w+") as file:
            _, *taken = blocks(count, options.steps, device, file)  # the first is warm-up
            size = file.tell() / options.steps
        step, *parts = (statistics.median(column) for column in zip(*taken, strict=True))
        share = statistics.median(block.share for block in taken)
        micros = (f"{part * 1e6:.0f}" for part in parts)
        table.add_row(str(count), f"{step * 1e3:.1f}", *micros, f"{size:.0f}", f"{share:.2%}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
