"""How far a head's outputs can travel within a run, and how far they have to.

A step of AdamW moves a weight by about the learning rate, whatever its gradient's size (Kingma and
Ba 2015, section 2.1). So n steps move an output w·a + b by at most lr·n·(|a|₁ + 1) as long as what
the head reads, a, stays as it is: its 1-norm says what that is in the target's units. A loss weight
is not in it. Weights act through the trunk, and may make the features reach farther.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from job import optimizer
from job.evaluate import evenly_spaced
from job.model import StepHead
from job.spec import CATEGORICAL
from job.tasks import TaskLoss
from job.train import Training

SAMPLES = 512
"""Of the training split, at most."""


@dataclass(frozen=True)
class Reach:
    """Of one task's outputs; in transformed units, logits for the categorical losses."""

    spread: float
    """lr·n·E|a − ā|₁: how far the outputs of two elements can be driven apart."""
    apart: float
    """How far they have to be: the target's standard deviation, or one logit."""
    level: float
    """lr·n·(|ā|₁ + 1): how far the mean output can go."""
    gap: float
    """How far it lies from where it predicts the mean of the target."""

    @property
    def ratios(self) -> tuple[float, float]:
        """What can be over what must be: of the spread, and of the level."""
        return _over(self.spread, self.apart), _over(self.level, self.gap)

    @property
    def least(self) -> float:
        """The smaller ratio."""
        return min(self.ratios)


def reach(training: Training) -> dict[str, Reach]:
    """Of each task, from what its head reads now."""
    spec, model, train = training.spec, training.stepper.model, training.data.train
    lr, n = spec.optimizer.head_lr or spec.optimizer.lr, training.total_steps
    points = min(n, 1000)
    factors = (optimizer.factor(spec.train.schedule, i * n // points, n) for i in range(points))
    budget = lr * n * sum(factors) / points
    chosen = evenly_spaced(len(train.features), SAMPLES)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        z = model.trunk(train.features[chosen].to(training.device))
        outputs = model.outputs(model.read_steps(z)[0], [z.mean(1)] * model.is_step.count(False))
        found = {}
        for head, loss, out in zip(model.heads, training.losses, outputs, strict=True):
            read = z.flatten(0, 1) if isinstance(head, StepHead) else head.projection(z.mean(1))
            target = train.targets[loss.task.name][chosen].to(training.device)
            found[loss.task.name] = _reach(budget, read, loss, out.flatten(0, -2), target)
    model.train(was_training)
    return found


def best(a: Reach, b: Reach) -> Reach:
    """What reaches farther of two, the spread and the level each by itself."""
    spread, level = (a if a.ratios[i] >= b.ratios[i] else b for i in (0, 1))
    return Reach(spread.spread, spread.apart, level.level, level.gap)


def _reach(budget: float, read: Tensor, loss: TaskLoss, out: Tensor, target: Tensor) -> Reach:
    """read [n, D]: what the head's linear map reads. out [n, O]: what it gives."""
    middle = read.mean(0)
    resting = loss.resting_output(target)
    return Reach(
        spread=budget * (read - middle).abs().sum(1).mean().item(),
        apart=_apart(loss, target),
        level=budget * (1 + middle.abs().sum().item()),
        gap=(resting - out.mean(0)).abs().mean().item(),
    )


def _apart(loss: TaskLoss, target: Tensor) -> float:
    if loss.task.loss.kind in CATEGORICAL:
        return 1.0
    wanted = (target - loss.shift) / loss.scale
    return wanted.flatten(0, -2).double().std(0, correction=0).mean().item()


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else math.inf
