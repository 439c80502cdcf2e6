"""A run that has been trained to its end in this process, in a store."""

from __future__ import annotations

from pathlib import Path

from job.data.dataset import load
from job.record.claim import claim
from job.run.attempt import RunAttempt
from job.spec.read import read_spec
from job.store import open_store
from job.train.trainer import Trainer


def finish(spec: Path, url: str | None = None, run_id: str = "run") -> str:
    """Train a spec; returns the run's place, `<store>/<name>/<run id>`.

    url: of the store; None: the folder `store` beside the spec.
    """
    job, url = read_spec(spec), url or str(spec.parent / "store")
    key = f"{job.name}/{run_id}"
    training = Trainer(job, load(job, spec.parent, test=True))
    claimed = claim(open_store(url), job, key, take_over=False, must_exist=False)
    assert RunAttempt(training, claimed, run_id, [], 5.0).execute() in (0, 6)
    return f"{url}/{key}"
