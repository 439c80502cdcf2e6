"""A task's predictions: numbers in original units, what each stands for, and predicted classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from job.model.metrics import summarize
from job.spec import BinaryCrossEntropy, CrossEntropy, GaussianNLL, Ordinal, Quantile, Task

Array = NDArray[Any]


@dataclass(frozen=True)
class Predicted:
    """The predictions of one task for N samples."""

    values: NDArray[np.float32]
    """[N, W] of a window task, [N, *positions, W] of a step task, in original units: probabilities
    of classes and of ones, numbers, quantiles, means and deviations, rates, scores."""
    names: tuple[str, ...]
    """[W] what each number is, as a column's name."""
    classes: Array | None = None
    """Of classes [N, …], of 0/1 outputs [N, …, O]: what is predicted, by name if the target was of
    texts, else as a number; None of other tasks."""
    class_names: tuple[str, ...] = ()
    """Columns' names of the classes: one, or one of each 0/1 output."""


def predicted(
    task: Task, values: Tensor, positions: Sequence[int], classes: Sequence[str]
) -> Predicted:
    """Of what `TaskLoss.predict` gives [N, …, W]; positions: the axes of a step task's samples.

    classes: names of the classes, of 0 and of 1; empty if they have none.
    """
    lead = (len(values), *(positions if task.level == "step" else ()))
    found = _classes(task, values)
    numbers = values.reshape(*lead, -1).cpu().numpy()
    if found is None:
        return Predicted(numbers, names(task, classes))
    each = () if task.loss.of_classes else (task.outputs,)
    chosen = found.reshape(*lead, *each).cpu().numpy()
    titles = (task.name,) if task.loss.of_classes else _outputs(task)
    if classes:
        chosen = np.array(_class_names(task, classes), dtype=object)[chosen]
    return Predicted(numbers, names(task, classes), chosen, titles)


def names(task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    """[W] what each number of a prediction is: `risk=high`, `wear`, `wear[1]`, `wear@0.9`."""
    match task.loss:
        case CrossEntropy() | Ordinal():
            return tuple(f"{task.name}={each}" for each in _class_names(task, classes))
        case BinaryCrossEntropy():
            one = classes[1] if classes else "1"
            return tuple(f"{each}={one}" for each in _outputs(task))
        case Quantile():
            return tuple(f"{each}@{q:g}" for each in _outputs(task) for q in task.loss.levels)
        case GaussianNLL():
            return tuple(f"{each}{end}" for each in _outputs(task) for end in ("", ".deviation"))
        case _:
            return _outputs(task)


def _outputs(task: Task) -> tuple[str, ...]:
    """The outputs' names: that of the task, with a number if there are several."""
    if task.outputs == 1:
        return (task.name,)
    return tuple(f"{task.name}[{i}]" for i in range(task.outputs))


def _class_names(task: Task, classes: Sequence[str]) -> list[str]:
    """A name for each class: a target of texts may have fewer of them than outputs."""
    return [*classes, *map(str, range(len(classes), task.outputs))]


def _classes(task: Task, values: Tensor) -> Tensor | None:
    """The predicted classes, or ones and zeros, as metrics see them; None of other tasks."""
    if isinstance(task.loss, BinaryCrossEntropy):
        return (values > 0.5).long()
    if task.loss.of_classes:
        return summarize(task, values)[..., 0].long()
    return None
