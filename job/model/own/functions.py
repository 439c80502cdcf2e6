"""Losses and metrics of one's own: functions of the user's file (docs/losses.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from pydantic import PrivateAttr
from torch import Tensor

from job.errors import Fault, InputError
from job.model.own.code import OwnCode
from job.spec import PythonLoss, PythonMetric, Task


class LoadedLoss(PythonLoss):
    """The section of a loss, with its function."""

    _code: OwnCode = PrivateAttr()
    _function: Callable[..., Tensor] = PrivateAttr()

    def of(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each element, in the target's shape. Raises InputError."""
        with self._code.blamed(f"{self.name} must compute losses", self._function):
            losses = self._function(prediction, target, **self.options)
        if isinstance(losses, Tensor) and losses.shape == target.shape:
            return losses
        kind = type(losses).__name__
        found = f"losses {list(losses.shape)}" if isinstance(losses, Tensor) else f"a {kind}"
        rule = f"there is one for each element of the target {list(target.shape)}"
        remedy = "return the elements' losses, not their mean: labels may miss, or weigh"
        if not isinstance(losses, Tensor):
            rule, remedy = "a loss is a tensor", "compute it by torch, from prediction and target"
        raise InputError([Fault(self.place, found, rule, remedy)])

    @property
    def place(self) -> str:
        """`loss.py:12`: where the function is defined."""
        return self._code.place(self._function)


class LoadedMetric(PythonMetric):
    """The section of a metric, with its function."""

    _code: OwnCode = PrivateAttr()
    _function: Callable[..., Tensor | float | None] = PrivateAttr()

    def of(self, predicted: Tensor, target: Tensor) -> float | None:
        """Its value for N predictions [N, W] or classes [N]; None if it has none, or is not finite.

        Raises InputError.
        """
        with self._code.blamed(f"{self.name} must return a number, or None", self._function):
            value = self._function(predicted, target, **self.options)
            number = None if value is None else float(value)
        return number if number is not None and math.isfinite(number) else None


def loaded(task: Task, folder: Path, where: str) -> Task:
    """The task, whose own loss and metrics have their functions. Raises InputError.

    folder: of the spec. where: the task's JSON path.
    """
    update: dict[str, object] = {}
    if isinstance(task.loss, PythonLoss):
        loss = LoadedLoss.model_validate(task.loss.model_dump())
        loss._code = OwnCode(loss, folder, f"{where}.loss")
        loss._function = loss._code.function(loss.name)
        update["loss"] = loss
    metrics = [LoadedMetric.model_validate(metric.model_dump()) for metric in task.own_metrics]
    for i, metric in enumerate(metrics):
        metric._code = OwnCode(metric, folder, f"{where}.own_metrics[{i}]")
        metric._function = metric._code.function(metric.name)
    if metrics:
        update["own_metrics"] = tuple(metrics)
    return task.model_copy(update=update) if update else task
