"""Check a stored target, and bring it into the shape and type that its task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from job.data.encoding.codes import Real
from job.data.values import CORRECT, Place, index_of, not_finite, value_faults
from job.errors import Fault, InputError
from job.spec import Task
from job.spec.base import MOST_UNITS

Array = NDArray[Any]
MOST = 1e12
"""Counts at most: a little above, their loss is linear (job.model.losses.element_losses)."""


def without_padding(raw: Array, real: NDArray[np.bool_]) -> Array:
    """The target `raw` [N, …] of positions, with no label where `real` [N, …] is false."""
    if raw.shape[: real.ndim] != real.shape:
        real = real.reshape(len(real), -1)
    if raw.shape[: real.ndim] != real.shape:
        return raw  # of another shape, which `fit` refuses
    if raw.dtype.kind == "O":
        raw = raw.copy()
        raw[~real] = ""
        return raw
    real = real.reshape(*real.shape, *(1 for _ in raw.shape[real.ndim :]))
    return np.where(real, raw.astype(np.float64), np.nan)


def fit(raw: Array, task: Task, shape: tuple[int, ...], place: Place, real: Real = None) -> Array:
    """The target `raw` [N, …] as the task reads it.

    Classes: int64, [N] of a window, [N, T] of a step task; others: float32, [N, O] or
    [N, T, O], where T counts all positions. Axes of length 1 at the end may be there or not. A
    missing label, if the task allows it or the position is padding, is −1 among classes and NaN in
    others. shape: N and the positions of the inputs. real: true at positions that are no padding.
    Raises InputError.
    """
    wanted, flat = _shape(task.level, task, shape), (shape[0], prod(shape[1:]))
    fitting = _shape(task.level, task, flat)
    if _core(raw.shape) not in (_core(wanted), _core(fitting)):
        raise InputError([_misfit(raw.shape, wanted, task, place.path, shape)])
    if raw.dtype.kind == "O":
        rule = f"{task.loss.kind} needs numbers"
        remedy = "store numbers, or set the loss to cross_entropy if these are classes"
        if task.loss.kind == "cross_entropy":
            rule, remedy = "the first file has numbers there", "write both files alike"
        elif task.loss.kind == "ordinal":
            remedy = "number the classes from 0 in their order"
        elif task.loss.kind == "binary_cross_entropy":
            rule = "binary_cross_entropy needs 0 or 1, no or yes, false or true"
            remedy = "store 0 and 1, or set the loss to cross_entropy with outputs 2"
        where = f"{place.file}, column {task.source}"
        first = next((text for text in raw.flat if text), "")
        raise InputError([Fault(where, f'texts, such as "{first}"', rule, remedy)])
    of_classes = task.loss.of_classes
    missing = np.isnan(raw) | (raw == -1) if of_classes else np.isnan(raw)
    skipped = missing if task.missing == "skip" else missing & _of_padding(raw, task, real)
    values = np.where(skipped, 0, raw) if skipped.any() else raw
    remedy = _or_skip(place)
    if faults := not_finite(values, task.source, place, of_nan=remedy):
        raise InputError(faults)
    if of_classes:
        faults = _check_classes(values, task, place, remedy)
    elif task.loss.kind == "binary_cross_entropy":
        rule = "binary_cross_entropy needs 0 or 1"
        faults = value_faults(values, (values != 0) & (values != 1), task.source, place, rule)
    elif task.loss.kind == "poisson_nll":
        faults = _check_counts(values, task, place)
    if faults:
        raise InputError(faults)
    fitted = values.astype(np.int64 if of_classes else np.float32)
    fitted[skipped] = -1 if of_classes else np.nan
    return fitted.reshape(fitting)


def _of_padding(raw: Array, task: Task, real: Real) -> NDArray[np.bool_]:
    """[N, …], or of one element, true where a target that fits is of padding."""
    if real is None or task.level == "window":
        return np.zeros((1,) * raw.ndim, dtype=bool)
    each = np.broadcast_to(~real.reshape(*real.shape, 1), (*real.shape, raw.size // real.size))
    return each.reshape(raw.shape)


def _or_skip(place: Place) -> str:
    """The remedy for what may be a missing label."""
    return f'correct the data, or set {place.path}.missing to "skip" if these are missing labels'


def class_names(raw: Array) -> list[str]:
    """The classes that a target of texts has, sorted: class k is the k-th of them."""
    return sorted(set(raw.flat) - {""})


PAIRS = (("no", "yes"), ("false", "true"))
"""Texts for 0 and 1, in lower case: those of which it is plain which is which."""


def zero_and_one(raw: Array) -> list[str]:
    """The pair of PAIRS to which a target of texts keeps, in any case; [] if to none."""
    texts = {str(text).lower() for text in raw.flat} - {""}
    return next((list(pair) for pair in PAIRS if texts and texts <= set(pair)), [])


def number_classes(
    raw: Array, classes: Sequence[str], task: Task, place: Place, real: Real = None
) -> Array:
    """The texts `raw` [N, …] as class numbers; raises InputError for one that is no class.

    Of a 0/1 target, case does not matter, and a missing label is NaN.
    """
    faults = []
    of_classes = task.loss.kind == "cross_entropy"
    if not of_classes:
        raw = np.array([str(text).lower() for text in raw.flat], dtype=object).reshape(raw.shape)
    known = dict(zip(classes, range(len(classes)), strict=True))
    unknown = np.array([text not in known for text in raw.flat]).reshape(raw.shape)
    known[""] = -1
    unknown &= ~((raw == "") if task.missing == "skip" else _of_padding(raw, task, real))
    if unknown.any():
        first = index_of(int(np.flatnonzero(unknown)[0]), raw)
        text = raw[tuple(first)]
        found = f'"{text}"' if text else "an empty cell"
        rule = f"the classes are {_few(classes)}" if text else "every row needs a class"
        remedy = CORRECT if text else _or_skip(place)
        faults.append(Fault(place.at(task.source, first), found, rule, remedy))
    if of_classes and len(classes) > task.outputs:
        found = f"{len(classes)} classes in {place.file}, column {task.source}: {_few(classes)}"
        rule, remedy = f"outputs = {task.outputs}", f"set outputs to {len(classes)}"
        faults.append(Fault(f"{place.path}.outputs", found, rule, remedy))
    if faults:
        raise InputError(faults)
    numbers = np.array([known[text] for text in raw.flat], dtype=np.int64).reshape(raw.shape)
    return numbers if of_classes else np.where(numbers < 0, np.nan, numbers)


def _few(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return ", ".join(f'"{name}"' for name in classes[:5]) + more


def fit_weights(raw: Array, task: Task, count: int, place: Place) -> Array:
    """The samples' weights `raw` as float32 [N]; count: N. Raises InputError."""
    name = str(task.sample_weight)
    if _core(raw.shape) != (count,):
        where, rule = f"{place.path}.sample_weight", f"one weight for each sample needs [{count}]"
        found, remedy = f'"{name}" of shape {list(raw.shape)}', "store an array of that shape"
        raise InputError([Fault(where, found, rule, remedy)])
    if raw.dtype.kind not in "biuf":
        where, rule = f"{place.path}.sample_weight", "a weight is a number of 0 or above"
        found, remedy = f'texts in "{name}"', "name an array or column of numbers"
        raise InputError([Fault(where, found, rule, remedy)])
    faults = not_finite(raw, name, place)
    faults = faults or value_faults(raw, raw < 0, name, place, "a weight must be 0 or above")
    if faults:
        raise InputError(faults)
    return raw.astype(np.float32).reshape(count)


