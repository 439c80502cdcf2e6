"""How a cost grows with a size: the exponent, its error, and whether the work explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SLACK = 0.15
"""Exponents of costs in caches and in memory lie so far above that of the work."""


class Growth(NamedTuple):
    """cost ~ size ** exponent."""

    exponent: float
    error: float
    """Its standard error."""
    last: float
    """Between the two largest sizes."""

    def faster_than(self, work: float) -> bool:
        """True if the cost grows clearly faster than size ** work."""
        return max(self.exponent - 2 * self.error, self.last - SLACK) > work + SLACK


def growth(sizes: Sequence[float], costs: Sequence[float]) -> Growth | None:
    """The growth of positive costs over at least three sizes; None if there are fewer."""
    if len(sizes) < 3 or min(costs) <= 0:
        return None
    x, y = np.log(sizes), np.log(costs)
    away = x - x.mean()
    slope = float(away @ y / (away @ away))
    rest = y - y.mean() - slope * away
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(away @ away))
    return Growth(slope, error, float((y[-1] - y[-2]) / (x[-1] - x[-2])))
