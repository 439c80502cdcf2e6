"""Finding the run that a person names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from deploy.exits import NOT_FOUND, CommandError
from deploy.runs.registry import local_records
from job.record.pods import RunRef
from job.record.run_index import folder_of_run
from job.store import Missing, Store, open_store

INDEX = "latest.json"
"""The run index, which every run's folder has."""
LOCAL = "runs"
"""The default store of `python -m job run`."""
MOST_NAMED = 3
"""Runs that an error names to choose from."""


def locate(run: str, store: str | None) -> RunRef:
    """A run by `<run id>` or `<name>/<run id>`, or by its folder in a store that is a directory.

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
    urls = [store] if store else _default_stores()
    for url in urls:
        if (job := _job_name(open_store(url), name, run_id)) is not None:
            return RunRef(name=job, run_id=run_id, store=url)
    if store:
        raise CommandError(NOT_FOUND, f"{open_store(store).url} holds no run {run}")
    raise CommandError(NOT_FOUND, _not_found_message(run, urls))


def _default_stores() -> list[str]:
    """Where to look if no store is named."""
    given = os.environ.get("EVENGRAD_STORE", "")
    return [url for url in (given, LOCAL if Path(LOCAL).is_dir() else "") if url]


def _job_name(store: Store, name: str, run_id: str) -> str | None:
    """The name of the run's job; None if the store does not hold the run."""
    documents = (INDEX, "pods.json")
    if "/" in name or not run_id:
        return None
    if name:
        for document in documents:
            with suppress(Missing):
                store.get(f"{name}/{run_id}/{document}")
                return name
        return None
    for entry in store.list():
        parts = entry.key.split("/")
        if len(parts) == 3 and parts[1] == run_id and parts[2] in documents:
            return parts[0]
    return None


def _not_found_message(run: str, urls: list[str]) -> str:
    """Why there is no such run, and which runs there are."""
    path = Path(run)
    exists = path.exists()
    if exists:
        why = f"{run}: found a {'folder' if path.is_dir() else 'file'}, which is not a run's folder"
    else:
        why = f"this machine knows no run {run}"
        why += f", and {' and '.join(urls)} holds none" if urls else ""
    if runs := _runs_near(path):
        more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
        return f"{why}; there is {', '.join(map(str, runs[:MOST_NAMED]))}{more}"
    remedy = (
        "give a run's folder or id" if exists else "name its store with --store or EVENGRAD_STORE"
    )
    return f"{why}; {remedy}"


def _runs_near(path: Path) -> list[Path]:
    """The runs' folders below a folder, or the one that holds a file; the newest first."""
    if path.is_file():
        return [path.parent] if (path.parent / INDEX).is_file() else []
    folder = path if path.is_dir() else path.parent
    if folder == Path() != path:  # a run id: the folders here need not be what is meant
        return []
    indexes = [index for depth in ("*", "*/*") for index in folder.glob(f"{depth}/{INDEX}")]
    return [i.parent for i in sorted(indexes, key=lambda i: i.stat().st_mtime, reverse=True)]
