"""A spec with most of the fields that a spec can have, and edits of it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from job.errors import InputError
from job.spec.faults.strict_json import Steps
from job.spec.read import parse_spec

FULL: dict[str, Any] = {
    "name": "full-spec",
    "seed": 3,
    "data": {"kind": "ohlc_windows", "path": "bars.csv", "window": 105, "search": [30, 74]},
    "model": {"kind": "jade", "hidden": 8, "dropout": {"input": 0.1}},
    "tasks": [
        {"name": "type", "level": "window", "outputs": 3, "loss": {"kind": "cross_entropy"}},
        {
            "name": "countdown",
            "level": "step",
            "loss": {"kind": "huber", "delta": 1},
            "transform": {"kind": "scale", "by": 20.0},
            "unit": "bars",
        },
    ],
    "balance": {"kind": "running_mean", "weights": {"type": 1, "countdown": 2.5}},
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.99]},
    "train": {"epochs": 8, "batch_size": 32, "early_stop": {"task": "*"}},
    "checkpoint": {"best_of": "type"},
    "gates": [
        {"task": "countdown", "drop": 0.2, "by_epoch": 5},
        {"task": "type", "skill": 0, "by_epoch": 8, "split": "validation"},
        {"ratio": ["countdown", "type"], "between": [0.3, 3]},
    ],
    "resources": {"gpu": ["NVIDIA L4"], "max_price_per_hour": 1, "max_hours": 0.5},
}
TORCHJD = {"kind": "torchjd", "method": "CAGrad", "options": {"c": 0.5}}


def edited(where: Steps, value: Any) -> dict[str, Any]:
    """FULL with one value set."""
    spec = copy.deepcopy(FULL)
    inner: Any = spec
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    return spec


def without(*where: str | int) -> dict[str, Any]:
    """FULL with one key or item taken out."""
    spec = copy.deepcopy(FULL)
    inner: Any = spec
    for step in where[:-1]:
        inner = inner[step]
    del inner[where[-1]]
    return spec


def lines(spec: Any) -> list[str]:
    """The lines of the faults of a spec, which must be invalid."""
    text = spec if isinstance(spec, str) else json.dumps(spec)
    with pytest.raises(InputError) as caught:
        parse_spec(text, "my.json")
    return str(caught.value).split("\n")


def replaced(spec: Any, where: Steps, value: Any) -> Any:
    """A copy of a JSON value with one value in it replaced."""
    if not where:
        return value
    spec = copy.copy(spec)
    spec[where[0]] = replaced(spec[where[0]], where[1:], value)
    return spec
