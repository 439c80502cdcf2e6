"""Named inputs: arrays and columns as the data has them, made features [N, …, F] by their kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from job.data.encoding.categories import Encoding, check_kinds, fit_encoding
from job.data.encoding.codes import Codes, Real, fit_codes, odd_codes
from job.data.encoding.input_info import InputInfo
from job.data.shards.rows import Rows, missing_values, spans
from job.data.values import Place, not_finite, value_faults
from job.errors import Fault, InputError
from job.spec import Input

Array = NDArray[Any]
Stored = Array | Rows | dict[str, Array]
"""An array [N, …, F], in memory or on disk, or the columns [N] of a table, by name."""
_SHAPES = {
    "numbers": "numbers must be [N], [N, F] or [N, …, F]",
    "codes": "codes must be [N], [N, F] or [N, …, F]",
    "tokens": "tokens must be [N] or [N, …]",
    "image": 'an image must be [N, H, W], or with channels "first" or "last" of four axes',
}


def count(stored: Stored) -> int:
    """N."""
    return len(next(iter(stored.values())) if isinstance(stored, dict) else stored)


def positions_of(stored: Stored) -> tuple[int, ...]:
    """The axes between N and F; (1,) if a sample has a single position."""
    return (1,) if isinstance(stored, dict) else stored.shape[1:-1]


def shaped(values: Array | Rows, about: Input, place: Place) -> Array | Rows:
    """The stored array of an input as [N, …, F]; raises InputError for a shape that none has."""
    axes = range(3, 4) if about.kind == "image" else range(1, 33)
    if about.channels is not None:
        axes = range(4, 5)
    if values.ndim not in axes or 0 in values.shape[1:]:
        where, found = f"{place.file}, column {about.source}", f"shape {list(values.shape)}"
        remedy = "store them in one of these shapes"
        raise InputError([Fault(where, found, _SHAPES[about.kind], remedy)])
    if about.channels == "first":
        values = values.channels_last() if isinstance(values, Rows) else np.moveaxis(values, 1, -1)
    elif about.kind in ("tokens", "image") and about.channels is None:
        values = values.reshape(*values.shape, 1)
    while values.ndim < 3:
        values = values.reshape(len(values), 1, *values.shape[1:])
    return values


def common_positions(stored: Mapping[str, Stored]) -> tuple[int, ...]:
    """The positions of a sample; raises InputError unless all inputs have them, or a single one."""
    each = {name: positions_of(values) for name, values in stored.items()}
    first = max(each, key=lambda name: (prod(each[name]), len(each[name])))
    faults = []
    for name, mine in each.items():
        if mine != each[first] and prod(mine) > 1:
            found = f"positions {list(mine)}, and {list(each[first])} of {first}"
            rule = "inputs meet at their positions: they have the same, or a single one"
            remedy = "store one of them as [N, F], its values as features"
            faults.append(Fault(f"$.data.inputs.{name}", found, rule, remedy))
    if faults:
        raise InputError(faults)
    return each[first]


def value_faults_of(
    values: Array | Rows, about: Input, place: Place, real: Real, missing: str
) -> list[Fault]:
    """The faults of the values of an array, as stored, that their kind does not allow.

    real: of its positions; None if it has no padding. missing: the key that says what is done where
    a value is missing.
    """
    if isinstance(values, Rows):  # the first faults are enough, and the rest would take long
        for span in spans(values):
            here = place._replace(numbers=np.arange(span.start, span.stop))
            if faults := value_faults_of(values[span].numpy(), about, here, None, missing):
                return faults
        return []
    kept = np.ones((1,) * values.ndim, dtype=bool)
    if real is not None:
        axis = 1 if about.channels == "first" else -1
        kept = real if real.ndim == values.ndim else np.expand_dims(real, axis)
    if about.is_coded:
        rule, remedy = "codes are whole numbers or texts", "number the categories, or set kind"
        odd = odd_codes(values) & kept
        return value_faults(values, odd, str(about.source), place, rule, lambda _: remedy)
    values = values if real is None else np.where(kept, values, 0)
    remedy = f'correct the data, or set {missing} to "mean" or "indicator"'
    return not_finite(values, str(about.source), place, about.missing != "refuse", remedy)


def _everywhere(real: Real, values: Array) -> NDArray[np.bool_]:
    """[N, …, F] true at real positions of an input; one of a single position has no padding."""
    if real is None or values.shape[1:-1] != real.shape[1:]:
        return np.ones((1,) * values.ndim, dtype=bool)
    return real[..., None]


# --- features -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """How a stored input becomes features; fitted on the training split."""

    about: Input
    info: InputInfo
    how: Encoding | Codes | None
    """Of the columns of a table, of codes, or None: values are taken as they are."""

    def encode(
        self, name: str, stored: Stored, real: Real, file: str, skipped: dict[str, int]
    ) -> Array | Rows:
        """The features [N, …, F]: float32, bytes as they are, or codes in int32; 0 at padding.

        Counts what is unknown or filled in `skipped`.
        """
        if isinstance(self.how, Codes):
            self.how.check_kinds(_features(name, stored), file)
            codes, unknown = self.how.encode(_features(name, stored), real_of(stored, real))
            for what, number in unknown.items():
                skipped[f"{file}: {what}, one code for all"] = number
            return codes.reshape(len(codes), *positions_of(stored), -1)
        if isinstance(stored, dict):
            assert self.how is not None
            check_kinds(stored, self.how, file)
            encoded, unknown = self.how.encode(stored)
            for what, number in unknown.items():
                skipped[f"{file}: {what}, 0 in all levels"] = number
            stored = encoded[:, None]
        values: Array | Rows = stored
        values = values if values.dtype == np.uint8 else values.astype(np.float32)
        if real is not None and not isinstance(values, Rows):
            values = np.where(_everywhere(real, values), values, values.dtype.type(0))
        searched = values.dtype.kind == "f" and self.about.missing != "refuse"
        if searched and (missing := missing_values(values)):
            skipped[f"{file}: missing values of {name}, filled in"] = missing
        return values if isinstance(values, Rows) else np.ascontiguousarray(values)


def fit_encoder(
    name: str, about: Input, stored: Stored, train: NDArray[np.int64], real: Real, source: str
) -> Encoder:
    """How the input of a file becomes features; raises InputError."""
    if about.is_coded:
        features = _features(name, stored)
        codes = fit_codes(features, train, real_of(stored, real), source)
        return Encoder(about, info_of_codes(codes, isinstance(stored, dict)), codes)
    if isinstance(stored, dict):
        made = fit_encoding(stored, train, source)
        return Encoder(about, info_of_columns(made), made)
    whole = 255.0 if stored.dtype == np.uint8 else 1.0
    return Encoder(about, InputInfo(whole=whole), None)


def info_of_codes(codes: Codes, of_table: bool) -> InputInfo:
    """What codes hold; of_table: whether they are of a table's columns."""
    levels = {k: [str(x) for x in v.to_pylist()] for k, v in codes.levels.items()}
    names = tuple(codes.levels) if of_table else ()
    texts = tuple(k for k, v in codes.levels.items() if pa.types.is_string(v.type))
    return InputInfo(names, levels=levels, codes=codes.counts, columns=names, texts=texts)


