"""The pods record of a run: which pods were rented, written before each create.

`<name>/<run id>/pods.json` in the store is replaced by compare-and-swap: if two submitters work on
one run, the slower one learns of the other before it rents. A copy on this machine lets later
commands find the run. Neither contains secrets.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from deploy.exits import ERROR, CommandError
from job.record.document import Damaged, Document, Fenced
from job.record.pods import Attempt, PodsRecord
from job.store import Store


class Contested(CommandError):
    """Another submitter has the run now, and its pods."""


class PodRegistry:
    """Writes a run's pods record, first in the store, then on this machine."""

    def __init__(self, store: Store, record: PodsRecord) -> None:
        self.record = record
        self._document = Document(store, PodsRecord.key(record.run))

    def read(self) -> PodsRecord | None:
        """The store's record, which becomes this one; None before the first submission."""
        try:
            record = PodsRecord.of(self._document)
        except Damaged as damaged:
            why = f"{self._document.key} is damaged; delete it once `list` shows no pod"
            raise CommandError(ERROR, why) from damaged
        self.record = record or self.record
        return record

    def write(self, record: PodsRecord) -> None:
        """Replace the record; raises Contested if another submitter wrote since, StoreError."""
        try:
            self._document.write(record.body())
        except Fenced as fenced:
            why = f"another submitter is at work on run {record.run_id}; this one rents no more"
            raise Contested(ERROR, why) from fenced
        self.record = record
        with suppress(OSError):  # a convenience; the store has it
            save_locally(record)

    def check(self) -> None:
        """Raises Contested if another submitter wrote since, StoreError."""
        if PodsRecord.of(self._document) != self.record:
            why = f"another submitter is at work on run {self.record.run_id}"
            raise Contested(ERROR, why)

    def add(self, attempt: Attempt, image: str, registry: str | None) -> None:
        """Write the intent to rent a pod with this image, and with these credentials for it."""
        attempts = (*self.record.attempts, attempt)
        facts = {"attempts": attempts, "image": image, "registry": registry}
        self.write(self.record.model_copy(update=facts))

    def change(self, number: int, **fields: object) -> Attempt:
        """Write new values of an attempt's fields; returns the attempt."""
        attempts = [
            a.model_copy(update=fields) if a.number == number else a for a in self.record.attempts
        ]
        self.write(self.record.model_copy(update={"attempts": tuple(attempts)}))
        return self.attempt(number)

    def close(self, number: int, why: str) -> None:
        """Write that an attempt's pod is gone, or never existed."""
        self.change(number, ended=datetime.now(UTC), why=why)

    def attempt(self, number: int) -> Attempt:
        """The attempt of this number."""
        return next(a for a in self.record.attempts if a.number == number)


# --- this machine ---------------------------------------------------------------------------------


def state_folder() -> Path:
    """Where this machine keeps its copies: EVENGRAD_STATE, else as the XDG rules say."""
    if given := os.environ.get("EVENGRAD_STATE"):
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "evengrad"


def save_locally(record: PodsRecord) -> None:
    """Replace this machine's copy, whole."""
    path = state_folder() / f"{record.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(path, record.model_dump_json(indent=1))


def replace_file(path: Path, text: str) -> None:
    """Replace a file in the state folder, whole."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def local_records() -> list[PodsRecord]:
    """All copies on this machine, the oldest run first; unreadable ones are skipped."""
    records = []
    for path in sorted(state_folder().glob("[!.]*.json")):
        with suppress(OSError, ValueError):
            records.append(PodsRecord.model_validate_json(path.read_text()))
    return records
