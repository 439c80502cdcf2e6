"""The run that a submitted one begins with: a pod must be able to read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from job.errors import Fault
from job.record.layout import FORM
from job.record.run_index import folder_of_run
from job.runs.find import find_run
from job.spec import JobSpec

RULE = "a pod reads runs from S3 alone"


def unreadable_runs(
    spec: JobSpec, folder: Path | None, store: str | None, asks: bool
) -> Iterator[Fault]:
    """A fault for each run that a spec names and that a pod could not read.

    folder: of the spec's file; None: the spec is in the store. store: of the new run. asks: whether
    S3 may be asked if the run is there. Raises StoreError.
    """
    for where, run in spec.named_runs.items():
        if not run.startswith("s3://"):
            local = folder is not None and folder_of_run(str(folder / run)) is not None
            parts = run.split("/")
            if local or len(parts) > 2 or not all(map(FORM.fullmatch, parts)):
                remedy = "store it in S3, and name it as s3://bucket/prefix/<name>/<id>"
                yield Fault(where, json.dumps(run), f"{RULE}, and this is a folder", remedy)
                continue
            if store is None or not store.startswith("s3://"):
                continue  # that is a fault of its own
        if asks and find_run(run, store, folder or Path()) is None:
            place = "" if run.startswith("s3://") else f", and {store} holds no such run"
            remedy = "name it as s3://bucket/prefix/<name>/<id>, or copy it there"
            yield Fault(where, json.dumps(run), f"{RULE}{place}", remedy)
