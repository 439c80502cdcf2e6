"""A small job on arrays that trains in a blink: 36 training samples, batches of 8, 4 tasks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from job.data import Dataset, load
from job.events import Epoch, GateResult, Step
from job.read_spec import parse_spec
from job.spec import JobSpec
from job.train import Interrupted, Training

TRAIN, VALIDATION, STEPS = 36, 9, 5
"""Training samples, validation samples, optimizer steps an epoch."""

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"kind": "arrays", "path": "small.npz"},
    "model": {"hidden": 4, "projection": 4},
    "tasks": [
        {"name": "kind", "level": "window", "outputs": 2, "loss": {"kind": "cross_entropy"}},
        {
            "name": "level",
            "level": "window",
            "loss": {"kind": "mse"},
            "transform": {"kind": "standardize"},
            "unit": "€",
        },
        {"name": "down", "level": "step", "loss": {"kind": "huber"}},
        {"name": "pair", "level": "step", "outputs": 2, "loss": {"kind": "mae"}},
    ],
    "train": {"epochs": 3, "batch_size": 8, "threads": 1},
    "log": {"every": 4, "audit_every": 3},
}
DEAD = {"name": "dead", "level": "step", "loss": {"kind": "huber", "delta": 1e-38}}
"""A task whose gradient underflows, and whose best constant has no loss: ratio and skill are not
finite."""
HUGE = {"name": "huge", "level": "window", "loss": {"kind": "mse"}}
"""A task with one training target that overflows the squared error."""
HUGE_SAMPLE = 17


def write(folder: Path, edits: dict[str, Any] | None = None, name: str = "spec.json") -> Path:
    """The data, and SMALL with edits by dotted path (`train.epochs`); returns the spec's path."""
    random = np.random.default_rng(0)
    n = TRAIN + VALIDATION
    x = random.normal(size=(n, 6, 3)).astype("f4")
    huge = np.zeros((n, 1))
    huge[HUGE_SAMPLE] = 1e30
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "small.npz",
        features=x,
        index=np.arange(n),
        kind=(x[:, :, 0].mean(1) > 0).astype("i8"),
        level=x.mean((1, 2))[:, None] * 40 + 5,
        down=np.cumsum(x[:, :, 1:2], 1),
        pair=x[:, :, :2] ** 2,
        dead=np.full((n, 6, 1), -5.0),
        huge=huge,
    )
    path = folder / name
    path.write_text(json.dumps(edited(edits or {})))
    return path


def edited(edits: dict[str, Any]) -> dict[str, Any]:
    """SMALL with values set by dotted path."""
    spec = copy.deepcopy(SMALL)
    for where, value in edits.items():
        *sections, last = where.split(".")
        inner = spec
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return spec


class Trained:
    """A Training with what it emitted and saved."""

    def __init__(self, spec: JobSpec, data: Dataset) -> None:
        self.training = Training(spec, data)
        self.events: list[Any] = []
        self.saved: list[State] = []

    def run(self, stop_at: int | None = None) -> bool:
        """Train to the end, or until so many steps are taken; returns whether it ended."""
        try:
            self.training.run(
                self.events.append,
                lambda: self.saved.append(State(self.training)),
                lambda: stop_at is not None and self.training.at.step >= stop_at,
            )
        except Interrupted:
            return False
        return True

    @property
    def steps(self) -> list[Step]:
        return [e for e in self.events if isinstance(e, Step)]

    @property
    def epochs(self) -> list[Epoch]:
        return [e for e in self.events if isinstance(e, Epoch)]

    @property
    def gates(self) -> list[GateResult]:
        return [e for e in self.events if isinstance(e, GateResult)]


class State:
    """What a Training's state is after a way through the store: tensors copied, JSON as text."""

    def __init__(self, training: Training) -> None:
        tensors, values = training.state()
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.values = json.dumps(values, allow_nan=False)
        self.step = training.at.step

    def into(self, training: Training) -> None:
        """Restore it."""
        training.restore(self.tensors, json.loads(self.values))


def weights(training: Training) -> dict[str, torch.Tensor]:
    """The network's parameters."""
    return {name: p.detach().clone() for name, p in training.stepper.model.named_parameters()}


def job(folder: Path, edits: dict[str, Any] | None = None) -> tuple[JobSpec, Dataset]:
    """The spec and its data, without a spec file; the data must be in the folder."""
    spec = parse_spec(json.dumps(edited(edits or {})))
    return spec, load(spec, folder)
