"""Columns of a table as features: numbers as they are, texts as one column for each level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.data.encoding.codes import empties
from job.data.tables.cells import are_dates
from job.errors import Fault, InputError

Array = NDArray[Any]

MOST = 64
"""Levels of a column, at most."""


class Encoding(NamedTuple):
    """How columns become features, as fitted on the training split."""

    columns: tuple[str, ...]
    """In order."""
    levels: dict[str, list[str]]
    """Of each column of texts, sorted."""

    @property
    def names(self) -> tuple[str, ...]:
        """[F] names of the features: of a level `column=level`."""
        return tuple(
            name if level is None else f"{name}={level}"
            for name in self.columns
            for level in self.levels.get(name, [None])
        )

    @property
    def flags(self) -> tuple[bool, ...]:
        """[F] true for a feature that is 1 at a level, else 0."""
        return tuple(
            name in self.levels for name in self.columns for _ in self.levels.get(name, [""])
        )

    def encode(self, columns: Mapping[str, Array]) -> tuple[Array, dict[str, int]]:
        """The features [N, F] of columns [N], and counts of the cells that have no known level.

        At an unknown level and at an empty text, all features of the column are 0.
        """
        parts, skipped = [], {}
        for name in self.columns:
            values = columns[name]
            if name not in self.levels:
                parts.append(values[:, None].astype(np.float64))
                continue
            levels = np.array(self.levels[name], dtype=object)
            flags = values[:, None] == levels
            empty = empties(values)
            for what, bad in (
                (f"texts of {name} that the training split lacks", ~flags.any(1) & ~empty),
                (f"empty texts of {name}", empty),
            ):
                if count := int(bad.sum()):
                    skipped[what] = count
            parts.append(flags.astype(np.float64))
        return np.concatenate(parts, axis=1), skipped


def fit_encoding(columns: Mapping[str, Array], train: NDArray[np.int64], source: str) -> Encoding:
    """The encoding of columns [N] by the levels that the training samples have.

    Raises InputError for a column of texts with no level, or too many.
    """
    levels: dict[str, list[str]] = {}
    faults = []
    for name, values in columns.items():
        if values.dtype.kind != "O":
            continue
        levels[name] = sorted(set(values[train]) - {""})
        if not levels[name]:
            rule = "a column of categories has one or more in the training split"
            remedy = "leave the column out"
            faults.append(Fault(f"{source}, column {name}", "no text", rule, remedy))
        if are_dates(levels[name]):
            found, rule = f'dates, such as "{levels[name][0]}"', "must hold numbers or categories"
            remedy = "convert them to numbers, such as days since a date"
            faults.append(Fault(f"{source}, column {name}", found, rule, remedy))
        elif len(levels[name]) > MOST:
            found = f'{len(levels[name])} different texts, such as "{levels[name][0]}"'
            rule = f"a column of categories has at most {MOST} in the training split"
            remedy = "store numbers, join rare texts to one, or leave the column out"
            faults.append(Fault(f"{source}, column {name}", found, rule, remedy))
    if faults:
        raise InputError(faults)
    return Encoding(tuple(columns), levels)


def check_kinds(columns: Mapping[str, Array], encoding: Encoding, source: str) -> None:
    """Raise InputError for columns of another file that hold texts in place of numbers, or not."""
    faults = []
    for name in encoding.columns:
        kinds = ("texts", "numbers") if name in encoding.levels else ("numbers", "texts")
        if (columns[name].dtype.kind == "O") != (name in encoding.levels):
            rule = f"the training split has {kinds[0]} there"
            where = f"{source}, column {name}"
            faults.append(Fault(where, kinds[1], rule, "write both files alike"))
    if faults:
        raise InputError(faults)
