"""Codes of categories and tokens: numbered as the training split has them, and one for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from job.errors import Fault, InputError

Array = NDArray[Any]
Real = NDArray[np.bool_] | None
"""[N, …] true at positions that are no padding; None: all of them."""

MOST = 2**20
"""Different codes of a feature, at most."""


class Codes(NamedTuple):
    """How features of categories become codes 0 … n, n for what is unknown or empty."""

    levels: dict[str, pa.Array]
    """By feature, [n] the texts or whole numbers that the training split has, sorted."""

    @property
    def counts(self) -> tuple[int, ...]:
        """[F] numbers of codes."""
        return tuple(len(each) + 1 for each in self.levels.values())

    def encode(self, features: Mapping[str, Array], real: Real) -> tuple[Array, dict[str, int]]:
        """Codes [N, …, F] int32 of features [N, …], 0 at padding; and counts of what is unknown."""
        made, skipped = [], {}
        for name, levels in self.levels.items():
            values = features[name]
            found = pc.index_in(_column(values), value_set=levels)
            known = found.is_valid().to_numpy(zero_copy_only=False).reshape(values.shape)
            codes = pc.fill_null(found, len(levels)).to_numpy(zero_copy_only=False)
            codes = codes.astype(np.int32).reshape(values.shape)
            counted = np.ones_like(known) if real is None else real
            empty = empties(values)
            for what, bad in (
                (f"values of {name} that the training split lacks", ~known & ~empty),
                (f"empty values of {name}", empty),
            ):
                if count := int((bad & counted).sum()):
                    skipped[what] = count
            made.append(np.where(counted, codes, 0))
        return np.stack(made, axis=-1).astype(np.int32), skipped

    def check_kinds(self, features: Mapping[str, Array], source: str) -> None:
        """Raise InputError for another file's features of texts in place of numbers, or not."""
        faults = []
        for name, levels in self.levels.items():
            texts = pa.types.is_string(levels.type)
            if (features[name].dtype.kind == "O") != texts:
                found, rule = ("numbers", "texts") if texts else ("texts", "numbers")
                rule = f"the training split has {rule} there"
                where = f"{source}, column {name}"
                faults.append(Fault(where, found, rule, "write both files alike"))
        if faults:
            raise InputError(faults)


def fit_codes(
    features: Mapping[str, Array], train: NDArray[np.int64], real: Real, source: str
) -> Codes:
    """The codes of features [N, …] by what the training samples have.

    Raises InputError for a feature of no or of too many different values.
    """
    levels, faults = {}, []
    for name, values in features.items():
        kept = values[train] if real is None else values[train][real[train]]
        found = pc.unique(_column(kept[~empties(kept)]))
        levels[name] = found = found.take(pc.sort_indices(found))
        where = f"{source}, column {name}"
        if not len(found):
            rule = "codes need one value or more in the training split"
            faults.append(Fault(where, "no value", rule, "leave the column out"))
        if len(found) > MOST:
            rule = f"a feature of codes has at most {MOST:,} different ones"
            remedy = "join rare ones to one, or leave it out"
            faults.append(Fault(where, f"{len(found):,} different values", rule, remedy))
    if faults:
        raise InputError(faults)
    return Codes(levels)


def odd_codes(values: Array) -> NDArray[np.bool_]:
    """[N, …] true where a value is no text, no whole number and not empty."""
    if values.dtype.kind != "f":
        return np.zeros(values.shape, dtype=bool)
    whole = (values % 1 == 0) & (np.abs(values) < 2**53)
    return np.asarray(~whole & ~np.isnan(values))


def empties(values: Array) -> NDArray[np.bool_]:
    """[N, …] true where a value is missing."""
    if values.dtype.kind == "O":
        return np.asarray(values == "", dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)


def _column(values: Array) -> pa.Array:
    """The values as texts or whole numbers, null where one is empty."""
    flat, empty = values.reshape(-1), empties(values).reshape(-1)
    if values.dtype.kind == "O":
        return pa.array(flat, type=pa.string(), mask=empty)
    return pa.array(np.where(empty, 0, flat).astype(np.int64), mask=empty)
