"""Made-up runs of any length, as a store holds them: with a spike, alarms, and a resume."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from pydantic_core import to_json

from job.record.run_index import RunIndex, RunIndexStore
from job.record.segments import digest_of
from job.store import Store

Line = dict[str, Any]

SEGMENT = 500
"""Events of a segment: some seconds of training."""
EPOCH = 500
"""Steps of an epoch."""
SPIKE = 1e4
"""The loss of the first task at the middle step."""


def store_events(store: Store, run: str, events: Iterable[Line], spec: Line) -> None:
    """Store events as a run; they get their numbers and times here."""
    index = RunIndexStore(store, run, fenced=False)
    index.write(RunIndex(epoch=1, spec_hash="", fences={}))
    store.put(f"{run}/spec.json", json.dumps(spec).encode())
    envelope = {"ts": "2026-11-23T06:00:00.000000Z", "schema": 1, "run_id": run.split("/")[1]}
    numbered = ({**envelope, "seq": n, **event} for n, event in enumerate(events, 1))
    while part := list(islice(numbered, SEGMENT)):
        data = b"".join(to_json(event) + b"\n" for event in part)
        span = f"{part[0]['seq']:012d}-{part[-1]['seq']:012d}"
        store.put(f"{run}/events/000001-{span}-{digest_of(data)}.jsonl", data)


def spec_of(steps: int, tasks: int) -> Line:
    """The parts of a spec that a report reads."""
    names = [{"name": f"task_{k:02d}"} for k in range(tasks)]
    return {"name": "long", "tasks": names, "train": {"epochs": steps // EPOCH}}


def long_run(steps: int, tasks: int) -> Iterator[Line]:
    """The events of a run; at three quarters it goes back by a tenth of an epoch."""
    random = np.random.default_rng(0)
    names = [f"task_{k:02d}" for k in range(tasks)]
    yield _started(names, steps)
    first: dict[str, float] = {}
    back, seq = 3 * steps // 4, 1
    for step in range(1, steps + 1):
        yield _step(random, names, step, steps)
        seq += 1
        if step % EPOCH == 0:
            yield _epoch(random, names, step, steps, first)
            yield {"event": "checkpoint.saved", "step": step, "epoch": step // EPOCH, "size": 1,
                   "seconds": 0.1}  # fmt: skip
            seq += 2
        if step % (steps // 5) == 0:
            message = f"{names[0]}: something is amiss at step {step}"
            yield {"event": "alarm", "kind": "task_stalled", "message": message, "step": step,
                   "task": names[0]}  # fmt: skip
            seq += 1
        if step == back:
            lost = EPOCH // 10
            for again in range(step + 1, step + 1 + lost):
                yield _step(random, names, again, steps)
            yield _started(names, steps) | {"resumed_from": step}
            yield {"event": "superseded", "step": step, "from_seq": seq + 1, "to_seq": seq + lost}
            seq += lost + 2
    yield {"event": "run.finished", "reason": "succeeded", "exit_code": 0, "gates": [],
           "steps": steps, "epochs": steps // EPOCH, "seconds": steps / 50}  # fmt: skip


def _started(names: list[str], steps: int) -> Line:
    facts = {"level": "step", "outputs": 1, "unit": "bars", "shift": [0.0], "scale": [1.0],
             "baseline_constant": 1.0, "baseline_per_position": 0.6}  # fmt: skip
    return {
        "event": "run.started", "name": "long", "spec_hash": "0" * 64, "version": "0", "torch": "2",
        "device": "cuda (NVIDIA H200)", "threads": 8, "parameters": 10**6, "shapes": {},
        "samples": {"train": 32 * EPOCH, "validation": 10}, "features": [105, 12], "rows": 10,
        "skipped": {}, "steps": steps, "tasks": dict.fromkeys(names, facts),
    }  # fmt: skip


def _falling(random: np.random.Generator, tasks: int, step: int, steps: int) -> list[float]:
    around = np.linspace(0.2, 1.5, tasks) * (0.3 + np.exp(-4 * step / steps))
    return np.exp(random.normal(0, 0.15, tasks) + np.log(around)).round(6).tolist()  # type: ignore[no-any-return]  # numpy's


def _step(random: np.random.Generator, names: list[str], step: int, steps: int) -> Line:
    losses = _falling(random, len(names), step, steps)
    if step == steps // 2:
        losses[0] = SPIKE
    pulls = random.gamma(2.0, 1.0, len(names))
    shares = (pulls / pulls.sum()).round(7).tolist()
    weights, norms = (random.gamma(9.0, 1.0, (2, len(names)))).round(6).tolist()
    rows = zip(names, losses, weights, norms, shares, strict=True)
    tasks = {
        name: {"loss": loss, "loss_original": loss, "weight": weight, "grad_norm": norm,
               "grad_share": share, "head_grad_norm": norm, "cosine": share}
        for name, loss, weight, norm, share in rows
    }  # fmt: skip
    return {"event": "step", "step": step, "epoch": 1 + (step - 1) // EPOCH, "tasks": tasks,
            "cosine_min": -shares[0], "lr": 0.001, "step_ms": 20.0, "skipped": False}  # fmt: skip


def _epoch(
    random: np.random.Generator, names: list[str], step: int, steps: int, first: dict[str, float]
) -> Line:
    losses = dict(zip(names, _falling(random, len(names), step, steps), strict=True))
    first |= losses if not first else {}
    table = random.uniform(-1, 1, (len(names), len(names))).round(6).tolist()
    cosines = {a: dict(zip(names, row, strict=True)) for a, row in zip(names, table, strict=True)}
    tasks = {
        name: {"train_loss": loss, "val_loss": loss, "train_loss_original": loss,
               "val_loss_original": 1.1 * loss, "drop": 1 - loss / first[name], "val_drop": 0.1,
               "skill": 1 - loss / 0.6, "val_skill": 1 - loss / 0.7, "weight": 9.0,
               "grad_norm": 9.0, "grad_share": 1 / len(names), "cosine": 0.1, "saturated": 0.0,
               "pull": 1.0, "cosines": cosines[name], "head_pull": 1.0}
        for name, loss in losses.items()
    }  # fmt: skip
    return {"event": "epoch", "epoch": step // EPOCH, "step": step, "tasks": tasks, "seconds": 10.0,
            "samples_per_second": 1600.0}  # fmt: skip
