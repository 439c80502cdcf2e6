"""Honest yardsticks: what the best prediction scores that knows nothing of the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from job.spec import Huber, Loss, Task
from job.tasks import mean_loss

SURE = 40.0
"""Logit that stands for certainty: what it misses, exp(-40), is less than a float can show."""


@dataclass(frozen=True)
class Baseline:
    """Losses in original units of trivial predictions fitted on the training split."""

    constant: dict[str, float]
    """Of the best constant, by split."""
    per_position: dict[str, float] | None
    """Of the best constant at each time step, by split; None for a window task."""

    def strongest(self, split: str) -> float:
        """The loss, on a split, of whichever predicts the training split better."""
        position = self.per_position
        if position is not None and position["train"] < self.constant["train"]:
            return position[split]
        return self.constant[split]


def fit(task: Task, train: Tensor, validation: Tensor, measured: Tensor | None = None) -> Baseline:
    """Baselines of a task from its targets [N, …] (see job.data.Split).

    measured: those training targets that the training loss is measured on, if not on all.
    """
    splits = {"train": train if measured is None else measured, "validation": validation}
    flat = {name: _flat(task, y) for name, y in splits.items()}
    return Baseline(
        constant=_score(task, _flat(task, train), flat),
        per_position=_score(task, train, splits) if task.level == "step" else None,
    )


def _flat(task: Task, target: Tensor) -> Tensor:
    return target.flatten(0, 1) if task.level == "step" else target


def _score(task: Task, train: Tensor, splits: dict[str, Tensor]) -> dict[str, float]:
    scores = {}
    for name, y in splits.items():
        # Exact where it was fitted; elsewhere a class that was never seen must not cost infinity.
        pseudo = 0.0 if name == "train" else 1.0
        guess = best_constant(task.loss, task.outputs, train, pseudo).float()
        scores[name] = mean_loss(task.loss, guess.expand(len(y), *guess.shape[1:]), y).item()
    return scores


def best_constant(loss: Loss, outputs: int, target: Tensor, pseudo: float = 0.0) -> Tensor:
    """The prediction [1, …, O] that minimises the loss over dimension 0 of the target.

    Logits for the categorical losses, from frequencies with `pseudo` counts in all, spread evenly
    over the classes; finite in any case.
    """
    n = target.shape[0]
    match loss.kind:
        case "cross_entropy":
            counts = torch.nn.functional.one_hot(target, outputs).double().sum(0, keepdim=True)
            return ((counts + pseudo / outputs) / (n + pseudo)).log().clamp(min=-SURE)
        case "binary_cross_entropy":
            ones = target.double().sum(0, keepdim=True)
            return ((ones + pseudo / 2) / (n + pseudo)).logit().clamp(-SURE, SURE)
        case "mse":
            return target.double().mean(0, keepdim=True)
        case "mae":
            return target.double().median(0, keepdim=True).values
        case "huber":
            assert isinstance(loss, Huber)
            return _huber_centre(target.double(), loss.delta)


def _huber_centre(target: Tensor, delta: float) -> Tensor:
    """Minimiser of the mean Huber loss, by bisection on its monotone derivative."""
    low = target.amin(0, keepdim=True)
    high = target.amax(0, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        right = (target - middle).clamp(-delta, delta).sum(0, keepdim=True) > 0
        low, high = torch.where(right, middle, low), torch.where(right, high, middle)
    return (low + high) / 2
