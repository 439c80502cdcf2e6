"""A cache of finished runs, so that their stores are not read again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from pydantic import BaseModel, ValidationError

from deploy.runs.registry import replace_file, state_folder
from deploy.runs.state import RunState
from job.record.pods import PodsRecord


class _Entry(BaseModel):
    """A finished run."""

    record: str
    """SHA-256 of this machine's pods record, in hex: another record is another state."""
    seen: datetime
    state: RunState


class _Index(BaseModel):
    runs: dict[str, _Entry] = {}
    """By store and run."""


class FinishedRuns:
    """The index; a cache, which may be deleted at any time."""

    def __init__(self) -> None:
        self._path = state_folder() / "finished.index"
        self._index, self._changed = _Index(), False
        with suppress(OSError, ValidationError):
            self._index = _Index.model_validate_json(self._path.read_bytes())

    def state(self, record: PodsRecord, now: datetime) -> RunState | None:
        """The state of a run that was seen to have finished; None for any other run."""
        entry = self._index.runs.get(_key(record))
        if entry is None or entry.record != _digest(record):
            return None
        return _aged(entry.state, (now - entry.seen).total_seconds())

    def add(self, record: PodsRecord, state: RunState, now: datetime) -> None:
        """Keep the state of a run that has finished and costs no more: a result never changes."""
        if state.state == "finished" and not state.pod_listed:
            kept = state.model_copy(update={"pod_listed": None})
            self._index.runs[_key(record)] = _Entry(record=_digest(record), seen=now, state=kept)
            self._changed = True

    def save(self, known: Iterable[PodsRecord]) -> None:
        """Write the index without the runs that this machine has no record of any more."""
        keys = {_key(record) for record in known}
        runs = {key: entry for key, entry in self._index.runs.items() if key in keys}
        if not self._changed and len(runs) == len(self._index.runs):
            return
        with suppress(OSError):  # it is only a cache
            replace_file(self._path, _Index(runs=runs).model_dump_json())


def _key(record: PodsRecord) -> str:
    return f"{record.store} {record.run}"


def _digest(record: PodsRecord) -> str:
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()


def _aged(state: RunState, seconds: float) -> RunState:
    """The same state, so many seconds later."""
    ages = {name: getattr(state, name) for name in ("age_seconds", "heartbeat_seconds")}
    later = {name: age + seconds for name, age in ages.items() if age is not None}
    return state.model_copy(update=later)
