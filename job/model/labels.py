"""Labels: which elements of a target have one, and means that weigh the elements.

A target's missing label is NaN, or −1 among classes. Weights are in the target's shape, and 0 where
a label is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def labelled(target: Tensor) -> Tensor:
    """Where a target has a label: bool, in its shape. A target of type int64 holds classes."""
    return target == target if target.is_floating_point() else target >= 0


def is_complete(target: Tensor) -> bool:
    """True if no label is missing."""
    return bool(labelled(target).all())


def all_count(target: Tensor, weights: Tensor | None) -> bool:
    """True if all elements of a target [N, …] have labels, and no sample's weight [N] is 0."""
    return is_complete(target) and (weights is None or bool(weights.all()))


def with_usual(target: Tensor) -> Tensor:
    """The target [n, …] with a usual label where one is missing: the median over dimension 0."""
    if is_complete(target):
        return target
    known = labelled(target)
    median = torch.where(known, target.double(), torch.nan).nanmedian(0).values
    return torch.where(known, target, median.nan_to_num().to(target.dtype))


def shares(weights: Tensor) -> Tensor:
    """The weights over their sum; all 0 if that is 0."""
    total = weights.sum()
    return weights / torch.where(total > 0, total, 1.0)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean [...] float64 over dimension 0 of values [n, …]; NaN where all weights are 0."""
    weights = weights.double()
    known = torch.where(weights > 0, values.double(), 0.0)
    return (weights * known).sum(0) / weights.sum(0)


def by_sample(weighted: Tensor, weights: Tensor) -> Tensor:
    """What each labelled sample gives to a mean over elements [n] float64, n ≤ N.

    weighted: [N, …], weight times value of each element. A sample's part is its sum, times n over
    the sum of all weights; so the mean of the parts is the weighted mean over the elements.
    Samples without a weight are left out.
    """
    sums, totals = (each.double().reshape(len(each), -1).sum(1) for each in (weighted, weights))
    counted = totals > 0
    return sums[counted] * (counted.sum() / totals.sum())
