"""The lines of the table: which there are, and how each is measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.bench.multitask import methods, starved
from tests.bench.multitask.keys import alone_key, run_key, search_key, starved_key
from tests.bench.multitask.peers import peers, train_by
from tests.bench.multitask.problems import PROBLEMS, Json, parsed
from tests.bench.multitask.search import TRIALS, search
from tests.bench.multitask.train import train

SEEDS = 5
SMOKE_SEEDS, SMOKE_TRIALS = 2, 2
SHORT = {"epochs": 1, "batch_size": 512}
"""Of a smoke run's training."""


class Job(NamedTuple):
    """A line that is to be measured."""

    key: str
    kind: Literal["search", "train", "peer", "starved"]
    problem: str
    method: str
    seed: int
    task: str | None = None
    smoke: bool = False


def jobs(names: list[str], smoke: bool) -> Iterator[Job]:
    """All lines of the table, in the order in which they are measured."""
    seeds = range(SMOKE_SEEDS if smoke else SEEDS)
    for seed in seeds:
        for weighting in starved.WEIGHTINGS:
            key = starved_key(weighting, seed)
            yield Job(key, "starved", "", weighting, seed, None, smoke)
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


def measure(job: Job, folder: Path, found: Json | None) -> dict[str, Any]:
    """The line of a job; found: the sections that the search has found, of a tuned sum."""
    shorter = SHORT if job.smoke else {}
    if job.kind == "starved":
        return starved.train_starved(job.method, job.seed, shorter)
    problem = PROBLEMS[job.problem]
    if job.kind == "search":
        return search(job.problem, problem, folder, SMOKE_TRIALS if job.smoke else TRIALS, shorter)
    if job.kind == "peer":
        spec = problem.spec_of(job.seed)
    elif job.task is not None:
        spec = problem.spec_of(job.seed, [job.task])
    else:
        spec = methods.spec_of(problem, job.method, job.seed, found)
    spec["train"] |= shorter
    if job.kind == "peer":
        return train_by(job.method, parsed(spec), folder)
    return train(parsed(spec), folder)
