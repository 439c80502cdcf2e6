"""A peer's balancer that starves a task without a word, and what this program says of the same run.

Ludwig 0.17.8 offers `trainer.loss_balancing: nash_mtl`, described as the Nash bargaining solution
of Navon et al. 2022. That solution follows from the tasks' gradients; Ludwig's class reads none.
Its weights are |v_k|, 1/K at the start, and after each step v ← 0.9 v + 0.1 u with
u_k = (1 / L_k) / Σ_j (1 / L_j), from losses in whatever units the targets have. As v are parameters
of the model, the optimizer trains them besides, by the gradient L_k. Number targets stay in their
units unless a configuration says otherwise, and nothing says what a task gets.

The setting: targets in their units, initialisation by torch, Adam at 0.001, as Ludwig has them by
default, on windows of prices. `pointers` are shares of a window, so that their loss is small from
the start; `countdown` is in bars.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from job.balance.base import Balancer
from job.data.dataset import load
from job.events import Alarm, Epoch
from job.spec import JobSpec
from job.train.trainer import Trainer
from tests.bench.multitask.methods import NASH
from tests.bench.multitask.problems import Json, parsed
from tests.bench.multitask.train import rounded

FOLDER = Path(__file__).parents[3] / "docker"
LUDWIG = "Ludwig's nash_mtl"


def _task(name: str, level: str, outputs: int, loss: str, unit: str = "") -> Json:
    return {
        "name": name,
        "level": level,
        "outputs": outputs,
        "loss": {"kind": loss},
        "unit": unit,
    }


SPEC: Json = {
    "name": "starved",
    "data": {
        "kind": "ohlc_windows",
        "path": "nasdaq.csv.gz",
        "date_format": "%m/%d/%Y",
        "windows": 800,
    },
    "model": {
        "kind": "lstm",
        "hidden": 32,
        "projection": 32,
        "dropout": {"input": 0.1, "heads": 0.2},
        "init": {"lstm": "default", "heads": "default"},
    },
    "tasks": [
        _task("type", "window", 3, "cross_entropy"),
        _task("pointers", "window", 2, "huber", "windows"),
        _task("binary", "step", 1, "binary_cross_entropy"),
        _task("countdown", "step", 1, "huber", "bars"),
    ],
    "optimizer": {"kind": "adam", "lr": 0.001},
    "train": {"epochs": 8, "batch_size": 32, "device": "cpu", "threads": 1, "evaluate": 512},
    "log": {"audit_every": 0},
}
WEIGHTINGS: dict[str, Json] = {
    LUDWIG: {"balance": {"kind": "fixed"}},
    "Nash-MTL": {"balance": NASH},
    "gradient_norm": {"balance": {"kind": "gradient_norm"}},
    "plain sum": {"balance": {"kind": "fixed"}},
}


class InverseLoss(Balancer):
    """The weights |v_k| of the module's docstring, the previous batch's losses behind them."""

    previous: Tensor

    def __init__(self, tasks: int, rate: float = 0.1) -> None:
        super().__init__(tasks)
        self.rate = rate
        self.learned = nn.Parameter(torch.full((tasks,), 1 / tasks))
        self.register_buffer("previous", torch.zeros(tasks))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights before this step; the losses are kept for the next."""
        if (self.previous > 0).any():
            inverse = 1 / (self.previous + 1e-8)
            self.learned.lerp_(inverse / inverse.sum(), self.rate)
        self.previous.copy_(losses)
        return self.learned.detach().abs()

    def objective(self, losses: Tensor) -> Tensor:
        """What the optimizer descends, as the weights are parameters: Σ |v_k| L_k."""
        return (self.learned.abs() * losses).sum()


def spec_of(weighting: str, seed: int) -> Json:
    """The spec of a weighting."""
    return SPEC | WEIGHTINGS[weighting] | {"seed": seed}


def train_starved(weighting: str, seed: int, shorter: Json) -> dict[str, Any]:
    """The run's line: by task skill, share of the gradient and weight at the end; and alarms.

    shorter: what its training has in place of the spec's.
    """
    torch.set_num_threads(1)
    raw = spec_of(weighting, seed)
    spec = parsed(raw | {"train": raw["train"] | shorter})
    seen: list[BaseModel] = []
    trainer = _trainer(weighting, spec)
    trainer.run(seen.append, save=lambda: None, stopping=lambda: False)
    ended = [e for e in seen if isinstance(e, Epoch)]
    last = ended[-1].tasks
    steps = [e.step for e in ended]
    return {
        "skills": {name: rounded(task.val_skill) for name, task in last.items()},
        "shares": {name: rounded(task.grad_share) for name, task in last.items()},
        "weights": {name: rounded(task.weight) for name, task in last.items()},
        "alarms": [
            {"kind": e.kind, "task": e.task, "epoch": sum(s < e.step for s in steps) + 1}
            for e in seen
            if isinstance(e, Alarm)
        ],
    }


def _trainer(weighting: str, spec: JobSpec) -> Trainer:
    data = load(spec, FOLDER)
    if weighting != LUDWIG:
        return Trainer(spec, data)
    with patch("job.train.build.parts.balancer", lambda *_: InverseLoss(len(spec.tasks))):
        return Trainer(spec, data)
