"""What the record of a step costs, beside the step itself.

    python -m tests.bench.logging [--steps 300] [--threads N]

Real training steps on a CPU, each collected by the ledger, fetched every 10 steps (the spec's
default) and written as JSON lines to a file. Each part has its own clock, in the midst of training,
with the caches as the step left them. Medians over blocks of 10 steps, per step; the limit is 2 %.

Below, what shows it to a person, each on a pseudo-terminal of its own: the live screen, which is
painted now and then, and the raw lines; both as shares of the whole time. The limit is 1 %.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from job import spec
from job.distributed.device import prepare_device
from job.events.log import EventLog, Line
from job.show.live import Live
from job.train.ledger import Ledger
from tests.bench.ledger import Evengrad, Problem
from tests.support.fake_history import STEPS, Recorded

BATCH, LIMIT, SHOWN_LIMIT = 32, 0.02, 0.01
EVERY = spec.Log().every


class Block(NamedTuple):
    """Seconds per step, mean over the steps from one fetch to the next."""

    step: float
    collect: float
    fetch: float
    emit: float
    screen: float
    lines: float

    @property
    def share(self) -> float:
        """Of the record in the step."""
        return (self.collect + self.fetch + self.emit) / self.step


def blocks(
    count: int, steps: int, device: torch.device, file: IO[str], screen: Live, plain: IO[str]
) -> Iterator[Block]:
    """Train on `count` tasks, write the record to the file, show it on a screen and as lines."""
    problem = Problem(count, BATCH, device)
    side = Evengrad(problem, {"kind": "fixed"})
    ledger = Ledger([task.name for task in problem.tasks])
    written: list[tuple[Line, str]] = []
    journal = EventLog(
        "bench",
        [lambda _, line: print(line, file=file, flush=True), lambda *event: written.append(event)],
    )
    screen(Recorded(*ledger.tasks, epochs=steps // STEPS).begin(), "")
    clock = time.perf_counter
    for first in range(1, steps + 1, EVERY):
        stepped = collected = 0.0
        for step in range(first, first + EVERY):
            begun = clock()
            measured = side.stepper(problem.inputs, problem.targets, side.optimizer)
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
        emitted = clock() - begun
        begun = clock()
        for line, text in written:
            screen(line, text)
        painted = clock() - begun
        begun = clock()
        for _, text in written:
            print(text, file=plain, flush=True)
        parts = (stepped, collected, fetched, emitted, painted, clock() - begun)
        written.clear()
        yield Block(*(x / EVERY for x in parts))


@contextmanager
def terminal() -> Iterator[IO[str]]:
    """A pseudo-terminal that somebody reads."""
    ours, its = pty.openpty()
    reader = subprocess.Popen(
        ["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(ours)
    try:
        with os.fdopen(its, "w") as file:
            yield file
    finally:
        reader.kill()
        reader.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, help="CPU threads; torch's choice if left out")
    options = parser.parse_args()
    train = {"epochs": 1, "batch_size": 1, "device": "cpu", "threads": options.threads}
    device = prepare_device(spec.Train.model_validate(train))
    threads = torch.get_num_threads()
    table = Table(title=f"the record of a training step, {threads} threads", title_justify="left")
    for column in ("tasks", "step, ms", "collect, µs", "fetch, µs", "emit, µs", "line, bytes"):
        table.add_column(column, justify="right")
    table.add_column(f"share (limit {LIMIT:.0%})", justify="right")
    shown = Table(title="what shows it, of the whole time", title_justify="left")
    for column in ("tasks", f"live screen (limit {SHOWN_LIMIT:.0%})", "raw lines"):
        shown.add_column(column, justify="right")
    for count in (4, 32):
        with tempfile.TemporaryFile("w+") as file, terminal() as tty, terminal() as plain:
            console = Console(file=tty, force_terminal=True, width=120, height=50)
            screen = Live(console)
            # The first is warm-up.
            _, *taken = blocks(count, options.steps, device, file, screen, plain)
            screen.close()
            size = file.tell() / options.steps
        whole = sum(block.step for block in taken)
        shares = (sum(getattr(block, name) for block in taken) for name in ("screen", "lines"))
        shown.add_row(str(count), *(f"{share / whole:.2%}" for share in shares))
        step, *parts = (statistics.median(column) for column in zip(*taken, strict=True))
        share = statistics.median(block.share for block in taken)
        micros = (f"{part * 1e6:.0f}" for part in parts[:3])
        table.add_row(str(count), f"{step * 1e3:.1f}", *micros, f"{size:.0f}", f"{share:.2%}")
    Console(width=110).print(table, shown, sep="\n")


if __name__ == "__main__":
    main()
