"""What a report shows of one run, gathered from its documents and in one pass of its history."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from job.document import Damaged
from job.history import read_backwards, read_document
from job.journal import Line
from job.report_past import Past
from job.store import Missing, Store
from job.units import loss_unit


def gather(store: Store, run: str, numbers: int) -> Line:
    """All that a page shows of `<name>/<run id>`, as JSON values; about so many numbers at most.

    Raises as `read_history`.
    """
    past = Past(numbers)
    for event in read_backwards(store, run):
        past.add(event)
    spec = _spec(store, run)
    status = _document(store, run, "status.json") or {}
    tasks = past.started[-1]["tasks"] if past.started else {}
    tasks = {name: _facts(name, told, spec) for name, told in tasks.items()}
    return {
        "run": run,
        "label": run.rpartition("/")[2],
        "spec": spec,
        "tasks": tasks,
        "attempts": [
            {k: v for k, v in e.items() if k not in ("tasks", "shapes")} for e in past.started[::-1]
        ],
        "finished": past.finished,
        "phase": status.get("phase"),
        "begun": past.first_time,
        "ended": past.last_time,
        "first_epoch": past.first_epoch,
        "last_epoch": past.last_epoch,
        "per_epoch": _per_epoch(past),
        "steps": past.told_steps(),
        "epochs": past.told_epochs(),
        "cosines": past.told_cosines(),
        "marks": past.told_marks(),
        "pods": _pods(_document(store, run, "pods.json") or {}),
    }


def _per_epoch(past: Past) -> float:
    """Steps of an epoch, for an axis in epochs; those of the whole run where none is finished."""
    if past.last_epoch is not None:
        return float(past.last_epoch["step"] / past.last_epoch["epoch"])
    return float(past.started[0]["steps"]) if past.started else 1.0


def _facts(name: str, told: Line, spec: Any) -> Line:
    """What stands fixed for a task; of an older record the spec tells the loss's unit."""
    asked = (task for task in (spec or {}).get("tasks", ()) if task["name"] == name)
    task: Line = next(asked, {})
    kind = task.get("loss", {}).get("kind")
    unit = told.get("loss_unit", loss_unit(kind, told["unit"]) if kind else "")
    return {**told, "loss_unit": unit}


def _spec(store: Store, run: str) -> Any:
    with suppress(Missing, ValueError):
        return json.loads(store.get(f"{run}/spec.json").data)
    return None


def _document(store: Store, run: str, name: str) -> Line | None:
    with suppress(Damaged):
        return read_document(store, run, name)
    return None


def _pods(book: Line) -> list[Line]:
    """What was rented for the run, as far as its book tells: GPU, USD per hour, hours, USD."""
    pods = []
    for each in book.get("attempts", ()):
        begun = each.get("created") or each["intended"]
        if each.get("pod") is None or each.get("cost") is None:
            continue
        ended = _time(each["ended"]) if each.get("ended") else datetime.now(UTC)
        hours = max(0.0, (ended - _time(begun)).total_seconds()) / 3600
        cost = {"per_hour": each["cost"], "hours": hours, "usd": hours * each["cost"]}
        pods.append({"gpu": each["gpu"], "cloud": each["cloud"], **cost})
    return pods


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
