"""Every loss, with fields of its own, and tasks of it."""

from __future__ import annotations

from typing import Any

from job import spec
from tests.support.nets import task

LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"kind": "cross_entropy"},
    "smoothed": {"kind": "cross_entropy", "smoothing": 0.1},
    "focal": {"kind": "cross_entropy", "focal": 2.0, "smoothing": 0.1},
    "binary_cross_entropy": {"kind": "binary_cross_entropy"},
    "binary_smoothed": {"kind": "binary_cross_entropy", "smoothing": 0.2},
    "binary_focal": {"kind": "binary_cross_entropy", "focal": 0.5},
    "ordinal": {"kind": "ordinal"},
    "huber": {"kind": "huber", "delta": 0.5},
    "mse": {"kind": "mse"},
    "mae": {"kind": "mae"},
    "quantile": {"kind": "quantile", "levels": (0.1, 0.5, 0.8)},
    "poisson_nll": {"kind": "poisson_nll"},
    "gaussian_nll": {"kind": "gaussian_nll"},
    "ranking": {"kind": "ranking"},
}
"""By a name for the test."""


def task_of(name: str, level: str = "window", outputs: int = 3, **more: Any) -> spec.Task:
    """A task with one of LOSSES."""
    loss = LOSSES[name]
    return task("y", level, loss["kind"], outputs, loss=loss, **more)
