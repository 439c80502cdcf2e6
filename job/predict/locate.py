"""Finding a run, and the checkpoint of it that is asked for."""

from __future__ import annotations

import os
from typing import NamedTuple

from job.errors import Fault, InputError
from job.record.result import Result
from job.record.run_index import Kept, RunIndex, RunIndexStore, find_run, folder_of_run
from job.store import Missing, Store, open_store

BEST, LAST = "best", "last"
STORE = "EVENGRAD_STORE"
"""The variable that names a store; without it, it is ./runs."""


class Origin(NamedTuple):
    """A checkpoint of a run."""

    store: Store
    run: str
    """Key of the run, `<name>/<run id>`."""
    kept: Kept
    spec_hash: str
    """SHA-256 of the spec's content, as the run index has it."""
    result: Result | None
    """How the run ended; None if it has not."""
    notes: tuple[str, ...]
    """What a person should know of the choice."""


def locate(run: str, store: str | None, checkpoint: str) -> Origin:
    """The checkpoint of a run.

    run: its folder, run id, name/run id, or s3://bucket/prefix/name/run-id. store: where a run is
    that is named by its id; None: EVENGRAD_STORE, else ./runs. checkpoint: best, last, or a number
    of steps; without a best one, the last. Raises InputError, Missing, Damaged, StoreError.
    """
    where, key = _run(run, store)
    index = RunIndexStore(where, key, fenced=False).read()
    if index is None:
        raise Missing(f"{where.url} holds no run {key}")
    kept, notes = _checkpoint(index, checkpoint, key)
    if index.finished is None:
        notes = (*notes, f"run {key} is not finished")
    return Origin(where, key, kept, index.spec_hash, index.finished, notes)


def _run(run: str, store: str | None) -> tuple[Store, str]:
    if store is None and run.startswith("s3://"):
        *prefix, name, run_id = run.rstrip("/").split("/")
        if len(prefix) < 3:
            rule, remedy = "a run is s3://bucket/prefix/name/run-id", "write its whole address"
            raise InputError([Fault("RUN", run, rule, remedy)])
        return open_store("/".join(prefix)), f"{name}/{run_id}"
    if store is None and (here := folder_of_run(run)) is not None:
        return open_store(here.root), here.run
    where = open_store(store or os.environ.get(STORE) or "runs")
    return where, find_run(where, run)


def _checkpoint(index: RunIndex, wanted: str, run: str) -> tuple[Kept, tuple[str, ...]]:
    every = {
        kept.step: kept for kept in [*index.checkpoints, *([index.best] if index.best else [])]
    }
    if not every:
        raise Missing(f"run {run} has no checkpoint yet")
    last = index.checkpoints[0] if index.checkpoints else every[max(every)]
    if wanted == LAST:
        return last, ()
    if wanted == BEST:
        if index.best is not None:
            return index.best, ()
        why = "the spec keeps no best checkpoint (checkpoint.best_of)"
        return last, (f"{why}: the last one is used",)
    steps = ", ".join(map(str, sorted(every)))
    if not wanted.isdecimal() or int(wanted) not in every:
        rule = f"the run has checkpoints of steps {steps}"
        raise InputError([Fault("--checkpoint", wanted, rule, "name best, last or one of these")])
    return every[int(wanted)], ()