def has_labels(task: Task, target: Array, weights: Array | None) -> bool:
    """True if a label counts, among those of a split's samples.

    target, weights: as `fit` and `fit_weights` return them. A sample of weight 0 counts like one
    without a label.
    """
    counts = target >= 0 if target.dtype.kind == "i" else ~np.isnan(target)
    if task.loss.whole:
        counts = counts.sum(-1) > 1
    if weights is not None:
        counts = counts & (weights > 0).reshape(-1, *[1] * (counts.ndim - 1))
    return bool(counts.any())


def without_labels(task: Task, samples: Mapping[str, int], path: str) -> Fault:
    """The fault of a task without labels in some splits.

    samples: how many each of these splits has. path: JSON path of the task.
    """
    what = "list with two labels" if task.loss.whole else "label"
    which = " and the ".join(f"{count} samples of the {name}" for name, count in samples.items())
    found = f'no {what} in the {which} split of "{task.source}"'
    rule = "every task needs labels, of a weight above 0, in each split"
    return Fault(f"{path}.target", found, rule, "supply labels, or drop the task")


def _check_classes(values: Array, task: Task, place: Place, of_missing: str) -> list[Fault]:
    """Classes are whole numbers from 0 to outputs − 1; of_missing: the remedy for a −1."""
    bad = (values < 0) | (values % 1 != 0)
    rule = f"{task.loss.kind} needs classes, whole numbers from 0"
    faults = value_faults(
        values, bad, task.source, place, rule, lambda v: of_missing if v == -1 else CORRECT
    )
    highest = int(values.max())
    if not faults and values.min() == 1 and highest == task.outputs:
        found = f'"{task.source}" with classes 1 … {highest}'
        remedy = "subtract 1 from the classes"
        faults.append(Fault(f"{place.path}.target", found, "classes count from 0", remedy))
    elif highest >= task.outputs:
        at = place.at(task.source, index_of(int(values.argmax()), values))
        rule = f"outputs = {task.outputs} means classes 0 … {task.outputs - 1}"
        remedy = (
            f"set outputs to {highest + 1} or correct the data" if highest < MOST_UNITS else CORRECT
        )
        faults.append(Fault(f"{place.path}.outputs", f"class {highest} at {at}", rule, remedy))
    return faults


