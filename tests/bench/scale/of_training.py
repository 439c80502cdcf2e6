"""A training step, an evaluation and their record against window, tasks and layers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from job.data.dataset import load
from job.events import Epoch, Step
from job.events.log import EventLog
from job.train.evaluate import evaluate
from job.train.trainer import Interrupted, Trainer
from tests.bench.scale.cost import Costs, cost
from tests.bench.scale.jobs import job, loaded

WARM_UP, TAKEN = 3, 8
"""Steps before those that count, and those."""
BATCH = 32
WINDOWS = (32, 128, 512, 2048)
TASKS = (4, 16, 64, 256)
DEPTHS = (1, 4, 16, 64)
DILATIONS = (1, 2, 4, 8)
"""Layers of convolutions, each of which reaches twice as far as the one before."""
LSTM = {"kind": "lstm", "hidden": 16, "projection": 16}
TRANSFORMER = {"kind": "transformer", "width": 16, "heads": 2, "layers": 1, "projection": 16}
CONVOLUTIONS = {"kind": "conv1d", "layers": 4, "projection": 16}

Measure = Callable[[int, Path, int], Costs]


def step_of_window(model: dict[str, Any]) -> Measure:
    def measure(steps: int, folder: Path, rounds: int) -> Costs:
        return _step(folder, rounds, samples=256, steps=steps, model=model, batch=8)

    return measure


def step_of_layers(model: Callable[[int], dict[str, Any]]) -> Measure:
    def measure(layers: int, folder: Path, rounds: int) -> Costs:
        return _step(folder, rounds, samples=1024, steps=16, model=model(layers))

    return measure


def step_of_tasks(tasks: int, folder: Path, rounds: int) -> Costs:
    return _step(folder, rounds, tasks=tasks, model=LSTM)


def start_of_tasks(tasks: int, folder: Path, rounds: int) -> Costs:
    spec = job(folder, tasks=tasks, model=LSTM)
    return cost(lambda: Trainer(spec, load(spec, folder)), rounds)


def evaluation_of_tasks(tasks: int, folder: Path, rounds: int) -> Costs:
    training = Trainer(*loaded(folder, tasks=tasks, model=LSTM))
    split = training.data.validation

    def act() -> None:
        model, losses = training.stepper.model, training.losses
        found = evaluate(model, losses, split, training.device, metrics=True)
        training.yardsticks.skills("validation", found)

    return cost(act, rounds)


def record_of_tasks(kind: type[BaseModel]) -> Measure:
    """What the log makes of one event of a kind: seconds and bytes."""

    def measure(tasks: int, folder: Path, rounds: int) -> Costs:
        events: list[BaseModel] = []
        spec, data = loaded(folder, tasks=tasks, model=LSTM, samples=256)
        Trainer(spec, data).run(events.append, lambda: None, lambda: False)
        event = next(event for event in events if isinstance(event, kind))
        lines: list[str] = []
        journal = EventLog("scale", [lambda _, line: lines.append(line)])
        found = cost(lambda: journal.emit(event), rounds, times=20)
        return {"seconds": found["seconds"], "bytes": len(lines[-1])}

    return measure


def state_of_tasks(tasks: int, folder: Path, rounds: int) -> Costs:
    training = Trainer(*loaded(folder, tasks=tasks, model=LSTM))
    found = cost(lambda: training.state(), rounds)
    tensors, _ = training.state()
    return {"seconds": found["seconds"], "bytes": sum(x.nbytes for x in tensors.values())}


def _step(folder: Path, rounds: int, **sizes: Any) -> Costs:
    """A step with its batch and its record."""
    taken: list[float] = []
    batch = sizes.get("batch", BATCH)

    def act() -> None:
        training = Trainer(*loaded(folder, **sizes))
        at: list[float] = []

        def stopping() -> bool:
            at.append(time.process_time())
            return len(at) == 1 + WARM_UP + TAKEN

        with suppress(Interrupted):
            training.run(lambda _: None, lambda: None, stopping)
        taken.extend(after - before for before, after in pairwise(at[WARM_UP:]))

    assert sizes.get("samples", 2048) * 0.8 >= batch * (1 + WARM_UP + TAKEN)
    found = cost(act, rounds)
    return {"seconds": statistics.median(taken), "memory": found["memory"]}


OF_WINDOW: dict[str, Measure] = {
    "a step, LSTM": step_of_window(LSTM),
    "a step, convolutions": step_of_window(CONVOLUTIONS),
    "a step, transformer": step_of_window(TRANSFORMER),
}
OF_TASKS: dict[str, Measure] = {
    "a step": step_of_tasks,
    "start: load, trivial predictions, network": start_of_tasks,
    "evaluation, metrics, skills": evaluation_of_tasks,
    "a step's event": record_of_tasks(Step),
    "an epoch's event": record_of_tasks(Epoch),
    "a checkpoint's state": state_of_tasks,
}
OF_LAYERS: dict[str, Measure] = {
    "a step, mlp": step_of_layers(lambda n: {"kind": "mlp", "hidden": [64] * n}),
    "a step, transformer": step_of_layers(lambda n: TRANSFORMER | {"layers": n}),
}
OF_DILATIONS: dict[str, Measure] = {
    "a step, convolutions": step_of_layers(
        lambda n: {"kind": "conv1d", "layers": n, "width": 16, "projection": 16}
    ),
}
