"""Trains specs × balancers × seeds, for a comparison."""

from __future__ import annotations

import json
import statistics
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from job.compare.outcome import Outcome
from job.compare.workers import submit
from job.compare.workers import workers as pool_of
from job.errors import Fault, InputError
from job.events import Epoch, Step
from job.show.format import counted
from job.spec import Arrays, JobSpec
from job.spec.read import parse_spec


@dataclass(frozen=True)
class Variant:
    """A row of the comparison: a spec with a name."""

    name: str
    spec: JobSpec
    folder: Path
    """Folder that the spec's relative paths refer to."""


def variants(specs: Mapping[Path, JobSpec], balance: str, control: bool = False) -> list[Variant]:
    """A row for each spec with each balancer; specs by path.

    balance: `kind` or `torchjd:NAME`, separated by commas; empty for each spec as it is. A spec's
    weights are kept if the balancer takes weights. control: after each row another one, with its
    targets permuted. Raises InputError.
    """
    names = list(dict.fromkeys(filter(None, map(str.strip, balance.split(",")))))
    stems = [path.stem for path in specs]
    rows = []
    for path, spec in specs.items():
        label = path.stem if stems.count(path.stem) == 1 else str(path)
        folder = path.resolve().parent
        for name in names:
            full = f"{label}, {name}" if len(specs) > 1 else name
            rows.append(Variant(full, _with_balancer(spec, name), folder))
        if not names:
            rows.append(Variant(label, spec, folder))
    return [each for row in rows for each in ([row, _control_of(row)] if control else [row])]


def _control_of(row: Variant) -> Variant:
    spec = row.spec.model_copy(update={"control": True})
    return Variant(f"{row.name}, control", spec, row.folder)


def seeded(spec: JobSpec, seed: int) -> JobSpec:
    """The spec with another seed of initialisation, order and dropout, and the same split."""
    data = spec.data
    if isinstance(data, Arrays) and data.seed is None:
        data = data.model_copy(update={"seed": spec.seed})
    return spec.model_copy(update={"seed": seed, "data": data})


def _with_balancer(spec: JobSpec, name: str) -> JobSpec:
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
    except InputError as error:  # the place is the flag, not the spec
        faults = [replace(fault, where=f"--balance {name}") for fault in error.faults]
        raise InputError(faults) from None


def check_rows(rows: Sequence[Variant], store: str | None) -> None:
    """Raise InputError if a row's data or balancer has a fault, or the run that it starts from."""
    from job.data.dataset import load
    from job.run.start_from import only_anew, with_start
    from job.train.build.balancer import balancer

    for row in rows:
        try:
            only_anew(row.spec)
            balancer(row.spec, with_start(load(row.spec, row.folder), row.spec, store))
        except InputError as error:
            faults = [replace(fault, where=f"{row.name}: {fault.where}") for fault in error.faults]
            raise InputError(faults) from None


def compare(
    rows: Sequence[Variant],
    seeds: int,
    workers: int,
    progress: Callable[[str], None],
    store: str | None = None,
) -> list[Outcome]:
    """Train every row on every seed, in `workers` processes at a time; store: where runs are kept.

    Raises InputError, before anything trains, if a row's data or balancer has a fault.
    """
    jobs = [(row, row.spec.seed + s) for s in range(seeds) for row in rows]
    results = []
    check_rows(rows, store)
    with pool_of(workers) as pool:
        futures = {
            submit(pool, train, row, seed, workers > 1, store): (row, seed) for row, seed in jobs
        }
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


def train(row: Variant, seed: int, one_thread: bool, store: str | None = None) -> Outcome:
    """Train a row on one seed, in memory or in a store; an error becomes part of the outcome."""
    import torch

    from job.compare.kept import train_kept
    from job.record.lease import Held
    from job.store import StoreError
    from job.train.ledger import NotFinite

    if one_thread:
        torch.set_num_threads(1)
    spec = seeded(row.spec, seed)
    try:
        if store is not None:
            return train_kept(row.name, spec, row.folder, store)
        return _train_in_memory(row, spec)
    except (NotFinite, StoreError, Held) as fault:  # they say in a line what is wrong
        return Outcome(row.name, seed, error=str(fault))
    except Exception as fault:
        traceback.print_exc()
        return Outcome(row.name, seed, error=f"{type(fault).__name__}: {fault}")


def _train_in_memory(row: Variant, spec: JobSpec) -> Outcome:
    from job.data.dataset import load
    from job.run.start_from import with_start
    from job.train.trainer import Trainer

    found = Outcome(row.name, spec.seed)
    step_ms: list[float] = []

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch):
            found.epochs.append(event)
        elif isinstance(event, Step):
            step_ms.append(event.step_ms)

    training = Trainer(spec, with_start(load(spec, row.folder), spec, None))
    training.run(emit, save=lambda: None, stopping=lambda: False)
    found.gates = training.verdict.final(training.at.epoch)
    found.step_ms = statistics.median(step_ms)
    return found
