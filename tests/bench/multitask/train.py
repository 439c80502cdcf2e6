"""One training run of a spec within this process, by the product's own loader and loop."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from job.data.dataset import load
from job.events import Epoch, FinalTest
from job.spec import JobSpec
from job.train.ledger import NotFinite
from job.train.trainer import Trainer

Line = dict[str, Any]


class Clock:
    """CPU time of the steps, from its being called after each."""

    def __init__(self, per_epoch: int) -> None:
        self.per_epoch = per_epoch
        """Steps of an epoch."""
        self.times: list[float] = []

    def __call__(self) -> bool:
        """A step has ended, and the run goes on."""
        self.times.append(time.process_time())
        return False

    @property
    def ms(self) -> float | None:
        """Mean milliseconds of a step, the first of each epoch left out: evaluation precedes it."""
        steps = range(1, len(self.times))
        taken = [self.times[i] - self.times[i - 1] for i in steps if i % self.per_epoch]
        return round(1e3 * statistics.fmean(taken), 3) if taken else None


def train(spec: JobSpec, folder: Path) -> Line:
    """The run's line: by task, its metric where nothing was trained or chosen."""
    torch.set_num_threads(1)
    began, seen = time.process_time(), list[Epoch | FinalTest]()

    def emit(event: BaseModel) -> None:
        if isinstance(event, Epoch | FinalTest):
            seen.append(event)

    trainer, error = Trainer(spec, load(spec, folder)), None
    clock = Clock(trainer.batches_per_epoch)
    try:
        trainer.run(emit, save=lambda: None, stopping=clock)
    except NotFinite as fault:
        error = str(fault)
    seconds = round(time.process_time() - began, 2)
    line: Line = {"metrics": {}, "ms": clock.ms, "seconds": seconds}
    return line | ({"metrics": _metrics(spec, seen)} if error is None else {"error": error})


def _metrics(spec: JobSpec, seen: list[Epoch | FinalTest]) -> dict[str, float | None]:
    """By task, its first metric: of the test split, or of validation at the end without one."""
    last = [event for event in seen if isinstance(event, Epoch)][-1]
    test = next((event for event in seen if isinstance(event, FinalTest)), None)
    return {
        task.name: rounded(
            (test.tasks[task.name].metrics if test else last.tasks[task.name].val_metrics)[
                task.built_in_metrics[0]
            ]
        )
        for task in spec.tasks
    }


def rounded(value: float | None) -> float | None:
    """Six digits, as the results are kept; None for what is no number."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
