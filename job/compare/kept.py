"""A compared run that is kept in a store, like any other run."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from job.compare.outcome import Outcome
from job.data.dataset import load
from job.events import Epoch, RunFinished, Step
from job.events.log import Sink
from job.events.parse import event_of
from job.record.claim import Finished, claim, finished_code, has_checkpoint
from job.record.history import counting_backwards
from job.run.attempt import RunAttempt, to_stderr
from job.run.start_from import with_start
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
    train_to_end(store, of, spec, folder)
    return outcome(name, spec.seed, store, f"{spec.name}/{of}")


def train_to_end(
    store: Store,
    run_id: str,
    spec: JobSpec,
    folder: Path,
    sinks: Sequence[Sink] = (),
    begun: Callable[[RunAttempt], object] = lambda _: None,
    notify: Callable[[str], None] = to_stderr,
) -> int | None:
    """Train a spec as a run of a store, or go on; the exit code, None if the run has ended before.

    folder: of the spec's relative paths. sinks: of the events from now on. begun: gets the attempt
    before it trains. notify: prints a line. Raises InputError, StoreError, and what `claim` raises
    but Finished.
    """
    key = f"{spec.name}/{run_id}"
    if finished_code(store, key, spec) is not None:
        return None
    data = load(spec, folder)
    if spec.model.start_from is not None and not has_checkpoint(store, key):
        data = with_start(data, spec, store.url)
    training = Trainer(spec, data)
    with suppress(Finished):
        claimed = claim(store, spec, key, take_over=False, must_exist=False)
        attempt = RunAttempt(training, claimed, run_id, sinks, GRACE, notify=notify)
        begun(attempt)
        return attempt.execute()
    return None


def outcome(name: str, seed: int, store: Store, key: str) -> Outcome:
    """What the record of a run says of it."""
    history = map(event_of, counting_backwards(store, key))  # the last one first
    found = Outcome(name, seed, error="it was interrupted; the same command goes on", key=key)
    step_ms = array("d")  # a run may have millions of steps
    ends = False
    for event in history:
        if isinstance(event, Epoch):
            found.epochs.append(event)
        elif isinstance(event, Step):
            step_ms.append(event.step_ms)
        elif isinstance(event, RunFinished) and not ends:
            ends = True
            ended = event.reason in ("succeeded", "gates_failed")
            found.error = None if ended else f"{event.reason}: {event.error}"
            found.gates = event.gates
    found.epochs.reverse()
    found.step_ms = float(np.median(step_ms)) if step_ms else found.step_ms
    return found
