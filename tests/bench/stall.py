"""How long a training waits for a checkpoint of a large state: the copy alone, without a store.

    python -m tests.bench.stall [--device cuda] [--gb 1 10] [--rounds 5]

Each round times, in turn: one copy of as many bytes in one piece (the floor); a snapshot, until the
host goes on and until the device could; and `tensor.cpu()` of every tensor, as a bare loop does.
tests.bench.checkpoint has the store, and what a checkpoint costs beside training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from job.checkpoint.snapshot import Snapshot
from tests.bench.checkpoint import state_of

Seconds = tuple[float, float]
"""Until the host goes on; until the device has done all."""


class Stall(NamedTuple):
    """Medians, in seconds."""

    size: int
    """Bytes."""
    floor: float
    host: float
    device: float
    bare: float


def stall(gb: float, device: torch.device, rounds: int) -> Stall:
    """Measure one size."""
    state = {name: x.to(device) for name, x in state_of(gb * 1e3).items()}
    size = sum(x.nbytes for x in state.values())
    piece = torch.ones(size, dtype=torch.uint8, device=device)
    buffer = torch.ones(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    snapshot = Snapshot(state)
    sides: dict[str, Callable[[], object]] = {
        "floor": lambda: buffer.copy_(piece, non_blocking=True),
        "snapshot": lambda: snapshot.take(state, {}),
        "bare": lambda: [x.to("cpu", copy=True) for x in state.values()],
    }
    taken: dict[str, list[Seconds]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            taken[name].append(seconds(side, device))

    def median(name: str, which: int) -> float:
        return statistics.median(each[which] for each in taken[name])

    return Stall(
        size, median("floor", 1), median("snapshot", 0), median("snapshot", 1), median("bare", 1)
    )


def seconds(call: Callable[[], object], device: torch.device) -> Seconds:
    """Of one call, which begins when the device is idle."""
    _settle(device)
    begun = time.perf_counter()
    kept = call()
    host = time.perf_counter() - begun
    _settle(device)
    done = time.perf_counter() - begun
    del kept
    return host, done


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def table(found: list[Stall]) -> Table:
    made = Table(title="a checkpoint's copy, ms")
    columns = ("GB", "one copy", "snapshot: host", "snapshot: device", "tensor.cpu() each")
    for column in columns:
        made.add_column(column, justify="right")
    for one in found:
        times = (one.floor, one.host, one.device, one.bare)
        made.add_row(f"{one.size / 1e9:.3g}", *(f"{1e3 * each:.1f}" for each in times))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--gb", type=float, nargs="+", default=[1.0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device(options.device)
    Console(width=100).print(table([stall(gb, device, options.rounds) for gb in options.gb]))


if __name__ == "__main__":
    main()
