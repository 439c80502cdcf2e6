"""The table's arithmetic: Δm of a run, its interval over seeds, and differences by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from job.model.skill import student_t

CONFIDENCE = 0.95
Metrics = Mapping[str, float]
"""By task."""


class Interval(NamedTuple):
    """A mean over seeds, and how far its 95 % interval reaches on either side."""

    mean: float
    around: float
    seeds: int

    @property
    def off_zero(self) -> bool:
        """Whether 0 lies outside."""
        return abs(self.mean) > self.around


def delta_m(metrics: Metrics, alone: Metrics, higher: Mapping[str, bool]) -> float:
    """Δm in percent (Maninis et al. 2019): the mean over the tasks of (−1)^l (M − M₁) / M₁.

    M is the metric of the task, M₁ that of its single-task network, l = 1 if lower is better. So
    above 0 is better than the single-task networks; Liu et al. 2021 write it with the other sign.
    """
    parts = [
        (1 if higher[task] else -1) * (metrics[task] - alone[task]) / alone[task] for task in alone
    ]
    return 100 * statistics.fmean(parts)


def interval(values: Sequence[float], of: int = 1) -> Interval:
    """Student's 95 % interval of the mean of a value for each seed.

    of: how many such intervals are read together (Bonferroni). With one seed it has no end.
    """
    count = len(values)
    if count < 2:
        return Interval(values[0] if values else math.nan, math.inf, count)
    t = student_t(1 - (1 - CONFIDENCE) / of, count - 1)
    return Interval(
        statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(count), count
    )


def difference(mine: Mapping[int, float], other: Mapping[int, float], of: int = 1) -> Interval:
    """The interval of `mine` less `other`, paired by the seeds that both have."""
    return interval([mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())], of)