def info_of_columns(made: Encoding) -> InputInfo:
    """What the encoded columns of a table hold."""
    texts = tuple(made.levels)
    return InputInfo(made.names, made.flags, levels=made.levels, columns=made.columns, texts=texts)


def _features(name: str, stored: Stored) -> dict[str, Array]:
    """Each feature [N, …] by its name."""
    if isinstance(stored, dict):
        return stored
    assert not isinstance(stored, Rows)  # codes are read into memory
    if stored.shape[-1] == 1:
        return {name: stored[..., 0]}
    return {f"{name} {i}": stored[..., i] for i in range(stored.shape[-1])}


def real_of(stored: Stored, real: Real) -> Real:
    """The real positions, if the input has the positions that they are of."""
    return real if real is not None and positions_of(stored) == real.shape[1:] else None


# --- padding ------------------------------------------------------------------------------------


def real_positions(
    name: str, about: Input, values: Array, positions: tuple[int, ...], n: int, place: Place
) -> NDArray[np.bool_]:
    """[N, *positions] true where a sample is real, from an input's lengths or mask [N, …].

    Raises InputError if it does not fit, or a sample has no real position.
    """
    of_lengths = about.lengths is not None
    where = f"{place.file}, column {about.lengths if of_lengths else about.mask}"
    most = prod(positions)
    fits = values.shape in (((n,),) if of_lengths else ((n, *positions), (n, most)))
    if not fits or (of_lengths and len(positions) > 1):
        wanted = [n] if of_lengths else [n, *positions]
        rule = f"the positions {list(positions)} of {len(values)} samples need shape {wanted}"
        if len(positions) > 1 and of_lengths:
            rule = f"lengths are of sequences, and {name} has positions {list(positions)}"
        remedy = "give a mask" if len(positions) > 1 and of_lengths else "store that shape"
        raise InputError([Fault(where, f"shape {list(values.shape)}", rule, remedy)])
    numbers = values.astype(np.float64)
    if of_lengths:
        bad = ~((numbers >= 1) & (numbers <= most) & (numbers % 1 == 0))
        rule = f"a length is a whole number from 1 to {most}"
        real = np.arange(most) < numbers[:, None]
    else:
        bad = ~((numbers == 0) | (numbers == 1)).reshape(n, -1).all(1)
        rule = "a mask is 1 at real positions and 0 at padding, and 1 somewhere in every sample"
        real = numbers == 1
        bad |= ~real.reshape(n, -1).any(1)
    if len(rows := np.flatnonzero(bad)):
        found = f"{values[rows[0]]}" if of_lengths else "no such mask"
        more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
        row = rows[0] if place.numbers is None else place.numbers[rows[0]]
        raise InputError([Fault(f"{where}, row {row}", found + more, rule, "correct it")])
    return np.asarray(real).reshape(n, *positions)
