"""Where the run is that a person names."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from deploy.book import Found, remembered
from deploy.ends import NOT_FOUND, Stop
from job.head import folder_of_run
from job.store import Missing, Store, open_store

HEAD = "latest.json"
"""What every run's folder has."""
LOCAL = "runs"
"""Where `python -m job run` keeps runs unless told otherwise."""
NAMED = 3
"""At most so many runs are named to choose from."""


def find(run: str, store: str | None) -> Found:
    """A run by `<run id>` or `<name>/<run id>`, or by its folder in a store that is a directory.

    In the store given, else where this machine knows it to be, else in that of EVENGRAD_STORE or
    in ./runs.

    Raises Stop, StoreError, InputError.
    """
    if store is None and (here := folder_of_run(run)) is not None:
        return Found(name=here.name, run_id=here.run_id, store=here.root)
    name, _, run_id = run.rpartition("/")
    for book in reversed(remembered()):
        if book.run_id == run_id and name in ("", book.name) and store in (None, book.store):
            return Found(name=book.name, run_id=run_id, store=book.store)
    urls = [store] if store else _usual()
    for url in urls:
        if (named := _within(open_store(url), name, run_id)) is not None:
            return Found(name=named, run_id=run_id, store=url)
    if store:
        raise Stop(NOT_FOUND, f"{open_store(store).url} holds no run {run}")
    raise Stop(NOT_FOUND, _why(run, urls))


def _usual() -> list[str]:
    """Stores to look in where none is named."""
    given = os.environ.get("EVENGRAD_STORE", "")
    return [url for url in (given, LOCAL if Path(LOCAL).is_dir() else "") if url]


def _within(store: Store, name: str, run_id: str) -> str | None:
    """The name of the run's job, where the store holds it."""
    documents = (HEAD, "pods.json")
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


def _why(run: str, urls: list[str]) -> str:
    """Why there is no such run, and which there are."""
    path = Path(run)
    there = path.exists()
    if there:
        why = f"{run}: found a {'folder' if path.is_dir() else 'file'}, which is not a run's folder"
    else:
        why = f"this machine knows no run {run}"
        why += f", and {' and '.join(urls)} holds none" if urls else ""
    if runs := _near(path):
        more = f" and {len(runs) - NAMED} more" if len(runs) > NAMED else ""
        return f"{why}; there is {', '.join(map(str, runs[:NAMED]))}{more}"
    remedy = (
        "give a run's folder or id" if there else "name its store with --store or EVENGRAD_STORE"
    )
    return f"{why}; {remedy}"


def _near(path: Path) -> list[Path]:
    """Folders of runs below a path, or of the run that a file is of; the newest first."""
    if path.is_file():
        return [path.parent] if (path.parent / HEAD).is_file() else []
    folder = path if path.is_dir() else path.parent
    if folder == Path() != path:  # a run id: nothing says that runs here are meant
        return []
    heads = [head for depth in ("*", "*/*") for head in folder.glob(f"{depth}/{HEAD}")]
    return [h.parent for h in sorted(heads, key=lambda h: h.stat().st_mtime, reverse=True)]
