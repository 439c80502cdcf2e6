"""Values in columns: what a column shows of its positions, and what memory holds meanwhile."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest

from job.report.downsample import ROWS, Downsampler, Value


class Row(list[Value]):
    """A row that counts how many of its kind there are."""

    alive: ClassVar[int] = 0

    def __init__(self, *values: Value) -> None:
        super().__init__(values)
        Row.alive += 1

    def __del__(self) -> None:
        Row.alive -= 1


@pytest.mark.parametrize("down", [False, True])
def test_a_column_of_any_width(down: bool) -> None:
    """Its least, greatest and mean are those of all its positions, more than are held at a time."""
    last = 3 * ROWS + 17
    steps = range(last, 0, -1) if down else range(1, last + 1)
    reduced = Downsampler(last, 2)
    for step in steps:
        reduced.add(step, [math.sin(step), None if step % 2 else float(step), None])
    of_sines, of_even, of_none = reduced.series()
    halves = [range(1, reduced.width + 1), range(reduced.width + 1, last + 1)]
    assert of_sines["low"] == [min(map(math.sin, half)) for half in halves]
    assert of_sines["high"] == [max(map(math.sin, half)) for half in halves]
    even = [[step for step in half if step % 2 == 0] for half in halves]
    means = [sum(each) / len(each) for each in even]
    assert of_even["mean"] == pytest.approx(means, rel=1e-4)
    assert [of_even["low"], of_even["high"]] == [[*map(min, even)], [*map(max, even)]]
    assert set(of_none) == {"low", "high", "mean"}
    assert of_none["mean"] == [None, None]


def test_memory_does_not_grow_with_the_run() -> None:
    """However many steps share a column, some rows are held and no more."""
    most = 0
    reduced = Downsampler(20 * ROWS, 2)
    for step in range(1, 20 * ROWS + 1):
        reduced.add(step, Row(float(step)))
        most = max(most, Row.alive)
    assert most <= ROWS
