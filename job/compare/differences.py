"""Paired differences between compared rows, and which of them are more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from job.compare.outcome import Outcome
from job.model.skill import CONFIDENCE, student_t
from job.show.format import counted

MEASURES = {"val_skill": "validation skill", "drop": "drop"}
"""What is compared: field of an epoch's task, and its name for people."""
LEAST_SEEDS = 3
"""Seeds that a difference needs; two leave its error all but unknown."""


class Difference(NamedTuple):
    """The mean of a row's value minus the first row's, over the seeds that both rows ended."""

    row: str
    task: str
    measure: str
    """A key of MEASURES."""
    seeds: int
    mean: float
    low: float
    """Lower end of its 95 % interval (Student's t, paired by seed)."""
    high: float
    certain: bool
    """True if even an interval that holds for all differences of a table together, each at a level
    of 5 % over their number (Bonferroni), does not reach 0."""


def paired_differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Each row's differences to the first row, by task and measure; outcomes: row after row."""
    rows = list(dict.fromkeys(outcome.variant for outcome in outcomes))
    found = [
        (row, task, measure, values)
        for measure in MEASURES
        for row in rows[1:]
        for task, values in _pairs(outcomes, rows[0], row, measure).items()
        if len(values) >= LEAST_SEEDS
    ]
    return [_difference(*each, of=len(found)) for each in found]


def _difference(row: str, task: str, measure: str, values: list[float], of: int) -> Difference:
    mean, count = statistics.fmean(values), len(values)
    error = statistics.stdev(values) / math.sqrt(count)
    around = student_t(CONFIDENCE, count - 1) * error
    beyond = student_t(1 - (1 - CONFIDENCE) / of, count - 1) * error
    certain = abs(mean) > beyond
    return Difference(row, task, measure, count, mean, mean - around, mean + around, certain)


def _pairs(
    outcomes: Sequence[Outcome], first: str, row: str, measure: str
) -> dict[str, list[float]]:
    """By task, the differences of the seeds on which both rows have a finite value at the end."""
    before, after = _ends(outcomes, first, measure), _ends(outcomes, row, measure)
    pairs: dict[str, list[float]] = {}
    for key, value in after.items():
        if key in before:
            pairs.setdefault(key[1], []).append(value - before[key])
    return pairs


def _ends(outcomes: Sequence[Outcome], row: str, measure: str) -> dict[tuple[int, str], float]:
    return {
        (run.seed, name): value
        for run in outcomes
        if run.variant == row and run.error is None
        for name, task in run.epochs[-1].tasks.items()
        if (value := getattr(task, measure)) is not None and math.isfinite(value)
    }


def in_words(differences: Sequence[Difference], first: str) -> list[str]:
    """A line for each difference beyond chance, or one that says that there is none."""
    if not differences:
        return []
    lines = [
        f"{each.row} beside {first}: {each.task}: {MEASURES[each.measure]} "
        f"{100 * each.mean:+.1f} points, 95% interval {100 * each.low:+.1f} to "
        f"{100 * each.high:+.1f}, {counted(each.seeds, 'seed')}"
        for each in differences
        if each.certain
    ]
    return lines or [f"nothing differs from {first} beyond chance"]
