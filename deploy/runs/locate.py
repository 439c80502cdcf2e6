"""Finding the run that a person names, by this machine's records too."""

from __future__ import annotations

from pathlib import Path

from deploy.exits import NOT_FOUND, CommandError
from deploy.runs.registry import local_records
from job.record.pods import RunRef
from job.record.run_index import folder_of_run
from job.runs.find import MOST_NAMED, default_stores, find_run, runs_near
from job.store import open_store


def locate(run: str, store: str | None) -> RunRef:
    """A run by `<run id>` or `<name>/<run id>`, by its folder, or by its URL in S3.

    It is looked for in the given store; else where this machine's records say; else in the store
    of EVENGRAD_STORE and in ./runs. Raises CommandError, StoreError, InputError.
    """
    if store is None and (here := folder_of_run(run)) is not None:
        return RunRef(name=here.name, run_id=here.run_id, store=here.root)
    name, _, run_id = run.rpartition("/")
    for record in reversed(local_records()):
        matches = record.run_id == run_id and name in ("", record.name)
        if matches and store in (None, record.store):
            return RunRef(name=record.name, run_id=run_id, store=record.store)
    if (found := find_run(run, store)) is not None:
        return found
    if store:
        raise CommandError(NOT_FOUND, f"{open_store(store).url} holds no run {run}")
    raise CommandError(NOT_FOUND, _not_found_message(run))


def _not_found_message(run: str) -> str:
    """Why there is no such run, and which runs there are."""
    path, urls = Path(run), default_stores()
    exists = path.exists()
    if exists:
        why = f"{run}: found a {'folder' if path.is_dir() else 'file'}, which is not a run's folder"
    else:
        why = f"this machine knows no run {run}"
        why += f", and {' and '.join(urls)} holds none" if urls else ""
    if runs := runs_near(path):
        more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
        return f"{why}; there is {', '.join(map(str, runs[:MOST_NAMED]))}{more}"
    remedy = (
        "give a run's folder or id" if exists else "name its store with --store or EVENGRAD_STORE"
    )
    return f"{why}; {remedy}"
