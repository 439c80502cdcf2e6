"""Baselines: the losses of the best predictions that ignore the input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from job.model.labels import by_sample, labelled
from job.model.losses.best_constant import best_constant
from job.model.losses.element_losses import element_losses, sample_losses
from job.spec import Task


@dataclass(frozen=True)
class Baseline:
    """Losses in original units of trivial predictions, by split."""

    constant: dict[str, float]
    """Of the constant that is best on the training split."""
    per_position: dict[str, float] | None
    """Of the constants that are best at each time step of it; None for a window task."""
    own_constant: dict[str, float]
    """Of the constant that is best on the very split, so that no constant has skill on it."""
    all_positions: dict[str, float] | None = None
    """Of the constants that are best at each time step of both splits together; None for a window
    task. Those of few training samples are noisy, and a smooth curve over time would beat them."""
    by_sample: dict[str, Tensor] = field(default_factory=dict)
    """[n] float64: the losses of the strongest on each labelled sample of the split; if elements
    weigh differently, each sample's part of their mean (see job.model.labels.by_sample)."""
    is_constant: bool = False
    """True if the training target never changes."""

    def strongest(self, split: str) -> float:
        """The lowest of the losses on a split."""
        candidates = (self.constant, self.own_constant, self.per_position, self.all_positions)
        return min(losses[split] for losses in candidates if losses is not None)


class Labels(NamedTuple):
    """The target [N, …] of samples (see job.data.dataset.Split), and what its elements weigh."""

    target: Tensor
    weights: Tensor | None = None
    """Of the elements (see TaskLoss.weights), 0 where a label is missing; None: all the same."""

    def at(self, samples: Tensor | slice) -> Labels:
        """The labels of some of the samples."""
        return Labels(self.target[samples], None if self.weights is None else self.weights[samples])

    def joined(self, other: Labels) -> Labels:
        """These labels, then the other ones, which have weights if these have."""
        target = torch.cat([self.target, other.target])
        if self.weights is None or other.weights is None:
            return Labels(target)
        return Labels(target, torch.cat([self.weights, other.weights]))


def fit_baseline(
    task: Task, train: Labels, validation: Labels, measured: Labels | None = None
) -> Baseline:
    """Baselines of a task from its labels.

    measured: the training labels that the training loss is measured on, if they are not all.
    """
    splits = {"train": train if measured is None else measured, "validation": validation}
    means: dict[str, dict[str, float]] = {}
    of_samples: dict[str, Tensor] = {}
    for split, y in splits.items():
        # Exact on the split it is fitted on; on others an unseen class must not cost infinity.
        pseudo = 0.0 if split == "train" else 1.0
        constant = _constant(task, train, pseudo)
        losses = {
            "constant": _losses(task, constant, y),
            "own_constant": _losses(task, _constant(task, y), y),
        }
        if task.level == "step":
            losses["per_position"] = _losses(task, _positions(task, train, constant, pseudo), y)
            both = train.joined(validation)
            losses["all_positions"] = _losses(task, _positions(task, both, constant), y)
        for name, each in losses.items():
            means.setdefault(name, {})[split] = each.mean().item()
        of_samples[split] = min(losses.values(), key=lambda each: each.mean().item())
    return Baseline(
        constant=means["constant"],
        per_position=means.get("per_position"),
        own_constant=means["own_constant"],
        all_positions=means.get("all_positions"),
        by_sample=of_samples,
        is_constant=bool(is_constant(_flat(task, train).target).all()),
    )


def best_in_hindsight(task: Task, y: Labels) -> Tensor:
    """Losses [n] float64 of labelled samples (see Baseline.by_sample) by constants fitted to them.

    Of one constant, or of one for each time step, whichever is stronger. No prediction that ignores
    the input has a lower mean loss on them.
    """
    constant = _constant(task, y)
    candidates = [_losses(task, constant, y)]
    if task.level == "step":
        candidates.append(_losses(task, _positions(task, y, constant), y))
    return min(candidates, key=lambda losses: losses.mean().item())


def is_constant(target: Tensor) -> Tensor:
    """Whether the labels of a target [n, …] are equal over dimension 0: bool [...]."""
    known, values = labelled(target), target.double()
    low = torch.where(known, values, torch.inf).amin(0)
    return low >= torch.where(known, values, -torch.inf).amax(0)


def _flat(task: Task, y: Labels) -> Labels:
    if task.level == "window":
        return y
    return Labels(y.target.flatten(0, 1), None if y.weights is None else y.weights.flatten(0, 1))


def _constant(task: Task, y: Labels, pseudo: float = 0.0) -> Tensor:
    """The best constant prediction of labels: [1, W], [1, 1, W] for a step task."""
    flat = _flat(task, y)
    constant = best_constant(task.loss, task.outputs, flat.target, pseudo, flat.weights)
    return constant[None] if task.level == "step" else constant


def _positions(task: Task, y: Labels, constant: Tensor, pseudo: float = 0.0) -> Tensor:
    """The best constants [1, T, W] at each time step; `constant` where no sample has a label."""
    positions = best_constant(task.loss, task.outputs, y.target, pseudo, y.weights)
    return torch.where(positions.isnan(), constant, positions)


def _losses(task: Task, guess: Tensor, y: Labels) -> Tensor:
    """The losses [n] of one prediction for all samples; of labelled ones if elements weigh."""
    steps = y.target.shape[1:2] if task.level == "step" else ()
    wide = guess.float().expand(len(y.target), *steps, task.head_width)
    if y.weights is None:
        return sample_losses(task.loss, wide, y.target).double()
    known = y.weights > 0
    target = torch.where(known.unsqueeze(-1) if task.loss.whole else known, y.target, 0)
    return by_sample(element_losses(task.loss, wide, target).double() * y.weights, y.weights)
