"""The diagnosis on real faults of other people, and on healthy problems.

python -m tests.bench.faults [--half development|held_out] [--case NAME ...] [-j N]
python -m tests.bench.faults --healthy [-j N]

What is measured is kept in the folder (--folder, `runs/faults` by default), and the same command
goes on where it stopped. A folder is for one version of the diagnosis. Without --half or --case the
development half is measured; the other one is for those who do not write causes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from tests.bench.faults.case import HALVES, Case, cases
from tests.bench.faults.healthy import HEALTHY
from tests.bench.faults.measure import (
    diagnose_faulty,
    diagnose_twin,
    healthy_step,
    measure_healthy,
    train_variants,
    twin_step,
)
from tests.bench.faults.results import Results
from tests.bench.faults.score import alarms, score
from tests.bench.faults.tables import case_table, healthy_table, totals

SEEDS = 3
"""Seeds of each healthy problem."""
STEPS: dict[str, Callable[[Case, Results], None]] = {
    "diagnose": diagnose_faulty,
    "twins": diagnose_twin,
    "train": train_variants,
}
"""What is measured of every case, one after the other."""


def main() -> None:
    """Measure what is asked for and not measured yet; print the tables."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--folder", type=Path, default=Path("runs/faults"))
    options.add_argument("--half", choices=HALVES)
    options.add_argument("--case", action="append", metavar="NAME")
    options.add_argument("--healthy", action="store_true")
    options.add_argument("-j", type=int, default=1, metavar="N", help="cases at the same time")
    options.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options.add_argument(
        "--table", action="store_true", help="of what is measured; measure nothing"
    )
    asked = options.parse_args()
    results = Results(asked.folder)
    if asked.healthy:
        runs = {
            healthy_step(name, seed): partial(measure_healthy, name, seed, results)
            for name in HEALTHY
            for seed in range(SEEDS)
        }
        if not asked.table:
            _measure(runs, asked.j)
        _print_healthy(results)
    else:
        chosen = _chosen(asked.half, asked.case)
        for step in () if asked.table else asked.steps:
            _measure({_key(step, c): partial(STEPS[step], c, results) for c in chosen}, asked.j)
        _print_cases(chosen, results)


def _chosen(half: str | None, names: list[str] | None) -> list[Case]:
    if names is None:
        return [case for case in cases() if case.half == (half or HALVES[0])]
    known = {case.name: case for case in cases()}
    if unknown := set(names) - known.keys():
        sys.exit(f"--case {', '.join(sorted(unknown))}: no such case; known: {', '.join(known)}")
    return [known[name] for name in names]


def _key(step: str, case: Case) -> str:
    """What a step measures: cases may have one twin."""
    return twin_step(case) if step == "twins" else f"{case.name}: {step}"


def _measure(work: Mapping[str, Callable[[], None]], workers: int) -> None:
    """Do all work, and say on stderr what is done; at Ctrl-C, end what is under way."""
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[None], str] = {pool.submit(do): name for name, do in work.items()}
        try:
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                print(f"{done}/{len(running)} {running[future]}", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _print_cases(chosen: list[Case], results: Results) -> None:
    for half in HALVES:
        scores = [made for case in chosen if case.half == half and (made := score(case, results))]
        if scores:
            print("\n".join([*case_table(scores), "", *totals(half, scores), ""]))


def _print_healthy(results: Results) -> None:
    found = {}
    for name in HEALTHY:
        lines = [results.get(healthy_step(name, seed)) for seed in range(SEEDS)]
        if measured := [alarms(line) for line in lines if line]:
            found[name] = measured
    print("\n".join(healthy_table(found)))


if __name__ == "__main__":
    main()
