"""A stored target in the shape, type and range that its task needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from job.data_file import told
from job.faults import Fault, InputError
from job.spec import Task

Array = NDArray[Any]


class Place(NamedTuple):
    """Where values stand, for messages."""

    path: str
    """JSON path of the task or section."""
    file: str
    row: str
    """What a row is: `row` of the file, or `window` of its bars."""

    def at(self, name: str, index: Sequence[int]) -> str:
        """Where the value of that index [row, …] stands in the array of that name."""
        row, *inner = index
        return f"{self.file}, {self.row} {row}, column {name}{inner or ''}"


def fit(raw: Array, task: Task, shape: tuple[int, int], place: Place) -> Array:
    """The target `raw` [N, …] as the task reads it.

    cross_entropy: int64, [N] of a window, [N, T] of a step task; others: float32, [N, O] or
    [N, T, O]. Axes of length 1 at the end may be there or not. shape: N and T of the features.
    Raises InputError.
    """
    wanted = _shape(task.level, task, shape)
    if _core(raw.shape) != _core(wanted):
        raise InputError([_misfit(raw.shape, wanted, task, place.path, shape)])
    if faults := not_finite(raw, task.source, place):
        raise InputError(faults)
    if task.loss.kind == "cross_entropy":
        faults = _check_classes(raw, task, place)
    elif task.loss.kind == "binary_cross_entropy":
        rule = "binary_cross_entropy needs 0 or 1"
        faults = _blame(raw, (raw != 0) & (raw != 1), task.source, place, rule)
    if faults:
        raise InputError(faults)
    kind = np.int64 if task.loss.kind == "cross_entropy" else np.float32
    return raw.astype(kind).reshape(wanted)


def not_finite(values: Array, name: str, place: Place) -> list[Fault]:
    """A fault for each of the values [N, …] that is no finite float32."""
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(values.astype(np.float32))
    return _blame(values, bad, name, place, "must be a finite number in float32")


def _blame(
    values: Array, bad: NDArray[np.bool_], name: str, place: Place, rule: str
) -> list[Fault]:
    """A fault for each of the values [N, …] where `bad` [N, …]."""

    def tell(i: int) -> Fault:
        return Fault(
            place.at(name, _index(i, values)), str(values.flat[i]), rule, "correct the data"
        )

    return told(f"{place.file}, column {name}", np.flatnonzero(bad), tell)


def _index(i: int, values: Array) -> list[int]:
    return [int(j) for j in np.unravel_index(i, values.shape)]


def _check_classes(values: Array, task: Task, place: Place) -> list[Fault]:
    """Classes are whole numbers from 0 to outputs − 1."""
    rule = "cross_entropy needs classes, whole numbers from 0"
    faults = _blame(values, (values < 0) | (values % 1 != 0), task.source, place, rule)
    highest = int(values.max())
    if highest >= task.outputs:
        at = place.at(task.source, _index(int(values.argmax()), values))
        rule = f"outputs = {task.outputs} means classes 0 … {task.outputs - 1}"
        remedy = f"set outputs to {highest + 1} or correct the data"
        faults.append(Fault(f"{place.path}.outputs", f"class {highest} at {at}", rule, remedy))
    return faults


# --- shapes -----------------------------------------------------------------------------------


def _shape(level: str, task: Task, shape: tuple[int, int]) -> tuple[int, ...]:
    lead = shape if level == "step" else shape[:1]
    return lead if task.loss.kind == "cross_entropy" else (*lead, task.outputs)


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without axes of length 1 at its end."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _misfit(
    found: tuple[int, ...], wanted: tuple[int, ...], task: Task, at: str, shape: tuple[int, int]
) -> Fault:
    """The fault of a target that has not the shape its task needs, and the likeliest remedy."""
    other = "window" if task.level == "step" else "step"
    where, remedy = f"{at}.target", "supply a target of that shape"
    if _core(found) == _core(_shape(other, task, shape)):
        where, remedy = f"{at}.level", f'set level to "{other}"'
    elif task.loss.kind != "cross_entropy" and found[:-1] == wanted[:-1]:
        where, remedy = f"{at}.outputs", f"set outputs to {found[-1]}"
    rule = f"a {task.level} task of {task.loss.kind} with {task.outputs} outputs needs"
    return Fault(where, f'"{task.source}" of shape {list(found)}', f"{rule} {list(wanted)}", remedy)
