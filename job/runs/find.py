"""Finding the run, and the checkpoint of it, that a person names."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from job.errors import Fault, InputError
from job.record.pods import RunRef
from job.record.run_index import Kept, RunIndex, folder_of_run
from job.store import Missing, Store, open_store

INDEX = "latest.json"
"""The run index, which every run's folder has."""
LOCAL = "runs"
"""The default store of `python -m job run`."""
MOST_NAMED = 3
"""Runs, or checkpoints, that a fault names to choose from."""


def find_run(run: str, store: str | None = None, folder: Path = Path()) -> RunRef | None:
    """A run by its folder, by `s3://bucket/prefix/<name>/<run id>` or by id; None: there is none.

    A folder's path is relative to `folder`. `<run id>` or `<name>/<run id>` is looked for in the
    given store; without one, in the store of EVENGRAD_STORE and in ./runs. Raises StoreError,
    InputError.
    """
    if run.startswith("s3://"):
        *root, name, run_id = ["", "", *run.removeprefix("s3://").rstrip("/").split("/")]
        url = "s3://" + "/".join(root[2:])
        found = len(root) > 2 and holds_run(open_store(url), f"{name}/{run_id}")
        return RunRef(name=name, run_id=run_id, store=url) if found else None
    if (here := folder_of_run(str(folder / run))) is not None:
        return RunRef(name=here.name, run_id=here.run_id, store=here.root)
    name, _, run_id = run.rpartition("/")
    for url in default_stores() if store is None else [store]:
        if (job := _job_name(open_store(url), name, run_id)) is not None:
            return RunRef(name=job, run_id=run_id, store=url)
    return None


def the_run(run: str, store: str | None, where: str, folder: Path = Path()) -> RunRef:
    """The same; raises InputError if there is none. where: what names the run, for the fault."""
    if (found := find_run(run, store, folder)) is not None:
        return found
    raise InputError([no_run(run, store, where, folder)])


def no_run(run: str, store: str | None, where: str, folder: Path = Path()) -> Fault:
    """That there is no such run, and which runs there are."""
    path = folder / run
    urls = default_stores() if store is None else [open_store(store).url]
    if run.startswith("s3://"):
        found, urls = f"no run {run}", []
    elif path.exists():
        kind = "folder" if path.is_dir() else "file"
        found, urls = f"{run}, a {kind}, which is not a run's folder", []
    else:
        found = f"no run {run}"
    rule = f"{' and '.join(urls)} hold{'s' if len(urls) == 1 else ''} none" if urls else ""
    rule = (
        rule or "a run is named by its folder, its id in the store, or s3://bucket/prefix/NAME/ID"
    )
    near = [] if run.startswith("s3://") else runs_near(path)
    more = f" and {len(near) - MOST_NAMED} more" if len(near) > MOST_NAMED else ""
    remedy = f"there is {', '.join(map(str, near[:MOST_NAMED]))}{more}" if near else ""
    return Fault(where, found, rule, remedy or "name its folder, or its store with --store")


def reference(run: str, store: str) -> str:
    """How a spec names a run that a person has named: by its id in this store, or its whole place.

    A run that is not there is named as it was: a run that has begun does not read it again.
    """
    ref = find_run(run, store)
    if ref is None:
        return run
    place = open_store(ref.store).url
    return ref.run if place == open_store(store).url else f"{place}/{ref.run}"


def default_stores() -> list[str]:
    """Where to look if no store is named."""
    given = os.environ.get("EVENGRAD_STORE", "")
    return [url for url in (given, LOCAL if Path(LOCAL).is_dir() else "") if url]


def holds_run(store: Store, run: str) -> bool:
    """True if the store has a run `<name>/<run id>`, begun or submitted. Raises StoreError."""
    for document in (INDEX, "pods.json"):
        with suppress(Missing, ValueError):  # ValueError: no key could be so
            store.get(f"{run}/{document}")
            return True
    return False


def runs_near(path: Path) -> list[Path]:
    """The runs' folders below a folder, or the one that holds a file; the newest first."""
    if path.is_file():
        return [path.parent] if (path.parent / INDEX).is_file() else []
    folder = path if path.is_dir() else path.parent
    if folder == Path() != path:  # a run id: the folders here need not be what is meant
        return []
    indexes = [index for depth in ("*", "*/*") for index in folder.glob(f"{depth}/{INDEX}")]
    return [i.parent for i in sorted(indexes, key=lambda i: i.stat().st_mtime, reverse=True)]


def _job_name(store: Store, name: str, run_id: str) -> str | None:
    """The name of the run's job; None if the store does not hold the run.

    Raises InputError if several jobs have a run of that id.
    """
    if "/" in name or not run_id:
        return None
    if name:
        return name if holds_run(store, f"{name}/{run_id}") else None
    keys = (entry.key.split("/") for entry in store.list())
    names = {k[0] for k in keys if len(k) == 3 and k[1] == run_id and k[2] in (INDEX, "pods.json")}
    if len(names) > 1:
        found = f"runs of {len(names)} jobs: {', '.join(sorted(names)[:MOST_NAMED])}"
        remedy = f"name it with its job: {min(names)}/{run_id}"
        raise InputError([Fault(run_id, found, "an id must name one run", remedy)])
    return next(iter(names), None)


def choose_checkpoint(index: RunIndex, which: str | int, run: str, where: str) -> Kept:
    """The checkpoint `best`, `last`, or of a step, that the index of a run names.

    where: what names the checkpoint, for the InputError that says there is none.
    """
    kept = _distinct([*index.checkpoints, *([index.best] if index.best else [])])
    newest = max(kept, key=lambda each: each.step, default=None)
    if which == "last" and newest is not None:
        return newest
    if which == "best" and index.best is not None:
        return index.best
    for each in kept:
        if str(which) == str(each.step):
            return each
    steps = ", ".join(str(each.step) for each in kept)
    there = f"it holds the steps {steps}" if kept else "it holds none"
    remedy = 'name one of these, or "last"' if kept else "let it reach its first checkpoint"
    if which == "best" and kept:
        there += ", and kept no best one, as its spec has no checkpoint.best_of"
        remedy = 'name "last", or a step'
    raise InputError([Fault(where, json.dumps(which), f"a checkpoint of {run}: {there}", remedy)])


def _distinct(kept: Sequence[Kept]) -> list[Kept]:
    """Each folder once, the newest first."""
    return sorted({each.folder: each for each in kept}.values(), key=lambda k: -k.step)
