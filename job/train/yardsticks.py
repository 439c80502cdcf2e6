"""The yardsticks of a run: what predictions that ignore the input would score on its splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from job.data.dataset import Dataset, Split, overlap
from job.model.baselines import Labels, fit_baseline
from job.model.labels import with_usual
from job.model.losses import TaskLoss
from job.model.skill import Skill, measure_skill, unmeasurable
from job.train.evaluate import Losses


class Counted(NamedTuple):
    """Those of a split's N evaluated samples that have labels of a task."""

    samples: Tensor | slice
    share: float
    """Their number over N."""
    overlap: int
    """Of them, how many in a row may share data."""


class Yardsticks:
    """Trivial predictions of K tasks on both splits, beside which losses become skills.

    losses: of the tasks, fitted. chosen: indices [n], ascending, of the training samples that are
    evaluated; None: all of them.
    """

    def __init__(
        self, losses: Sequence[TaskLoss], data: Dataset, chosen: Tensor | None = None
    ) -> None:
        self.chosen = torch.arange(len(data.train)) if chosen is None else chosen
        self.missed = 1 - len(self.chosen) / len(data.train)
        """Share of the training samples that are not evaluated."""
        self.overlap = {
            "train": overlap(self.chosen.numpy(), data.train.overlap),
            "validation": data.validation.overlap,
        }
        self.baselines = []
        """[K]."""
        self.unmeasurable: dict[str, dict[str, str]] = {"train": {}, "validation": {}}
        """By split and task, why a skill cannot be told; tasks with a skill are left out."""
        self.counted: dict[str, list[Counted]] = {"train": [], "validation": []}
        """[K] by split."""
        self.weights: list[Tensor | None] = []
        """[K] of [n]: what each evaluated training sample weighs; None: all the same."""
        for loss in losses:
            task = loss.task
            train, held_out = (labels_of(loss, each) for each in (data.train, data.validation))
            measured = train.at(self.chosen)
            self.baselines.append(fit_baseline(task, train, held_out, measured))
            for split, y in (("train", measured), ("validation", held_out)):
                counted = counted_of(y, self.overlap[split])
                self.counted[split].append(counted)
                if why := unmeasurable(with_usual(y.target[counted.samples]), counted.overlap):
                    more = self._remedy if split == "train" else ""
                    self.unmeasurable[split][task.name] = why + more
            self.weights.append(_of_samples(measured))
        self.names = [loss.task.name for loss in losses]

    @property
    def _remedy(self) -> str:
        """What a split that is evaluated in part may need."""
        if not self.missed:
            return ""
        return f", of the {len(self.chosen):,} that are evaluated: raise train.evaluate"

    def train_errors(self, losses: Losses) -> list[float | None]:
        """[K] standard errors of the training losses, in original units, as those of the split.

        Of the samples that are not evaluated alone: None if there are none. The samples are one of
        each of equal stretches, so their differences from the next one tell the error (Wolter 1984,
        An investigation of some estimators of variance for systematic sampling, v2); where elements
        weigh differently, of the residuals of the weighted mean (Cochran 1977, eq. 6.13).
        """
        if not self.missed:
            return [None for _ in self.names]
        errors: list[float | None] = []
        for parts, weights in zip(losses.by_sample, self.weights, strict=True):
            mean = parts.mean()
            rest = parts - mean if weights is None else parts - mean * weights
            error = (self.missed * rest.diff().square().mean() / 2 / len(rest)).sqrt()
            errors.append(error.item())
        return errors

    def skills(self, split: str, losses: Losses) -> list[Skill | None]:
        """[K] skills on a split; None where it cannot tell one."""
        return [
            None
            if name in self.unmeasurable[split]
            else measure_skill(*self.by_sample(split, losses, k), self.counted[split][k].overlap)
            for k, name in enumerate(self.names)
        ]

    def by_sample(self, split: str, losses: Losses, k: int) -> tuple[Tensor, Tensor]:
        """The losses [n] of task k on the labelled samples of a split, and the trivial ones [n]."""
        counted = self.counted[split][k]
        mine = losses.by_sample[k][counted.samples] * counted.share
        return mine, self.baselines[k].by_sample[split]

    def trivial(self, split: str) -> list[float]:
        """[K] losses of the strongest trivial predictions on a split, original units."""
        return [base.strongest(split) for base in self.baselines]


def labels_of(loss: TaskLoss, split: Split) -> Labels:
    """A task's labels in a split, in the units in which its loss reads them."""
    target, of_samples = split.targets[loss.task.name], split.weights.get(loss.task.name)
    return Labels(loss.judged(target), loss.weights(target, of_samples))


def _of_samples(y: Labels) -> Tensor | None:
    """What each sample [n] weighs, 1 on average; None: all the same."""
    if y.weights is None:
        return None
    sums = y.weights.double().reshape(len(y.weights), -1).sum(1)
    return sums / sums.mean()


def counted_of(y: Labels, shared: int) -> Counted:
    """The samples with labels; shared: samples in a row that may share data."""
    if y.weights is None:
        return Counted(slice(None), 1.0, shared)
    samples = torch.nonzero(y.weights.reshape(len(y.weights), -1).sum(1)).flatten()
    most = overlap(samples.numpy(), shared) if len(samples) else 1
    return Counted(samples, len(samples) / len(y.target), most)
