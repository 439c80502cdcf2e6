"""Where a value stands in the data, and the faults of values that must not be there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.data.files import first_faults
from job.errors import Fault

Array = NDArray[Any]
CORRECT = "correct the data"
_MOST_VALUES = 3
"""Different wrong values that are reported one by one."""


class Place(NamedTuple):
    """The place of an array, for messages."""

    path: str
    """JSON path of the task or section."""
    file: str
    row: str
    """Name of a row: `row` of the file, or `window` of its bars."""
    numbers: NDArray[np.int64] | None = None
    """[N] number of each row as a person counts it; None: counted from 0."""

    def at(self, name: str, index: Sequence[int]) -> str:
        """The place of the value with that index [row, …] in the array of that name."""
        row, *inner = index
        row = row if self.numbers is None else self.numbers[row]
        return f"{self.file}, {self.row} {row}, column {name}{inner or ''}"


def not_finite(
    values: Array, name: str, place: Place, may_miss: bool = False, of_nan: str = CORRECT
) -> list[Fault]:
    """The faults of the values [N, …] that are no finite float32.

    may_miss: a NaN is none. of_nan: the remedy for a NaN.
    """
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32))
    if may_miss:
        bad &= ~np.isnan(values)
    rule = "must be a finite number in float32"
    return value_faults(values, bad, name, place, rule, lambda v: of_nan if v != v else CORRECT)


def value_faults(
    values: Array,
    bad: NDArray[np.bool_],
    name: str,
    place: Place,
    rule: str,
    remedy: Callable[[float], str] = lambda value: CORRECT,
) -> list[Fault]:
    """One fault for each different value among the values [N, …] where `bad` [N, …]; of many, one.

    remedy: for a value.
    """
    places = np.flatnonzero(bad)
    _, first, counts = np.unique(values.flat[places], return_index=True, return_counts=True)
    times = dict(zip(places[first].tolist(), counts.tolist(), strict=True))

    def fault_at(i: int, more: str = "") -> Fault:
        more = more or (f", in {times[i]} values" if times[i] > 1 else "")
        found = f"{values.flat[i]}{more}"
        return Fault(place.at(name, index_of(i, values)), found, rule, remedy(values.flat[i]))

    where, rows = f"{place.file}, column {name}", np.array(sorted(times), dtype=np.intp)
    if _MOST_VALUES < len(rows) < bad.size:
        return [fault_at(rows[0], f" and {len(rows) - 1} other numbers, in {counts.sum()} values")]
    return first_faults(where, rows, bad.size, fault_at, "values")


def index_of(i: int, values: Array) -> list[int]:
    """The index [row, …] of the i-th value of an array, counted along its last axis first."""
    return [int(j) for j in np.unravel_index(i, values.shape)]