def _check_counts(values: Array, task: Task, place: Place) -> list[Fault]:
    """Counts are not negative. They need not be whole: the mean of counts has the same loss."""
    remedy = (
        f'correct the data, or set {place.path}.loss to {{"kind": "mse"}} if it holds no counts'
    )
    rule = f"poisson_nll needs counts from 0 to {MOST:g}"
    bad = (values < 0) | (values > MOST)
    return value_faults(values, bad, task.source, place, rule, lambda value: remedy)


# --- shapes -----------------------------------------------------------------------------------


def _shape(level: str, task: Task, shape: tuple[int, ...]) -> tuple[int, ...]:
    lead = shape if level == "step" else shape[:1]
    return lead if task.loss.of_classes else (*lead, task.outputs)


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of length 1 at its end."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _misfit(
    found: tuple[int, ...], wanted: tuple[int, ...], task: Task, at: str, shape: tuple[int, ...]
) -> Fault:
    """The fault of a target that has not the shape its task needs, and the likeliest remedy."""
    kind, outputs = task.loss.kind, task.outputs
    of_classes = task.loss.of_classes
    noun = "output" if outputs == 1 else "classes" if of_classes else "outputs"
    short = f"{list(wanted[:-1])} or " if wanted[-1] == 1 and len(wanted) > 1 else ""
    rule = f"a {task.level} task of {kind} with {outputs} {noun} needs {short}{list(wanted)}"
    where, remedy = f"{at}.target", "store a target of that shape"
    other = "window" if task.level == "step" else "step"
    if not found or found[0] != shape[0]:
        rows = f"{found[0]} rows" if found else "no rows"
        rule = f"the features have {shape[0]} rows, the target {rows}"
        remedy = "store one target for each row of features"
    elif _core(found) == _core(_shape(other, task, shape)):
        where, remedy = f"{at}.level", f'set level to "{other}"'
    elif of_classes and found[:-1] == wanted and found[-1] > 1:
        remedy = "store class numbers from 0 in place of one value for each class"
    elif not of_classes and found[:-1] == wanted[:-1]:
        where, remedy = f"{at}.outputs", f"set outputs to {found[-1]}"
    return Fault(where, f'"{task.source}" of shape {list(found)}', rule, remedy)
