"""Measure what is not measured yet, and print the table."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench import survival
from tests.bench.header import RESULTS, append, begin
from tests.bench.survival.campaign import Kill, Unit, measure
from tests.bench.survival.table import markdown, read_outcomes
from tests.bench.survival.training import SIDES


def is_installed(package: str | None) -> bool:
    """Whether a side's package can be imported; None: it needs none."""
    try:
        return package is None or bool(version(package))
    except PackageNotFoundError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=survival.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--kills", nargs="+", type=int, default=[30, 60], help="mean steps between")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--peers", type=Path, help="a folder with further packages")
    parser.add_argument("--results", type=Path, default=RESULTS / "survival.jsonl")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(str(options.peers.resolve()))
    sides = [side for side in options.sides if is_installed(SIDES[side].package)]
    for side in set(options.sides) - set(sides):
        print(f"{side}: {SIDES[side].package} is not installed", file=sys.stderr)
    kills: list[Kill] = [*options.kills, "writing"]
    wanted = [
        Unit(side, kill, seed)
        for kill in kills
        for seed in range(1 if kill == "writing" else options.seeds)
        for side in sides
    ]
    done = {Unit(o.side, o.kill, o.seed) for o in read_outcomes(options.results)}
    packages = {package for side in sides if (package := SIDES[side].package)}
    if left := [unit for unit in wanted if unit not in done]:
        begin(options.results, "survival", sorted(packages))
    for unit in left:
        try:
            outcome = measure(unit, options.peers and options.peers.resolve())
        except RuntimeError as fault:  # of one side, which has no row then
            print(fault, file=sys.stderr)
            continue
        append(options.results, asdict(outcome))
        print(outcome, file=sys.stderr)
    print(markdown(options.results))


if __name__ == "__main__":
    main()
