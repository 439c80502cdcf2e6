"""The book of a run's pods: who rented what, written before each create, here and in the store.

`<name>/<run id>/pods.json` in the store is replaced by compare-and-swap, so that of two submitters
of one run the slower one learns of the other before it rents. The copy on this machine tells a
later command where the run is. No secrets stand in either.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from deploy.ends import ERROR, NOT_FOUND, Stop
from job.document import Damaged, Document, Fenced
from job.head import folder_of_run
from job.store import Missing, Store, open_store

PREFIX = "evengrad-"
"""How the names of all our pods begin."""


class Attempt(BaseModel):
    """One pod, or the intent to have one."""

    model_config = ConfigDict(frozen=True)

    number: int
    """From 1; part of the pod's name."""
    pod_name: str
    gpu: str
    cloud: str
    intended: datetime
    """When it was about to be asked for."""
    pod: str | None = None
    """Its id, once it is known to exist."""
    cost: float | None = None
    """USD per hour."""
    created: datetime | None = None
    ended: datetime | None = None
    """When it was known not to be there, or no more."""
    why: str = ""
    """Why it is no more or never was; of one without an id and an end, why it may exist."""

    @property
    def is_unsure(self) -> bool:
        """Whether it was asked for, and neither seen nor refused."""
        return self.pod is None and self.ended is None


class Found(BaseModel):
    """Where a run is."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The job's."""
    run_id: str
    store: str

    @property
    def run(self) -> str:
        """Key of the run in its store."""
        return f"{self.name}/{self.run_id}"

    def owns(self, pod_name: str, variables: Mapping[str, str]) -> bool:
        """Whether a pod is this run's: by its name, and by its variables where they are shown."""
        if not pod_name.startswith(f"{PREFIX}{self.name}-{self.run_id}-"):
            return False
        told = variables.get("EVENGRAD_NAME", self.name), variables.get("RUN_ID", self.run_id)
        return told == (self.name, self.run_id)


class Book(Found):
    """All pods of a run."""

    spec_hash: str
    image: str
    registry: str | None = None
    """Id of the registry's credentials at RunPod."""
    deadline: datetime
    attempts: tuple[Attempt, ...] = ()

    @property
    def open(self) -> list[Attempt]:
        """Those that may still bill."""
        return [attempt for attempt in self.attempts if attempt.ended is None]

    def spent(self, now: datetime) -> float:
        """USD so far, as far as the attempts tell."""
        hours = [
            max(0.0, ((a.ended or now) - (a.created or a.intended)).total_seconds()) / 3600
            for a in self.attempts
        ]
        return sum(h * (a.cost or 0.0) for h, a in zip(hours, self.attempts, strict=True))


def read_book(found: Mapping[str, object] | None) -> Book | None:
    """From the document in the store; None where it is none."""
    with suppress(ValidationError):
        return Book.model_validate({k: v for k, v in (found or {}).items() if k != "nonce"})
    return None


class Contested(Stop):
    """The run is another submitter's by now, and so are its pods."""


class Keeper:
    """Writes a run's book: first in the store, then here."""

    def __init__(self, store: Store, book: Book) -> None:
        self.book = book
        self._document = Document(store, f"{book.run}/pods.json")

    def read(self) -> Book | None:
        """What the store has, to go on from; None before the first submission."""
        with suppress(Damaged):
            found = self._document.read()
            if found is None:
                return None
            if (book := read_book(found)) is not None:
                self.book = book
                return book
        raise Stop(ERROR, f"{self._document.key} is damaged; delete it once `list` shows no pod")

    def write(self, book: Book) -> None:
        """Raises Stop where another submitter has written since, StoreError."""
        try:
            self._document.write(json.loads(book.model_dump_json()))
        except Fenced as fenced:
            why = f"another submitter is at work on run {book.run_id}; this one rents nothing more"
            raise Contested(ERROR, why) from fenced
        self.book = book
        with suppress(OSError):  # a convenience; the store has it
            remember(book)

    def check(self) -> None:
        """Raises Contested where another submitter has written since, StoreError."""
        told, mine = self._document.read(), self.book
        if read_book(told) != mine:
            raise Contested(ERROR, f"another submitter is at work on run {mine.run_id}")

    def add(self, attempt: Attempt) -> None:
        """Write an intent."""
        attempts = (*self.book.attempts, attempt)
        self.write(self.book.model_copy(update={"attempts": attempts}))

    def change(self, number: int, **news: object) -> Attempt:
        """Write what became of an attempt; returns it."""
        attempts = [
            a.model_copy(update=news) if a.number == number else a for a in self.book.attempts
        ]
        self.write(self.book.model_copy(update={"attempts": tuple(attempts)}))
        return next(a for a in attempts if a.number == number)

    def close(self, number: int, why: str) -> None:
        """Write that a pod is no more, or never was."""
        self.change(number, ended=datetime.now(UTC), why=why)


# --- this machine ---------------------------------------------------------------------------------


def folder() -> Path:
    """Where this machine keeps its books: EVENGRAD_STATE, else as the XDG rules say."""
    if given := os.environ.get("EVENGRAD_STATE"):
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "evengrad"


def remember(book: Book) -> None:
    """Replace this machine's copy, whole."""
    path = folder() / f"{book.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    partial.write_text(book.model_dump_json(indent=1))
    partial.replace(path)


def remembered() -> list[Book]:
    """All books of this machine, the oldest run first; what cannot be read is passed over."""
    books = []
    for path in sorted(folder().glob("[!.]*.json")):
        with suppress(OSError, ValueError):
            books.append(Book.model_validate_json(path.read_text()))
    return books


def find(run: str, store: str | None) -> Found:
    """A run by `<run id>` or `<name>/<run id>`, or by its folder in a store that is a directory.

    In the store given, else where this machine knows it to be, else in that of EVENGRAD_STORE.

    Raises Stop, StoreError, InputError.
    """
    if store is None and (here := folder_of_run(run)) is not None:
        return Found(name=here.name, run_id=here.run_id, store=here.root)
    name, slash, run_id = run.rpartition("/")
    for book in reversed(remembered()):
        if book.run_id == run_id and name in ("", book.name) and store in (None, book.store):
            return Found(name=book.name, run_id=run_id, store=book.store)
    store = store or os.environ.get("EVENGRAD_STORE")
    if not store:
        why = f"this machine knows no run {run}; name its store with --store or EVENGRAD_STORE"
        raise Stop(NOT_FOUND, why)
    where = open_store(store)
    if slash:
        for document in ("latest.json", "pods.json"):
            with suppress(Missing):
                where.get(f"{run}/{document}")
                return Found(name=name, run_id=run_id, store=store)
    for entry in where.list() if not slash else ():
        parts = entry.key.split("/")
        if len(parts) == 3 and parts[1] == run_id and parts[2] in ("latest.json", "pods.json"):
            return Found(name=parts[0], run_id=run_id, store=store)
    raise Stop(NOT_FOUND, f"{where.url} holds no run {run}")
