"""The table of the toy problem: balancer × starting point → distance to the Pareto set.

    python -m tests.balance.toy.run [--steps 50000] [--workers 2] [METHOD ...]

All trajectories of 50 000 steps take some 20 minutes of one core. NashMTL and CAGrad run in their
exact form for two tasks (tests/toy/exact.py); all others are what a spec's `balance` makes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from job.balance.base import Balancer
from tests.balance.toy.exact import CAGradOfTwo, NashOfTwo
from tests.balance.toy.network import balancer
from tests.balance.toy.problem import NEAR, STARTS, Point, distance
from tests.balance.toy.walk import end

STEPS = 50_000
SCALES = (1.0, 0.1)
KINDS = ("fixed", "running_mean", "batch_mean", "uncertainty", "gradient_norm")
"""Of job/spec/job_spec.py. With one output per task, running_mean_sqrt_n is running_mean."""
METHODS = ("UPGrad", "MGDA", "IMTLG", "AlignedMTL", "PCGrad")
"""Of torchjd, by their own code."""
EXACT = ("CAGrad", "NashMTL")
C = 0.5
"""CAGrad's."""
ELSEWHERE = {
    "fixed": ("3/5, stuck at (∓5.0, 2.6 / 2.8)", "4/5, all at −5.73"),
    "batch_mean": ("3/5, ±6.24", "3/5, ±6.24"),
    "uncertainty": ("3/5, ±6.24", "3/5, ±6.24"),
    "gradient_norm": ("4/5", "4/5"),
    "MGDA": ("5/5", "5/5, −4.3 … 7.0"),
    "IMTLG": ("5/5", "5/5, −3.4 … 5.3"),
    "AlignedMTL": ("5/5, all at 0.00", "5/5, −5.7 … −.85"),
    "PCGrad": ("4/5", "4/5"),
    "CAGrad": ("3/5", "4/5, all at −5.73"),
    "NashMTL": ("5/5", "5/5, where s = 1 ends"),
}
"""At s = 1 and 0.1, what the methods' published implementations were seen to do: how many starts
reach the set, and a at their ends. That of gradient_norm is a normalised sum without momentum."""


class Job(NamedTuple):
    """One trajectory."""

    method: str
    s: float
    start: Point
    steps: int


def make(method: str) -> Balancer:
    """The balancer of a row, or of any other `balance.kind`."""
    match method:
        case "NashMTL":
            return NashOfTwo(2)
        case "CAGrad":
            return CAGradOfTwo(C)
        case _ if method in METHODS:
            return balancer({"kind": "torchjd", "method": method})
        case _:
            return balancer({"kind": method})


def trace(job: Job) -> Point:
    """Where a trajectory ends."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return end(make(job.method), job.start, job.s, job.steps)


def cell(x: Point) -> str:
    """The distance, and where: by a alone on the set, in full away from it."""
    far = distance(x)
    where = f"a {x[0]:.2f}" if far < NEAR else f"({x[0]:.1f}, {x[1]:.1f})"
    return f"{far:.2f}  {where}"


def table(s: float, steps: int, rows: Iterable[tuple[str, list[Point]]]) -> Table:
    """One row per method, the starts across."""
    shown = Table(title=f"s = {s:g}, {steps} steps: distance to the Pareto set, and the end point")
    for head in ("balancer", *map(str, STARTS), "reached", "seen elsewhere"):
        shown.add_column(head, overflow="fold")
    for method, ends in rows:
        reached = sum(distance(x) < NEAR for x in ends)
        seen = ELSEWHERE.get(method, ("", ""))[SCALES.index(s)]
        shown.add_row(method, *map(cell, ends), f"{reached}/{len(ends)}", seen)
    return shown


def main() -> None:
    """Print both tables."""
    known = [*KINDS, *METHODS, *EXACT]
    parser = argparse.ArgumentParser(description="The toy problem under our balancers.")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(known))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    methods = asked.methods or known
    if unknown := sorted(set(methods) - set(known)):
        parser.error(f"no such method: {', '.join(unknown)}; known: {', '.join(known)}")
    console = Console(width=180)
    with ProcessPoolExecutor(asked.workers) as pool:
        for s in SCALES:
            jobs = [Job(m, s, start, asked.steps) for m in methods for start in STARTS]
            ends = list(pool.map(trace, jobs))
            rows = [(m, ends[i * 5 : i * 5 + 5]) for i, m in enumerate(methods)]
            console.print(table(s, asked.steps, rows))


if __name__ == "__main__":
    main()
