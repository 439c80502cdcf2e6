"""One training run of a spec within this process, by the product's own loader and loop."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from job.data.dataset import load
from job.events import Alarm, Epoch, FinalTest
from job.spec import JobSpec
from job.train.ledger import NotFinite
from job.train.trainer import Trainer

Line = dict[str, Any]


class Clock:
    """CPU time of each step: what passes between two calls, evaluation and epochs' ends too."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> bool:
        """A step has ended, and the run goes on."""
        self.times.append(time.process_time())
        return False

    @property
    def ms(self) -> float | None:
        """Milliseconds of the median step, which no epoch ends."""
        taken = sorted(b - a for a, b in zip(self.times, self.times[1:], strict=False))
        return round(1e3 * taken[len(taken) // 2], 3) if taken else None


def train(spec: JobSpec, folder: Path) -> Line:
    """The run's line: by task metric and loss where nothing was trained or chosen, and alarms."""
    torch.set_num_threads(1)
    began, clock, seen = time.process_time(), Clock(), list[BaseModel]()

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch | FinalTest | Alarm):
            seen.append(event)

    trainer = Trainer(spec, load(spec, folder))
    error = None
    try:
        trainer.run(emit, save=lambda: None, stopping=clock)
    except NotFinite as fault:
        error = str(fault)
    return line_of(
        *(spec, seen, clock, error),
        seconds=time.process_time() - began,
    )


def line_of(
    spec: JobSpec, seen: list[BaseModel], clock: Clock, error: str | None, seconds: float
) -> Line:
    """What a run has shown, as its line in the results."""
    alarms = [f"{e.kind} {e.task or ''}".strip() for e in seen if isinstance(e, Alarm)]
    line: Line = {"metrics": {}, "ms": clock.ms, "seconds": round(seconds, 2), "alarms": alarms}
    if error is not None:
        return line | {"error": error}
    epoch = next(e for e in reversed(seen) if isinstance(e, Epoch))
    test = next((e for e in seen if isinstance(e, FinalTest)), None)
    for task in spec.tasks:
        found = test.tasks[task.name].metrics if test else epoch.tasks[task.name].val_metrics
        value = found[task.built_in_metrics[0]]
        line["metrics"][task.name] = None if value is None else rounded(value)
    return line


def rounded(value: float) -> float:
    """Six digits, as the results are kept."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
