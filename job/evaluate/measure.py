"""What a run's network shows on labelled samples: losses, skill and metrics, as a run measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from job.data.dataset import Split
from job.events import FinalTest, FinalTestTask
from job.model.baselines import best_in_hindsight
from job.model.labels import with_usual
from job.model.losses import TaskLoss
from job.model.network import Network
from job.model.plots import Plots
from job.model.skill import Skill, measure_skill, unmeasurable
from job.train.at_end import loss_on
from job.train.evaluate import evaluate
from job.train.yardsticks import counted_of, labels_of


class Measured(NamedTuple):
    """The measurements on a split, in the form in which a run records those of its test."""

    test: FinalTest
    plots: Sequence[Plots]
    """[K]; empty if they were not asked for."""


class _Yardstick(NamedTuple):
    """What a task's losses are judged by."""

    trivial: float
    """Loss of the strongest prediction that ignores the input, original units."""
    skill: Skill | None
    why: str | None
    """Why there is no skill."""


def measure(
    model: Network,
    losses: Sequence[TaskLoss],
    split: Split,
    device: torch.device,
    at: tuple[int, int],
    plots: bool = False,
) -> Measured:
    """Measure a split; at: steps and epochs of the checkpoint. losses: fitted, on the CPU."""
    own = [loss_on(loss, split) for loss in losses]
    there = [loss_on(loss, split).to(device) for loss in losses]
    found = evaluate(model, there, split, device, metrics=True, plots=plots)
    judged = [_judge(loss, split, found.by_sample[k]) for k, loss in enumerate(own)]
    names = [loss.task.name for loss in losses]
    tasks = {
        name: FinalTestTask(
            loss=found.transformed[k],
            loss_original=found.original[k],
            trivial_loss_original=judged[k].trivial,
            **_fields(judged[k].skill),
            metrics=found.metrics[k],
        )
        for k, name in enumerate(names)
    }
    whys = {name: each.why for name, each in zip(names, judged, strict=True) if each.why}
    step, epoch = at
    test = FinalTest(step=step, epoch=epoch, samples=len(split), unmeasurable=whys, tasks=tasks)
    return Measured(test, found.plots)


def _judge(loss: TaskLoss, split: Split, by_sample: torch.Tensor) -> _Yardstick:
    """The yardstick of a task; by_sample [n]: its losses, as `evaluate` gives them."""
    y = labels_of(loss, split)
    counted = counted_of(y, split.overlap)
    trivial = best_in_hindsight(loss.task, y)
    why = unmeasurable(with_usual(y.target[counted.samples]), counted.overlap)
    mine = by_sample[counted.samples] * counted.share
    skill = None if why else measure_skill(mine, trivial, counted.overlap)
    if skill is not None and not math.isfinite(skill.value):
        lost = not math.isfinite(mine.mean().item())
        why = "a loss is not finite" if lost else "the trivial prediction has a loss of 0"
        skill = None
    return _Yardstick(trivial.mean().item(), skill, why)


def _fields(skill: Skill | None) -> dict[str, float | None]:
    value, error, low = skill or (None, None, None)
    return {"skill": value, "skill_error": error, "skill_low": low}


def part_of(split: Split, rows: torch.Tensor) -> Split:
    """Some samples of a split; those that shared data count as if they still did."""
    inputs = {
        name: x.take(rows.numpy()) if name in split.on_disk else x[rows]
        for name, x in split.inputs.items()
    }
    targets, weights = (
        {name: y[rows] for name, y in each.items()} for each in (split.targets, split.weights)
    )
    return Split(inputs, targets, split.overlap, weights)
