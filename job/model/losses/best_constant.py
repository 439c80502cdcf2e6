"""The best constant prediction of a target: by formula, or by search where there is none."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from job import spec
from job.model.labels import weighted_mean
from job.model.losses.element_losses import PAIRS, element_losses
from job.model.losses.minimise import minimised

SURE = 40.0
"""Logit of a certain prediction: its error, exp(-40), is below the precision of a float."""

TINY = 2.0**-50
"""Of the range of the targets: a step of this size is none."""
NEWTON, BISECTION = 20, 60
"""Rounds of a search for Huber's minimiser."""


def best_constant(
    loss: spec.Loss,
    outputs: int,
    target: Tensor,
    pseudo: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """The prediction [1, …, W] that minimises the loss over dimension 0 of the target.

    weights: of the target's elements; the loss is then their weighted mean. For the categorical
    losses these are logits, from the frequencies after adding `pseudo` counts spread evenly over
    the classes. They are always finite. NaN where all weights are 0.
    """
    weights = None if weights is None else weights.double()
    match loss:
        case spec.CrossEntropy() | spec.Ordinal() | spec.BinaryCrossEntropy():
            return _of_classes(loss, outputs, target, pseudo, weights)
        case spec.MeanSquare():
            return _mean(target, weights)
        case spec.MeanAbsolute():
            return _median(target, weights)
        case spec.Huber():
            return _huber_centre(target, loss.delta, weights)
        case spec.Quantile():
            if weights is None:
                weights = torch.ones_like(target, dtype=torch.float64)
            each = [_quantile(target, weights, level) for level in loss.levels]
            return torch.stack(each, -1).flatten(-2)
        case spec.PoissonNLL():
            return _mean(target, weights).log().clamp(min=-SURE)
        case spec.GaussianNLL():
            return _normal(target, loss.floor, weights)
        case spec.Ranking():
            return _of_lists(target, weights)
        case spec.PythonLoss():
            return _of_any(loss, target, weights)


def _of_classes(
    loss: spec.CrossEntropy | spec.Ordinal | spec.BinaryCrossEntropy,
    outputs: int,
    target: Tensor,
    pseudo: float,
    weights: Tensor | None,
) -> Tensor:
    """Logits from the frequencies of the classes, or of 0 and 1."""
    counts = _class_counts(target, outputs if loss.of_classes else 2, weights).unsqueeze(0)
    total = counts.sum(-1, keepdim=True)
    # A pseudo count weighs as much as an element does in the mean.
    number = len(target) if weights is None else (weights > 0).sum(0, keepdim=True).unsqueeze(-1)
    counts = (counts + pseudo * total / number / counts.shape[-1]) / (total * (1 + pseudo / number))
    if isinstance(loss, spec.Ordinal):
        at_least = counts.flip(-1).cumsum(-1).flip(-1)
        known = counts.isfinite().all(-1, keepdim=True)
        odds = (at_least[..., 1:] / counts[..., :-1]).log().clamp(-SURE, SURE)
        return torch.where(known, odds.nan_to_num(0.0), torch.nan)
    shares = counts * (1 - loss.smoothing) + loss.smoothing / counts.shape[-1]
    if isinstance(loss, spec.CrossEntropy):
        logits = shares.log().clamp(min=-SURE)
        labels = torch.arange(outputs, device=target.device)
    else:
        logits = shares[..., 1].logit().clamp(-SURE, SURE)
        labels = torch.arange(2.0, dtype=torch.float64, device=target.device)
    if loss.focal == 0:
        return logits
    # Each class once, with its frequency as weight, has the loss of all elements.
    labels = labels.view(-1, *[1] * (counts.dim() - 2)).expand(-1, *counts.shape[1:-1])

    def of_labels(prediction: Tensor, classes: Tensor) -> Tensor:
        return element_losses(loss, prediction, classes)

    frequencies = counts[0].movedim(-1, 0).nan_to_num(0.0)
    start = logits.nan_to_num(0.0)
    found = minimised(of_labels, labels, frequencies, start, torch.ones_like(logits))
    return found.clamp(-SURE, SURE)


def _class_counts(target: Tensor, classes: int, weights: Tensor | None) -> Tensor:
    """Number or weight [*positions, K] float64 of the labels of each class over dimension 0."""
    weights = torch.ones_like(target, dtype=torch.float64) if weights is None else weights
    labels = target.nan_to_num(0.0).clamp(min=0).long().movedim(0, -1)
    counts = weights.new_zeros(*target.shape[1:], classes)
    return counts.scatter_add_(-1, labels, weights.movedim(0, -1))


def _of_lists(target: Tensor, weights: Tensor | None) -> Tensor:
    """The scores [1, …, O] of lists: of the Bradley-Terry model of their pairs.

    From how often each item is above each other one [..., O, O], found by search.
    """
    lists, items = weights, target.shape[-1]
    if lists is None:
        lists = torch.ones(target.shape[:-1], dtype=torch.float64, device=target.device)
    above = lists.new_zeros(1, *target.shape[1:], items)
    rows = max(1, PAIRS // above.numel())
    for y, weight in zip(target.split(rows), lists.split(rows), strict=True):
        pairs = (y.unsqueeze(-1) > y.unsqueeze(-2)).double()
        each = pairs / pairs.sum((-2, -1), keepdim=True).clamp(min=1)
        above += (each * weight[..., None, None]).sum(0)
    total = lists.sum(0, keepdim=True)
    above /= torch.where(total > 0, total, 1.0)[..., None, None]

    def of_pairs(scores: Tensor, above: Tensor) -> Tensor:
        losses = F.softplus(scores.unsqueeze(-2) - scores.unsqueeze(-1))
        return (losses * above).sum((-2, -1))

    equal = above.new_zeros(1, *target.shape[1:])
    found = minimised(of_pairs, above, None, equal, torch.ones_like(equal))
    return torch.where(total.unsqueeze(-1) > 0, found, torch.nan)


def _of_any(loss: spec.PythonLoss, target: Tensor, weights: Tensor | None) -> Tensor:
    """The minimiser of a loss that is not known, found by search."""
    mean = _mean(target, weights)
    spread = _mean((target.double() - mean).square(), weights).sqrt()

    def of_elements(prediction: Tensor, target: Tensor) -> Tensor:
        return element_losses(loss, prediction, target)

    return minimised(of_elements, target, weights, mean.nan_to_num(0.0), spread.nan_to_num(0.0))


def _mean(target: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return target.double().mean(0, keepdim=True)
    return weighted_mean(target, weights).unsqueeze(0)


def _median(target: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return target.double().median(0, keepdim=True).values
    return _quantile(target, weights, 0.5)


def _normal(target: Tensor, floor: float, weights: Tensor | None) -> Tensor:
    """Mean and raw log variance [1, …, 2 O] of a normal distribution with floor² as least variance.

    The loss is the same for any variance up to floor²; its raw number is then e⁻⁴⁰ of it.
    """
    mean = _mean(target, weights)
    variance = _mean((target.double() - mean).square(), weights)
    above = variance - floor**2
    raw = above.clamp(min=floor**2 * math.exp(-SURE)).log()
    return torch.stack([mean, raw], -1).flatten(-2)


def _huber_centre(target: Tensor, delta: float, weights: Tensor | None = None) -> Tensor:
    """The minimiser of the mean Huber loss, where its monotone derivative is 0.

    Newton's steps reach it in a few rounds, as the derivative is linear in pieces. A step out of
    the bracket, or where no target is within delta, is one of bisection, and so is every late one.
    """
    target = target.double()
    if weights is not None:
        # Any label where there is none: it has no weight, and does not widen the search.
        target = torch.where(weights > 0, target, _median(target, weights))
    low = target.amin(0, keepdim=True)
    high = target.amax(0, keepdim=True)
    at, close = (low + high) / 2, TINY * (high - low)
    for k in range(NEWTON + BISECTION):
        gap = target - at
        pull, near = gap.clamp(-delta, delta), (gap.abs() <= delta).double()
        if weights is not None:
            pull, near = pull * weights, near * weights
        pull, near = pull.sum(0, keepdim=True), near.sum(0, keepdim=True)
        low, high = torch.where(pull > 0, at, low), torch.where(pull > 0, high, at)
        step = at + pull / near
        inside = (near > 0) & ((low < step) & (step < high) | (step == at)) & (k < NEWTON)
        following = torch.where(inside, step, (low + high) / 2)
        arrived = (following - at).abs() <= close
        if bool((arrived | at.isnan()).all()):
            return following
        at = following
    return at


def _quantile(target: Tensor, weights: Tensor, level: float) -> Tensor:
    """The lowest value [1, …] up to which a share of the weight lies; NaN where there is none."""
    values, order = torch.where(weights > 0, target.double(), torch.inf).sort(0)
    up_to = weights.gather(0, order).cumsum(0)
    first = (up_to >= level * up_to[-1:]).int().argmax(0, keepdim=True)
    return torch.where(up_to[-1:] > 0, values.gather(0, first), torch.nan)
