"""The unit of a task's loss, which is not always that of its target."""

from __future__ import annotations

from job.spec import CATEGORICAL

COMPOUND = frozenset(" */·^²³-")
"""What makes a unit one of several parts."""


def loss_unit(kind: str, unit: str) -> str:
    """Of a loss of that kind, in original units, on a target in `unit`; "" where that has none.

    Cross-entropies are in nats, whatever their target is called; `mse` is in the target's unit
    squared.
    """
    if kind in CATEGORICAL:
        return "nats"
    if kind != "mse" or not unit:
        return unit
    return f"({unit})²" if COMPOUND & set(unit) else f"{unit}²"
