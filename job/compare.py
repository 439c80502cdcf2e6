"""Runs side by side: specs × balancers × seeds."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import statistics
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from job.events import Epoch, GateResult, Step
from job.faults import Fault, InputError
from job.figures import counted
from job.read_spec import parse_spec
from job.spec import JobSpec


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    name: str
    spec: JobSpec
    folder: Path
    """Where the spec's relative paths start."""


@dataclass(frozen=True)
class Outcome:
    """One run's record, as far as the table needs it."""

    variant: str
    seed: int
    epochs: list[Epoch] = field(default_factory=list)
    gates: list[GateResult] = field(default_factory=list)
    step_ms: float = math.nan
    """Median."""
    error: str | None = None


def variants(specs: Mapping[Path, JobSpec], balance: str) -> list[Variant]:
    """Each spec, by its path, under each balancer named (`kind` or `torchjd:NAME`, by comma).

    No balancer named: each spec as it is. Weights that a spec gives are kept where the balancer
    takes weights. Raises InputError.
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, balance.split(",")))))
    stems = [path.stem for path in specs]
    rows = []
    for path, spec in specs.items():
        label = path.stem if stems.count(path.stem) == 1 else str(path)
        folder = path.resolve().parent
        for name in names:
            full = f"{label}, {name}" if len(specs) > 1 else name
            rows.append(Variant(full, _balanced(spec, name), folder))
        if not names:
            rows.append(Variant(label, spec, folder))
    return rows


def _balanced(spec: JobSpec, name: str) -> JobSpec:
    kind, _, method = name.partition(":")
    chosen: dict[str, Any] = {"kind": kind}
    if kind == "torchjd" and not method:
        rule, remedy = "torchjd is many weightings", "name one, such as torchjd:UPGrad"
        raise InputError([Fault(f"--balance {name}", "no method", rule, remedy)])
    if kind == "torchjd":
        chosen["method"] = method
    elif weights := getattr(spec.balance, "weights", None):
        chosen["weights"] = weights
    try:
        return parse_spec(json.dumps(json.loads(spec.canonical()) | {"balance": chosen}))
    except InputError as error:  # told where the user wrote it
        faults = [replace(fault, where=f"--balance {name}") for fault in error.faults]
        raise InputError(faults) from None


def check(rows: Sequence[Variant]) -> None:
    """Raise InputError where a row's data or balancer cannot be had, before anything trains."""
    from job.data import load
    from job.train import balancer

    for row in rows:
        try:
            balancer(row.spec, load(row.spec, row.folder))
        except InputError as error:
            faults = [replace(fault, where=f"{row.name}: {fault.where}") for fault in error.faults]
            raise InputError(faults) from None


def compare(
    rows: Sequence[Variant], seeds: int, workers: int, progress: Callable[[str], None]
) -> list[Outcome]:
    """Train every row on every seed, `workers` at a time, in processes beside this one.

    Raises InputError, before anything trains, where a row's data or balancer cannot be had.
    """
    jobs = [(row, row.spec.seed + s) for s in range(seeds) for row in rows]
    results = []
    check(rows)
    # Spawned, since a forked child of a process that has used torch may hang.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, _die_of_interrupts) as pool, _none_left(pool):
        futures = {pool.submit(train, row, seed, workers > 1): (row, seed) for row, seed in jobs}
        for done, future in enumerate(as_completed(futures), 1):
            try:
                outcome = future.result()
            except BrokenProcessPool:
                row, seed = futures[future]
                outcome = Outcome(row.name, seed, error="its process, or one beside it, was killed")
            results.append(outcome)
            end = outcome.error or counted(len(outcome.epochs), "epoch")
            progress(f"{done}/{len(jobs)} {outcome.variant}, seed {outcome.seed}: {end}")
    order = {row.name: i for i, row in enumerate(rows)}
    return sorted(results, key=lambda o: (order[o.variant], o.seed))


def _die_of_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def _none_left(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Where this process is interrupted, let no run go on without it."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in multiprocessing.active_children():
            worker.kill()
        raise


def train(row: Variant, seed: int, one_thread: bool) -> Outcome:
    """One run, in memory. A failure is an outcome."""
    import torch

    from job.data import load
    from job.ledger import NotFinite
    from job.train import Training

    if one_thread:
        torch.set_num_threads(1)
    spec = row.spec.model_copy(update={"seed": seed})
    epochs: list[Epoch] = []
    step_ms: list[float] = []

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch):
            epochs.append(event)
        elif isinstance(event, Step):
            step_ms.append(event.step_ms)

    try:
        training = Training(spec, load(spec, row.folder))
        training.run(emit, save=lambda: None, stopping=lambda: False)
    except NotFinite as fault:
        return Outcome(row.name, seed, error=str(fault))
    except Exception as fault:
        traceback.print_exc()
        return Outcome(row.name, seed, error=f"{type(fault).__name__}: {fault}")
    gates = training.verdict.final(training.at.epoch)
    return Outcome(row.name, seed, epochs, gates, statistics.median(step_ms))
