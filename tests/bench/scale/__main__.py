"""`python -m tests.bench.scale`."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.bench import header, scale
from tests.bench.scale.of_ranks import efficiency
from tests.bench.scale.sweep import Quantity, quantities
from tests.bench.scale.table import RANKS, markdown

RESULTS = header.RESULTS / "scale.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=scale.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="quantities whose axis or name has these words")
    parser.add_argument("--anew", action="store_true", help="measure what is there again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=10**9, help="size, to leave out larger ones")
    parser.add_argument("--folder", type=Path, help="where data and runs are kept between calls")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--ranks", action="store_true", help="two processes beside one, alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if options.ranks:
            _measure_ranks(options, folder)
        else:
            _measure(options, folder)
    print(markdown(options.results))


def _measure_ranks(options: argparse.Namespace, folder: Path) -> None:
    there = any(row["axis"] == RANKS for row in header.rows(options.results))
    if there and not options.anew:
        return
    header.begin(options.results, "scale")
    torch.set_num_threads(1)
    for batch, costs in efficiency(folder, options.rounds):
        _keep(options.results, RANKS, "samples per second", batch, costs)


def _measure(options: argparse.Namespace, folder: Path) -> None:
    known = {(r["axis"], r["quantity"], r["size"]) for r in header.rows(options.results)}
    left = [
        (each, size)
        for each in quantities()
        if options.only in f"{each.axis}: {each.name}"
        for size in each.sizes
        if size <= options.largest and (options.anew or (each.axis, each.name, size) not in known)
    ]
    if left:
        header.begin(options.results, "scale")
    for each, size in left:
        costs = _apart(each, size, folder, options.rounds)
        _keep(options.results, each.axis, each.name, size, costs)


def _keep(results: Path, axis: str, name: str, size: int, costs: dict[str, float]) -> None:
    rounded = {unit: float(f"{value:.4g}") for unit, value in costs.items()}
    row = {"axis": axis, "quantity": name, "size": size, "costs": rounded}
    header.append(results, row)
    print(axis, name, size, rounded, sep=" · ", flush=True)


def _apart(quantity: Quantity, size: int, folder: Path, rounds: int) -> dict[str, float]:
    """The costs, measured in a process of its own that has imported what this one has."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    arguments = (theirs, quantity, size, folder, rounds)
    process = context.Process(target=_work, args=arguments)
    process.start()
    theirs.close()
    try:
        costs: dict[str, float] = ours.recv()
    except EOFError:
        raise RuntimeError(f"{quantity.name} at {size} ended without a result") from None
    process.join()
    return costs


def _work(to: Connection, quantity: Quantity, size: int, folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    to.send(quantity.measure(size, folder, rounds))


if __name__ == "__main__":
    main()
