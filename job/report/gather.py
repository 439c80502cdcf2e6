"""The data of one run's report, from its documents and one pass over its history."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from job.events.gates import words
from job.events.log import Line
from job.record.history import read_backwards
from job.record.pods import PodsRecord
from job.record.status import Status
from job.report.fold import RunFold
from job.spec import Gate
from job.spec.losses import loss_unit
from job.store import Missing, Store

GATES: TypeAdapter[list[Gate]] = TypeAdapter(list[Gate])


def gather(store: Store, run: str, numbers: int) -> Line:
    """The data of `<name>/<run id>` as JSON values, with about `numbers` numbers at most.

    Raises as `read_history`.
    """
    fold = RunFold(numbers)
    for event in read_backwards(store, run):
        fold.add(event)
    spec = _spec(store, run)
    status = Status.read_or_none(store, run)
    tasks = fold.started[-1]["tasks"] if fold.started else {}
    tasks = {name: _setup(name, setup, spec) for name, setup in tasks.items()}
    return {
        "run": run,
        "label": run.rpartition("/")[2],
        "spec": spec,
        "tasks": tasks,
        "attempts": [
            {k: v for k, v in e.items() if k not in ("tasks", "shapes")} for e in fold.started[::-1]
        ],
        "finished": fold.finished,
        "gates": _gates(fold, spec),
        "phase": status.phase if status else None,
        "begun": fold.first_time,
        "ended": fold.last_time,
        "first_epoch": fold.first_epoch,
        "last_epoch": fold.last_epoch,
        "predictions": fold.predictions[::-1],
        "test": fold.test,
        "per_epoch": _per_epoch(fold),
        "steps": fold.steps(),
        "epochs": fold.epochs(),
        "cosines": fold.cosines(),
        "marks": fold.marks(),
        "pods": _pods(PodsRecord.read_or_none(store, run), fold.finished),
    }


def _per_epoch(fold: RunFold) -> float:
    """Steps of an epoch, for an axis in epochs; if no epoch is finished, those of the whole run."""
    if fold.last_epoch is not None:
        return float(fold.last_epoch["step"] / fold.last_epoch["epoch"])
    return float(fold.started[0]["steps"]) if fold.started else 1.0


def _gates(fold: RunFold, spec: Any) -> list[Line]:
    """Every gate with its verdict; a gate that was not read yet has only its text."""
    if fold.finished is not None:
        verdicts: list[Line] = fold.finished["gates"]
        return verdicts
    wanted: list[str] = []
    with suppress(ValueError):
        wanted = [words(gate) for gate in GATES.validate_python((spec or {}).get("gates", []))]
    read = {event["gate"]: event for event in fold.gates[::-1]}
    return [read.get(gate, {"gate": gate}) for gate in dict.fromkeys([*wanted, *read])]


def _setup(name: str, setup: Line, spec: Any) -> Line:
    """A task's setup; older records lack the loss's unit, which then follows from the spec."""
    named = (task for task in (spec or {}).get("tasks", ()) if task["name"] == name)
    task: Line = next(named, {})
    kind = task.get("loss", {}).get("kind")
    unit = setup.get("loss_unit", loss_unit(kind, setup["unit"]) if kind else "")
    return {**setup, "loss_unit": unit}


def _spec(store: Store, run: str) -> Any:
    with suppress(Missing, ValueError):
        return json.loads(store.get(f"{run}/spec.json").data)
    return None


def _pods(record: PodsRecord | None, finished: Line | None) -> list[Line]:
    """The pods that were rented for the run: GPU, USD per hour, hours, USD.

    One whose end is not recorded counts up to the run's end, or until now.
    """
    pods = []
    until = datetime.fromisoformat(finished["ts"]) if finished else datetime.now(UTC)
    for each in record.attempts if record else ():
        if each.pod is None or each.cost is None:
            continue
        ended, begun = each.ended or until, each.created or each.intended
        hours = max(0.0, (ended - begun).total_seconds()) / 3600
        cost = {"per_hour": each.cost, "hours": hours, "usd": hours * each.cost}
        pods.append({"gpu": each.gpu, "cloud": each.cloud, **cost})
    return pods
