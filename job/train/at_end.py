"""What is measured once, after the last epoch: plots of the predictions, and the test split.

All of it is of the weights that the last epoch has left, like the verdict; nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from job.data.dataset import Dataset, Split
from job.events import FinalTest, FinalTestTask, Predictions
from job.model.labels import all_count
from job.model.losses import TaskLoss
from job.model.plots import Plots
from job.train.evaluate import Losses
from job.train.state import TrainState
from job.train.yardsticks import Yardsticks

Evaluate = Callable[[Split, Sequence[TaskLoss]], Losses]
"""Measures a split, with metrics and plots."""


def last_events(
    data: Dataset,
    losses: Sequence[TaskLoss],
    evaluate: Evaluate,
    plots: Sequence[Plots],
    at: TrainState,
) -> Iterator[Predictions | FinalTest]:
    """The events after the last epoch: the validation split's plots, then the test, and its plots.

    plots: [K], of the validation split.
    The test's trivial predictions are those of the validation split, with the test in its place.
    """
    yield from _predictions(losses, "validation", plots, at)
    if data.test is None:
        return
    yardsticks, measured = on_test(data, data.test, losses, evaluate)
    yield _test(yardsticks, measured, len(data.test), at)
    yield from _predictions(losses, "test", measured.plots, at)


def on_test(
    data: Dataset, test: Split, losses: Sequence[TaskLoss], evaluate: Evaluate
) -> tuple[Yardsticks, Losses]:
    """What the test split shows: the yardsticks have it in place of validation."""
    own = [loss_on(loss, test) for loss in losses]
    yardsticks = Yardsticks(own, replace(data, validation=test))
    device = losses[0].shift.device
    return yardsticks, evaluate(test, [loss.to(device) for loss in own])


def loss_on(loss: TaskLoss, split: Split) -> TaskLoss:
    """The loss as fitted, on the CPU, for a split in which other labels may be missing."""
    name = loss.task.name
    complete = all_count(split.targets[name], split.weights.get(name))
    own = TaskLoss(loss.task, partial=loss.partial or not complete)
    own.load_state_dict(loss.state_dict())
    return own


def _test(yardsticks: Yardsticks, measured: Losses, samples: int, at: TrainState) -> FinalTest:
    return FinalTest(
        step=at.step,
        epoch=at.epoch,
        samples=samples,
        unmeasurable=yardsticks.unmeasurable["validation"],
        tasks=measured_tasks(yardsticks, measured),
    )


def measured_tasks(yardsticks: Yardsticks, measured: Losses) -> dict[str, FinalTestTask]:
    """By task, what was measured on the validation split of the yardsticks."""
    skills = yardsticks.skills("validation", measured)
    trivial = yardsticks.trivial("validation")
    return {
        name: FinalTestTask(
            loss=measured.transformed[k],
            loss_original=measured.original[k],
            trivial_loss_original=trivial[k],
            skill=skill.value if skill else None,
            skill_error=skill.error if skill else None,
            skill_low=skill.low if skill else None,
            metrics=measured.metrics[k],
        )
        for k, (name, skill) in enumerate(zip(yardsticks.names, skills, strict=True))
    }


def _predictions(
    losses: Sequence[TaskLoss],
    split: Literal["validation", "test"],
    plots: Sequence[Plots],
    at: TrainState,
) -> Iterator[Predictions]:
    for loss, found in zip(losses, plots, strict=True):
        place = {"task": loss.task.name, "split": split, "step": at.step, "epoch": at.epoch}
        yield Predictions.model_validate(place | found._asdict())
