"""What simple predictions without a network know of a target: similar samples, or a linear map.

They tell faults of the data from faults of the training: whether the labels of a split go with its
features, and whether what holds in one split holds in the other.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from job.data.dataset import Dataset, Split
from job.model.labels import labelled
from job.model.skill import Skill, measure_skill
from job.spec import Task

SAMPLES = 1024
"""Samples of a split, at most; they are consecutive, so that rows keep their neighbours."""
WIDEST = 256
"""Features of a sample, at most; of larger ones the mean, the first and the last position."""
NEAR = 10
"""Similar samples whose targets are averaged."""
RIDGE = 1e-2
"""Penalty of the linear map, as a part of the features' variance."""
FOLDS = 5
LONGEST = 5.0
"""Distance from the median, in interquartile ranges, at which a feature is cut off."""
EXACT = 0.999
"""Share of a target's variance from which on a sum of features is the target itself."""
FEWEST = 3
"""Rows for each weight of a linear map, at least."""
MOST, SLIGHT = 4, 0.05
"""Features of such a sum, at most; and what one has to add, in the target's deviations."""
CANCELLED = 2.0
"""Sum of the parts' variances over the target's: 1 of independent parts, more if they cancel."""


class Rows(NamedTuple):
    """Samples [n] as rows of features x [n, D] and of one task's target y [n, O], float64."""

    x: Tensor
    y: Tensor
    places: Tensor
    """[n] of the rows in their split."""

    def at(self, chosen: Tensor) -> Rows:
        """Some of the rows."""
        return Rows(self.x[chosen], self.y[chosen], self.places[chosen])


def rows_of(data: Dataset, task: Task) -> dict[str, Rows] | None:
    """The rows of both splits with a label, scaled as the training split; None without numbers."""
    if not data.stats:
        return None
    raw = {"train": _features(data.train, data), "validation": _features(data.validation, data)}
    low, middle, high = raw["train"].quantile(
        torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0
    )
    spread = torch.where(high > low, high - low, raw["train"].std(0).clamp(min=1e-30))
    targets = {"train": _target(data.train, task), "validation": _target(data.validation, task)}
    centre = targets["train"].nanmedian(0).values
    size = (targets["train"] - centre).abs().nanmedian(0).values
    rows = {}
    for name, x in raw.items():
        y = targets[name]
        if not task.loss.of_classes:  # outliers must not decide
            y = ((y - centre) / torch.where(size > 0, size, 1.0)).clamp(-10, 10)
        whole = y.isfinite().all(1)
        scaled = ((x - middle) / spread).clamp(-LONGEST, LONGEST)
        rows[name] = Rows(scaled[whole], y[whole], whole.nonzero().flatten())
    return rows


def skill_within(rows: Rows, shift: int = 0) -> Skill | None:
    """The skill on each fifth of the rows of what the other rows tell.

    shift: features are taken with the target of the row so many places on. None if the rows are
    too few, or their target never changes.
    """
    x, y, places = rows
    if shift:
        first, last = max(-shift, 0), len(x) - max(shift, 0)
        x, y, places = x[first:last], y[first + shift : last + shift], places[first:last]
    guess = torch.zeros_like(y)
    for fold in range(FOLDS):
        inside = torch.arange(len(x)) * FOLDS // max(len(x), 1) == fold
        guess[inside] = _best_guess(Rows(x, y, places).at(~inside), x[inside])
    return _skill(guess, y)


def skill_across(given: Rows, asked: Rows) -> Skill | None:
    """The skill on rows `asked` of what rows `given` tell."""
    return _skill(_best_guess(given, asked.x), asked.y)


def contradiction(rows: Rows, same: Tensor) -> Skill | None:
    """1 − (squared differences of targets to the most similar row) / (to rows with its features).

    same: [n] a number for each row that rows with the same features share; only those with a mate
    are asked. Where labels follow the features, however loosely, similar rows differ in them at
    least as much as rows with the same features, and this is 0 or less (Cauchy and Schwarz). It is
    above 0 where rows were copied and not their labels. None if rows with mates are few.
    """
    _, group, count = same.unique(return_inverse=True, return_counts=True)
    mated = count[group] > 1
    x, y, group = rows.x[mated], rows.y[mated], group[mated]
    if len(x) < 2 * NEAR or len(group.unique()) < NEAR:
        return None
    mates = (group[:, None] == group).fill_diagonal_(fill_value=False)
    apart = torch.cdist(y, y).square()
    to_mates = (apart * mates).sum(1) / mates.sum(1)
    away = torch.cdist(x, x).masked_fill(group[:, None] == group, torch.inf)
    to_similar = apart.gather(1, away.argmin(1, keepdim=True)).squeeze(1)
    order = group.argsort()  # so that rows with the same features count as one
    largest = int(mates.sum(1).max()) + 1
    if not to_mates.sum() > 0 or len(x) < 3 * largest:
        return None
    return measure_skill(to_similar[order], to_mates[order], largest)


class Formula(NamedTuple):
    """A target that a few features give exactly, by a weighted sum, though none does alone."""

    columns: list[int]
    """Of the rows' features, those in the sum."""
    parts: list[float]
    """What each adds to the target, in the target's standard deviations."""
    explained: float
    """Share of the target's variance that the sum tells on rows which it was not fitted to."""
    alone: float
    """The most that one of them tells, a squared correlation."""


