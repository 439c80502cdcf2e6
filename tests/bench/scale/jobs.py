"""Jobs of any number of samples, steps, tasks and layers, on made-up data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from job.data.dataset import Dataset, load
from job.spec import JobSpec
from job.spec.read import parse_spec

FEATURES = 8
TASKS: list[dict[str, Any]] = [
    {"target": "kind", "level": "window", "outputs": 3, "loss": {"kind": "cross_entropy"}},
    {"target": "level", "level": "window", "outputs": 2, "loss": {"kind": "huber"}},
    {"target": "up", "level": "step", "loss": {"kind": "binary_cross_entropy"}},
    {"target": "sum", "level": "step", "loss": {"kind": "mse"}},
]
"""Of K tasks these four in turn, on the same targets."""
MLP = {"kind": "mlp", "hidden": [32]}


def job(
    folder: Path,
    samples: int = 2048,
    steps: int = 16,
    tasks: int = 4,
    model: dict[str, Any] = MLP,
    batch: int = 32,
    validation: float = 0.2,
) -> JobSpec:
    """A job whose data are in the folder."""
    path = folder / f"{samples}-{steps}.npz"
    if not path.exists():
        _write(path, samples, steps)
    # An mlp has one position, so that it takes no task of steps.
    kinds = TASKS[:2] if model["kind"] == "mlp" else TASKS
    values = {
        "name": "scale",
        "data": {"kind": "arrays", "path": path.name, "validation": validation},
        "model": model,
        "tasks": [{"name": f"task_{k}", **kinds[k % len(kinds)]} for k in range(tasks)],
        "train": {"epochs": 1, "batch_size": batch, "device": "cpu", "threads": 1},
        "log": {"every": 1, "audit_every": 0},
    }
    return parse_spec(json.dumps(values))


def loaded(folder: Path, **sizes: Any) -> tuple[JobSpec, Dataset]:
    """A job and its data."""
    spec = job(folder, **sizes)
    return spec, load(spec, folder)


def table(folder: Path, samples: int) -> JobSpec:
    """A job on a CSV table of numbers and categories."""
    path = folder / f"{samples}.csv"
    if not path.exists():
        draw = np.random.default_rng(0)
        x = draw.normal(size=(samples, FEATURES))
        place = draw.integers(0, 20, samples)
        names = [f"x{k}" for k in range(FEATURES)]
        with path.open("w") as file:
            file.write(",".join([*names, "place", "y"]) + "\n")
            for row, at in zip(x, place, strict=True):
                numbers = ",".join(f"{value:.6f}" for value in row)
                file.write(f"{numbers},place_{at},{row.sum():.6f}\n")
    values = {
        "name": "table",
        "data": {
            "kind": "arrays",
            "path": path.name,
            "features": [*(f"x{k}" for k in range(FEATURES)), "place"],
        },
        "model": MLP,
        "tasks": [{"name": "y", "level": "window", "loss": {"kind": "mse"}}],
        "train": {"epochs": 1, "batch_size": 32, "device": "cpu", "threads": 1},
    }
    return parse_spec(json.dumps(values))


def _write(path: Path, samples: int, steps: int) -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(samples, steps, FEATURES)).astype("f4")
    np.savez(
        path,
        features=x,
        kind=np.digitize(x[:, :, 0].mean(1), [-0.1, 0.1]),
        level=x[:, :, :2].mean(1),
        up=(x[:, :, :1] > 0).astype("f4"),
        sum=x[:, :, 1:2].cumsum(1),
    )
