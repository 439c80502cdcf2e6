"""Many values in few columns, as many as a screen has: the least, greatest and mean of each column.

A spike of one step stays visible, however many steps share its column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Value = float | None
"""None: not finite, or not recorded."""


class Downsampler:
    """Rows of values by position (a step, an epoch), reduced to columns as they come.

    Rows must come in order, upwards or downwards; only those of one column are held at a time.
    """

    def __init__(self, last: int, most: int) -> None:
        """last: positions are 1 … last; most: columns at most."""
        self.width = -(-last // most)
        """Positions in a column."""
        self.count = -(-last // self.width)
        self._done: dict[int, list[tuple[Value, Value, Value]]] = {}
        self._rows: list[Sequence[Value]] = []
        self._column = -1

    def add(self, position: int, row: Sequence[Value]) -> None:
        """Add the values of one position; every row has the same ones."""
        column = (position - 1) // self.width
        if column != self._column:
            self._reduce()
            self._column = column
        self._rows.append(row)

    def series(self) -> list[dict[str, list[Value]]]:
        """By place in a row: `mean`, and `low` and `high` if a column holds several positions.

        Lists of `count` values; None in a column without a value.
        """
        self._reduce()
        size = len(next(iter(self._done.values()), ()))
        names = ("low", "high", "mean") if self.width > 1 else ("", "", "mean")
        return [
            {
                name: [self._done[c][i][k] if c in self._done else None for c in range(self.count)]
                for k, name in enumerate(names)
                if name
            }
            for i in range(size)
        ]

    def _reduce(self) -> None:
        if self._rows:
            self._done[self._column] = [
                _low_high_mean(values) for values in zip(*self._rows, strict=True)
            ]
        self._rows = []


def _low_high_mean(values: Sequence[Any]) -> tuple[Value, Value, Value]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    known = [value for value in values if value is not None] if None in values else values
    if not known:
        return None, None, None
    mean = sum(known) / len(known)
    return min(known), max(known), float(f"{mean:.5g}") if math.isfinite(mean) else None
