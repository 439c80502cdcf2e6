"""All runs of a store, a row each, from few small documents of each run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from job.record.document import Damaged
from job.record.layout import is_ours
from job.record.result import Result, TaskWorth
from job.record.run_index import About, RunIndex
from job.record.status import Status
from job.store import Corrupt, Missing, Store
from job.store.base import Entry

AT_ONCE = 24
"""Runs whose documents are read at the same time: each read waits for the store."""
SILENT_SECONDS = 300.0
"""Age of the last sign of life from which on a run counts as silent."""
STANDING = ("interrupted", "failed")
"""Phases of a run that is not meant to move."""
BEGUN = ("latest.json", "events/", "checkpoints/", "result.json")
"""What only a run has that has begun; beginnings of names."""


class Row(BaseModel):
    """A run of a list."""

    model_config = ConfigDict(frozen=True)

    run: str
    """`<name>/<run id>`."""
    state: str
    """`passed`, `gates_failed` or why else it ended; the phase that it is in; `silent`, if that is
    long ago; `not begun`; `damaged`."""
    detail: str = ""
    """Which of its gates passed, how far it is, or what is damaged."""
    finished: bool = False
    control: bool = False
    """Its targets are permuted: not a run of its job."""
    skills: dict[str, TaskWorth] = {}
    """By task, what its predictions are worth on the validation split; empty before the end."""
    age_seconds: float | None = None
    """Since its last sign of life; None if it has left none."""
    bytes: int
    """Of all its objects in the store."""
    label: str = ""
    notes: str = ""
    origin: str = ""
    """The run that it begins with or extends, as its spec names it."""
    report: bool = False
    """True if its page is in the store."""

    @property
    def least(self) -> tuple[str, TaskWorth] | None:
        """The task with the least skill; one without a skill only if none has one."""
        order = {k: math.inf if w.skill is None else w.skill for k, w in self.skills.items()}
        name = min(order, key=lambda name: order[name], default=None)
        return None if name is None else (name, self.skills[name])


def read_rows(store: Store, now: datetime | None = None) -> list[Row]:
    """Every run of a store, the one with the newest sign of life first; raises StoreError."""
    objects: dict[str, dict[str, int]] = {}
    for entry in store.list():
        if (place := _place(entry)) is not None:
            run, name = place
            objects.setdefault(run, {})[name] = entry.size
    at = now or datetime.now(UTC)
    found = {run: names for run, names in objects.items() if any(map(is_ours, names))}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        rows = list(threads.map(lambda run: read_row(store, run, found[run], at), found))
    return sorted(rows, key=lambda row: (row.age_seconds is None, row.age_seconds or 0.0, row.run))


def _place(entry: Entry) -> tuple[str, str] | None:
    """The run of an object, and its name below the run; None for what is in no run's folder."""
    parts = entry.key.split("/", 2)
    return ("/".join(parts[:2]), parts[2]) if len(parts) == 3 else None


def read_row(store: Store, run: str, objects: Mapping[str, int], now: datetime) -> Row:
    """A run's row; objects: sizes in bytes by name, below the run. Raises StoreError.

    Of a run that has ended the index alone is read; of others, and of those that an older version
    has ended, the status and the spec too.
    """
    about: dict[str, Any] = {
        "run": run,
        "bytes": sum(objects.values()),
        "report": "report.html" in objects,
    }
    begun = any(name.startswith(BEGUN) for name in objects)
    index, damage = _index(store, run) if begun else (None, "")
    if index is not None and index.finished is not None and index.about is not None:
        return Row(**about, **_at_the_end(index.about, now), **_ended(index.finished))
    status = Status.read_or_none(store, run) if "status.json" in objects else None
    spec, fault = _spec(store, run) if "spec.json" in objects else ({}, "")
    about |= _from_spec(spec) | {"age_seconds": _age(status.written_at if status else None, now)}
    if not begun:
        return Row(**about, state=status.phase if status else "not begun", detail=fault)
    if index is None:
        return Row(**about, state="damaged", detail=damage)
    if index.finished is not None:
        return Row(**about | _ended(index.finished, fault))
    state, detail = _moving(status, about["age_seconds"], spec)
    return Row(**about, state=state, detail="; ".join(filter(None, (detail, fault))))


def _index(store: Store, run: str) -> tuple[RunIndex | None, str]:
    """The run's index; None, and why, if there is no intact one."""
    try:
        index = RunIndex.read(store, run)
    except (Damaged, Corrupt) as damaged:
        return None, str(damaged)
    return index, "" if index is not None else "latest.json is missing"


def _age(beat: datetime | None, now: datetime) -> float | None:
    return None if beat is None else (now - beat).total_seconds()


def _from_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the row says of a run's spec."""
    start = spec.get("model", {}).get("start_from") or {}
    return {
        "label": str(spec.get("label") or ""),
        "notes": str(spec.get("notes") or ""),
        "origin": str(spec.get("extends") or start.get("run") or ""),
        "control": bool(spec.get("control")),
    }


def _at_the_end(about: About, now: datetime) -> dict[str, Any]:
    """What the row says of a run's spec and its age, as its end has recorded them."""
    texts = about.model_dump(include={"label", "notes", "origin"})
    return {**texts, "age_seconds": _age(about.ended, now)}


def _ended(result: Result, fault: str = "") -> dict[str, Any]:
    """What the row says of a run's end."""
    known = {"succeeded": "passed"}
    passed = sum(gate.passed for gate in result.gates)
    detail = f"{passed} of {len(result.gates)} gates passed" if result.gates else "no gates"
    return {
        "state": known.get(result.reason, result.reason),
        "detail": "; ".join(filter(None, (detail, result.error or "", fault))),
        "finished": True,
        "control": result.control,
        "skills": result.worth,
    }


def _moving(status: Status | None, age: float | None, spec: Any) -> tuple[str, str]:
    """The state of a run that has not finished, and how far it is."""
    if status is None:
        return "starting", ""
    epochs = spec.get("train", {}).get("epochs")
    of = f" of {epochs}" if isinstance(epochs, int) else ""
    far = "" if status.epoch is None else f"epoch {status.epoch}{of}"
    silent = age is not None and age > SILENT_SECONDS and status.phase not in STANDING
    parts = [status.phase] if silent else []
    parts += [text for text in (far, status.error) if text]
    return "silent" if silent else status.phase, "; ".join(parts)


def _spec(store: Store, run: str) -> tuple[dict[str, Any], str]:
    """The run's spec as JSON values, and what is wrong with it."""
    with suppress(ValueError, RecursionError):
        try:
            spec = json.loads(store.get(f"{run}/spec.json").data)
        except Missing:
            return {}, "spec.json is missing"
        if isinstance(spec, dict) and isinstance(spec.get("model", {}), dict):
            return spec, ""
    return {}, "spec.json is damaged"
