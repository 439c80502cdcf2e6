"""A job on a table of people: categories, gaps, patterns of columns, targets of texts."""

from __future__ import annotations

from typing import Any

import numpy as np

Line = dict[str, Any]

PEOPLE: Line = {
    "name": "people",
    "data": {
        "kind": "arrays",
        "path": "people.csv",
        "features": ["city", "age", "sensor_*"],
        "missing": "indicator",
        "validation": 0.25,
    },
    "model": {"kind": "mlp", "hidden": [8], "projection": 4},
    "tasks": [
        {"name": "risk", "level": "sample", "outputs": 3, "loss": {"kind": "cross_entropy"}},
        {"name": "ill", "level": "sample", "loss": {"kind": "binary_cross_entropy"}},
        {
            "name": "income",
            "level": "sample",
            "loss": {"kind": "quantile", "levels": [0.1, 0.5, 0.9]},
            "transform": {"kind": "standardize"},
        },
    ],
    "train": {"epochs": 4, "batch_size": 16, "threads": 1},
    "gates": [
        {"task": "risk", "skill": 0.1, "by_epoch": 4},
        {"task": "income", "metric": "mae", "above": 0, "by_epoch": 4},
        {"task": "income", "drop": 0.0, "by_epoch": 4},
    ],
}
N = 120


def people() -> dict[str, list[Any]]:
    draw = np.random.default_rng(3)
    age = draw.integers(18, 80, N)
    city = draw.choice(["Bern", "Oslo", "Rome"], N)
    risk = np.select([age > 60, age > 40], ["high", "mid"], "low")
    return {
        "city": city.tolist(),
        "age": [None if k % 11 == 3 else int(a) for k, a in enumerate(age)],
        "sensor_1": draw.normal(size=N).tolist(),
        "sensor_2": draw.normal(size=N).tolist(),
        "risk": risk.tolist(),
        "ill": np.where(age + draw.normal(size=N) * 9 > 50, "yes", "no").tolist(),
        "income": (1000 * age + draw.normal(size=N)).tolist(),
        "person": [f"{k:04}" for k in range(N)],
    }
