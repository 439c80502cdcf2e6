"""A small job on arrays that trains in a second: 36 training samples, batches of 8, 4 tasks."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from job.data.dataset import Dataset, load
from job.events import Epoch, GateResult, Step
from job.spec import JobSpec
from job.spec.read import parse_spec
from job.train.trainer import Interrupted, Trainer

TRAIN, VALIDATION, STEPS = 36, 9, 5
"""Training samples, validation samples, optimizer steps per epoch."""

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"kind": "arrays", "path": "small.npz", "scale": "none", "split": "tail"},
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
"""A task whose gradient underflows, as does the loss of its best constant, since its targets hardly
vary: ratio and skill are not finite."""
RISING = {
    "name": "rising",
    "level": "step",
    "outputs": 2,
    "loss": {"kind": "binary_cross_entropy"},
}
"""A task of two 0/1 outputs."""
HUGE = {"name": "huge", "level": "window", "loss": {"kind": "mse"}}
"""A task with one training target that overflows the squared error."""
HUGE_SAMPLE = 17
PARTIAL = [
    task | {"target": f"some_{task['name']}", "missing": "skip"} | more
    for task, more in zip(
        SMALL["tasks"],
        ({"class_weight": "balanced"}, {"sample_weight": "importance"}, {}, {}),
        strict=True,
    )
]
"""SMALL's tasks with missing labels: some batches have none of `kind` and `down`; `pair` lacks
whole samples and single elements; some samples have the weight 0 for `level`."""


def write(folder: Path, edits: dict[str, Any] | None = None, name: str = "spec.json") -> Path:
    """The data, and SMALL with edits by dotted path (`train.epochs`); returns the spec's path."""
    random = np.random.default_rng(0)
    n = TRAIN + VALIDATION
    x = random.normal(size=(n, 6, 3)).astype("f4")
    kind, level = (x[:, :, 0].mean(1) > 0).astype("i8"), x.mean((1, 2))[:, None] * 40 + 5
    down, pair = np.cumsum(x[:, :, 1:2], 1), x[:, :, :2] ** 2
    draw = np.random.default_rng(1)
    rare = np.arange(n) % 7 == 2
    huge = np.zeros((n, 1))
    huge[HUGE_SAMPLE] = 1e30
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "small.npz",
        features=x,
        index=np.arange(n),
        kind=kind,
        level=level,
        down=down,
        pair=pair,
        some_kind=np.where(rare, kind, -1),
        some_level=np.where(draw.random(level.shape) < 0.7, level, np.nan),
        some_down=np.where(rare[:, None, None] & (draw.random(down.shape) < 0.7), down, np.nan),
        some_pair=np.where(
            (draw.random((n, 1, 1)) < 0.6) & (draw.random(pair.shape) < 0.6), pair, np.nan
        ),
        importance=draw.integers(0, 4, n),
        dead=1e-10 * x[:, :, 2:],
        huge=huge,
        rising=(x[:, :, :2] > 0.3).astype("f4"),
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
    """A Trainer with what it emitted and saved."""

    def __init__(self, spec: JobSpec, data: Dataset) -> None:
        self.training = Trainer(spec, data)
        self.events: list[Any] = []
        self.saved: list[State] = []

    def run(self, stop_at: int | None = None) -> bool:
        """Train to the end, or until a number of steps; returns True if it ended."""
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
    """A Trainer's state as the store would return it: tensors copied, JSON as text."""

    def __init__(self, training: Trainer) -> None:
        tensors, values = training.state()
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.values = json.dumps(values, allow_nan=False)
        self.step = training.at.step

    def into(self, training: Trainer) -> None:
        """Restore it."""
        training.restore(self.tensors, json.loads(self.values))


def weights(training: Trainer) -> dict[str, torch.Tensor]:
    """The network's parameters."""
    return {name: p.detach().clone() for name, p in training.stepper.model.named_parameters()}


def job(folder: Path, edits: dict[str, Any] | None = None) -> tuple[JobSpec, Dataset]:
    """The spec and its data, without a spec file; the data must be in the folder."""
    spec = parse_spec(json.dumps(edited(edits or {})))
    return spec, load(spec, folder, test=True)


def saved_weights(training: Trainer, path: Path, **changes: torch.Tensor) -> dict[str, Any]:
    """Write tensors as a run's model.safetensors has them; returns the section `model.weights`."""
    tensors = State(training).tensors
    model = {n: t.contiguous() for n, t in tensors.items() if n.startswith(("model.", "losses."))}
    safetensors.torch.save_file(model | changes, path)
    return {"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
