"""Reach: how far a head's outputs can move within a run, compared with how far they must move.

A step of Adam moves a weight by about the learning rate, whatever its gradient's size (Kingma and
Ba 2015, section 2.1). So n steps move an output w·a + b by at most lr·n·(|a|₁ + 1), as long as the
head's input a does not change; |a|₁ is its 1-norm. Loss weights play no part in this. They act
through the trunk, and may increase a. A step of SGD is as long as the gradient: nothing bounds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from job.diagnose.inside.last_inputs import last_inputs
from job.model.built_in import real_positions
from job.model.losses import TaskLoss
from job.spec import Sgd
from job.train.evaluate import evenly_spaced
from job.train.trainer import Trainer
from job.train.updates.schedule import schedule_factor

SAMPLES = 512
"""Training samples that are measured, at most."""


@dataclass(frozen=True)
class Reach:
    """The reach of one task's outputs, in transformed units, or what its loss reads (logits)."""

    spread: float
    """lr·n·E|a − ā|₁: the distance that can be brought between the outputs of two elements."""
    apart: float
    """The distance needed between them: the target's standard deviation, or 1 (one logit)."""
    level: float
    """lr·n·(|ā|₁ + 1): the distance that the mean output can move."""
    gap: float
    """The distance it needs to move to predict the mean of the target."""

    @property
    def ratios(self) -> tuple[float, float]:
        """The possible distance over the needed one: for the spread, and for the level."""
        return _over(self.spread, self.apart), _over(self.level, self.gap)

    @property
    def least(self) -> float:
        """The smaller ratio."""
        return min(self.ratios)


def reach(training: Trainer) -> dict[str, Reach]:
    """Each task's reach, from its head's present inputs.

    A task whose outputs do not come straight from a linear map has none.
    """
    spec, model, train = training.spec, training.model, training.data.train
    lr, n = spec.optimizer.head_lr or spec.optimizer.lr, training.total_steps
    points = min(n, 1000)
    per_epoch = training.batches_per_epoch
    factors = (schedule_factor(spec.train, i * n // points, n, per_epoch) for i in range(points))
    budget = math.inf if isinstance(spec.optimizer, Sgd) else lr * n * sum(factors) / points
    chosen = evenly_spaced(len(train), SAMPLES)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        inputs = train.inputs_of(chosen, training.device)
        real, reaches = real_positions(inputs), {}
        outputs, reads = last_inputs(model, inputs)
        for loss, read, out in zip(training.losses, reads, outputs, strict=True):
            if read is None:
                continue
            if loss.task.level == "step":
                read, out = _rows(read, real), _rows(out, real)
            target = train.targets[loss.task.name][chosen].to(training.device)
            of_samples = train.weights_of(loss.task.name, chosen)
            moved = None if of_samples is None else of_samples.to(training.device)
            resting = loss.mean_output(target, loss.weights(target, moved))
            reaches[loss.task.name] = _reach(budget, read, out, resting, _apart(loss, target))
    model.train(was_training)
    return reaches


def _rows(x: Tensor, real: Tensor | None) -> Tensor:
    """The rows [n, D] of x [B, P, D] at positions that are no padding."""
    return x.flatten(0, 1) if real is None else x[real]


def farthest(a: Reach, b: Reach) -> Reach:
    """The farther reach of two; spread and level are chosen separately."""
    spread, level = (a if a.ratios[i] >= b.ratios[i] else b for i in (0, 1))
    return Reach(spread.spread, spread.apart, level.level, level.gap)


def _reach(budget: float, read: Tensor, out: Tensor, resting: Tensor, apart: float) -> Reach:
    """The reach of a head. budget: the distance that a weight can move; it may be infinite.

    read [n, D]: its linear map's inputs. out [n, O]: its outputs.

    resting [O]: the output that predicts the target's mean. apart: see Reach.
    """
    middle = read.mean(0)
    return Reach(
        spread=_times(budget, (read - middle).abs().sum(1).mean().item()),
        apart=apart,
        level=budget * (1 + middle.abs().sum().item()),
        gap=(resting - out.mean(0)).abs().mean().item(),
    )


def _times(budget: float, size: float) -> float:
    return budget if math.isinf(budget) else budget * size


def _apart(loss: TaskLoss, target: Tensor) -> float:
    if loss.task.loss.untransformed:
        return 1.0
    return loss.deviation(target).mean().item()


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf
