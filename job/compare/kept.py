"""A compared run that is kept in a store, like any other run."""

from __future__ import annotations

import hashlib
import re
import statistics
from pathlib import Path

from job.compare.outcome import Outcome
from job.data.dataset import load
from job.events import Epoch, RunFinished, Step
from job.events.parse import event_of
from job.record.claim import Finished, claim, finished_code
from job.record.history import read_history
from job.run.attempt import RunAttempt
from job.spec import JobSpec
from job.store import Store, open_store
from job.train.trainer import Trainer

GRACE = 5.0
"""Seconds that a signal leaves for a last checkpoint."""


def run_id(name: str, spec: JobSpec) -> str:
    """The id of a row's run: the same for the same row and spec, so that it is never run twice."""
    row = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "row"
    digest = hashlib.sha256(spec.content_hash().encode()).hexdigest()[:8]
    return f"{row}-s{spec.seed}-{digest}"


def train_kept(name: str, spec: JobSpec, folder: Path, url: str) -> Outcome:
    """Train a row's spec in a store, or go on, or read what has ended; `folder`: of its data.

    Raises InputError, StoreError, and what `claim` raises but Finished.
    """
    store, of = open_store(url, spec.checkpoint.encryption), run_id(name, spec)
    key = f"{spec.name}/{of}"
    if finished_code(store, key, spec) is None:
        training = Trainer(spec, load(spec, folder))
        try:
            claimed = claim(store, spec, key, take_over=False, must_exist=False)
            RunAttempt(training, claimed, of, [], GRACE).execute()
        except Finished:
            pass
    return _outcome(name, spec.seed, store, key)


def _outcome(name: str, seed: int, store: Store, key: str) -> Outcome:
    """What the record of a run says of it."""
    history = map(event_of, read_history(store, key))
    found = Outcome(name, seed, error="it was interrupted; the same command goes on", key=key)
    step_ms = []
    for event in history:
        if isinstance(event, Epoch):
            found.epochs.append(event)
        elif isinstance(event, Step):
            step_ms.append(event.step_ms)
        elif isinstance(event, RunFinished):
            ended = event.reason in ("succeeded", "gates_failed")
            found.error = None if ended else f"{event.reason}: {event.error}"
            found.gates = event.gates
    found.step_ms = statistics.median(step_ms) if step_ms else found.step_ms
    return found
