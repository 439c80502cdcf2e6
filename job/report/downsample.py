"""Many values in few columns, as many as a screen has: the least, greatest and mean of each column.

A spike of one step stays visible, however many steps share its column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Value = float | None
"""None: not finite, or not recorded."""
ROWS = 1000
"""Rows that are held at a time."""


class _Spread:
    """The least, the greatest and the mean of the values at one place of many rows."""

    __slots__ = ("count", "high", "low", "sum")

    def __init__(self) -> None:
        self.low, self.high, self.sum, self.count = math.inf, -math.inf, 0.0, 0

    def take(self, values: Sequence[Any]) -> None:
        """Take in the values of some rows."""
        known = [value for value in values if value is not None] if None in values else values
        if known:
            self.low, self.high = min(self.low, min(known)), max(self.high, max(known))
            self.sum += sum(known)
            self.count += len(known)

    def values(self) -> tuple[Value, Value, Value]:
        """Least, greatest and mean; the mean has 5 digits if it is of several values."""
        if self.count <= 1:
            only = self.low if self.count else None
            return only, only, only
        mean = self.sum / self.count
        return self.low, self.high, float(f"{mean:.5g}") if math.isfinite(mean) else None


class Downsampler:
    """Rows of values by position (a step, an epoch), reduced to columns as they come.

    Rows must come in order, upwards or downwards. However many share a column, memory holds the
    columns and ROWS rows.
    """

    def __init__(self, last: int, most: int) -> None:
        """last: positions are 1 … last; most: columns at most."""
        self.width = -(-last // most)
        """Positions in a column."""
        self.count = -(-last // self.width)
        self._done: dict[int, list[tuple[Value, Value, Value]]] = {}
        self._rows: list[Sequence[Value]] = []
        self._spreads: list[_Spread] = []
        """Of the column under way, by place in a row; empty before its first rows are taken in."""
        self._column = -1

    def add(self, position: int, row: Sequence[Value]) -> None:
        """Add the values of one position; every row has the same ones."""
        column = (position - 1) // self.width
        if column != self._column:
            self._end_column()
            self._column = column
        self._rows.append(row)
        if len(self._rows) == ROWS:
            self._take_rows()

    def series(self) -> list[dict[str, list[Value]]]:
        """By place in a row: `mean`, and `low` and `high` if a column holds several positions.

        Lists of `count` values; None in a column without a value.
        """
        self._end_column()
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

    def _take_rows(self) -> None:
        self._spreads = self._spreads or [_Spread() for _ in self._rows[0]]
        for spread, values in zip(self._spreads, zip(*self._rows, strict=True), strict=True):
            spread.take(values)
        self._rows = []

    def _end_column(self) -> None:
        if self._rows:
            self._take_rows()
        if self._spreads:
            self._done[self._column] = [spread.values() for spread in self._spreads]
        self._spreads = []