def hidden_formula(train: Rows, held_out: Rows) -> Formula | None:
    """The weighted sum of few features that is a number y [n, 1], if its parts mostly cancel.

    Parts that cancel tell it from an honest sum of features: only numbers that were made from the
    target have the same in them, with both signs. None if rows are too few to tell.
    """
    given, asked = (_unclipped(rows) for rows in (train, held_out))
    count = given.x.shape[1]
    if given.y.shape[1] != 1 or len(given.x) < FEWEST * (count + 1) or len(asked.x) < NEAR:
        return None
    weights, explained = _fit(given, asked)
    if explained < EXACT:
        return None
    parts = weights * given.x.std(0) / given.y.std()
    chosen = (parts.abs() > SLIGHT).nonzero().flatten()
    if not 1 < len(chosen) <= MOST:
        return None
    few, asked_few = (Rows(rows.x[:, chosen], rows.y, rows.places) for rows in (given, asked))
    weights, explained = _fit(few, asked_few)
    parts = (weights * few.x.std(0) / few.y.std()).abs()
    if explained < EXACT or parts.square().sum() < CANCELLED:
        return None
    both = torch.cat([few.x, few.y], 1).T
    alone = both.corrcoef()[-1, :-1].square().max()
    return Formula(chosen.tolist(), parts.tolist(), explained, float(alone))


def column_names(data: Dataset) -> list[str]:
    """The names of the rows' features."""
    names = []
    for of in data.stats:
        x = data.train.inputs[of]
        wide, features = prod(x.shape[1:]) > WIDEST, x.shape[-1]
        places = 3 if wide else prod(x.shape[1:-1])
        some = range(min(features, WIDEST) if wide else features)
        names += [data.feature_name(of, i) for _ in range(places) for i in some]
    return names


def _unclipped(rows: Rows) -> Rows:
    """The rows none of whose numbers was cut off."""
    return rows.at(((rows.x.abs() < LONGEST).all(1) & (rows.y.abs() < 10).all(1)).nonzero()[:, 0])


def _fit(given: Rows, asked: Rows) -> tuple[Tensor, float]:
    """The weights [D] of a linear map, and the share of the variance that it tells elsewhere."""
    centre, level = given.x.mean(0), given.y.mean(0)
    weights = torch.linalg.lstsq(given.x - centre, given.y - level, driver="gelsd").solution
    missed = (asked.x - centre) @ weights + level - asked.y
    whole = (asked.y - asked.y.mean()).square().sum()
    return weights[:, 0], 1 - float(missed.square().sum() / whole.clamp(min=1e-300))


def _features(split: Split, data: Dataset) -> Tensor:
    """[n, D] numbers of the first samples; missing values are 0."""
    first = torch.arange(min(len(split), SAMPLES))
    columns = []
    for name in data.stats:
        x = split.inputs[name][first].double().nan_to_num()
        x = x.flatten(1, -2) if x.dim() > 2 else x.unsqueeze(1)
        if x[0].numel() > WIDEST:
            x = torch.stack([x.mean(1), x[:, 0], x[:, -1]], 1)[..., :WIDEST]
        columns.append(x.flatten(1))
    return torch.cat(columns, 1)


def _target(split: Split, task: Task) -> Tensor:
    """[n, O] of the first samples: classes one-hot, means over the steps; NaN without a label."""
    y = split.targets[task.name][: min(len(split), SAMPLES)]
    known = labelled(y)
    if task.loss.of_classes:
        hot = functional.one_hot(y.clamp(min=0).long(), task.outputs).double()
        hot[~known] = torch.nan
        y = hot
    else:
        y = torch.where(known, y.double(), torch.nan)
    rows: Tensor = y.flatten(1, -2).nanmean(1) if y.dim() > 2 else y
    return rows


def _best_guess(given: Rows, asked: Tensor) -> Tensor:
    """What a linear map and similar samples say of features [m, D], on average: [m, O]."""
    if len(given.x) <= NEAR:
        return given.y.mean(0).expand(len(asked), -1)
    near = torch.cdist(asked, given.x).topk(NEAR, largest=False).indices
    return (given.y[near].mean(1) + _linear(given, asked)) / 2


def _linear(given: Rows, asked: Tensor) -> Tensor:
    """Ridge regression."""
    centre, level = given.x.mean(0), given.y.mean(0)
    x = given.x - centre
    square = x.T @ x / len(x)
    penalty = RIDGE * square.diagonal().mean().clamp(min=1e-12) + square.shape[0] / len(x) * 1e-2
    weights = torch.linalg.solve(
        square + penalty * torch.eye(len(square), dtype=x.dtype), x.T @ (given.y - level) / len(x)
    )
    bound = (given.y - level).abs().amax(0)
    moved: Tensor = ((asked - centre) @ weights).clamp(-bound, bound)
    return level + moved


def _skill(guess: Tensor, y: Tensor) -> Skill | None:
    if len(y) < 2 * NEAR:
        return None
    trivial = (y - y.mean(0)).square().sum(1)
    if not trivial.sum() > 0:
        return None
    return measure_skill((guess - y).square().sum(1), trivial, 1)
