"""Finding a run, and the checkpoint of it that is asked for."""

from __future__ import annotations

from typing import NamedTuple

from job.record.result import Result
from job.record.run_index import Kept, RunIndexStore
from job.runs.find import choose_checkpoint, the_run
from job.store import Missing, Store, open_store

BEST, LAST = "best", "last"


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
    that is named by its id; None: EVENGRAD_STORE, and ./runs. checkpoint: best, last, or a number
    of steps; without a best one, the last. Raises InputError, Missing, Damaged, StoreError.
    """
    found = the_run(run, store, "RUN")
    where, key = open_store(found.store), found.run
    index = RunIndexStore(where, key, fenced=False).read()
    if index is None or not (index.checkpoints or index.best):
        raise Missing(f"run {key} has no checkpoint yet")
    notes: tuple[str, ...] = ()
    if checkpoint == BEST and index.best is None:
        checkpoint = LAST
        why = "the run has no best checkpoint, which checkpoint.best_of keeps"  # or will keep
        notes = (f"{why}: the last one is used",)
    kept = choose_checkpoint(index, checkpoint, key, "--checkpoint")
    if index.finished is None:
        notes = (*notes, f"run {key} is not finished")
    return Origin(where, key, kept, index.spec_hash, index.finished, notes)
