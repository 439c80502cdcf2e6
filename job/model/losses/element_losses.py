"""The loss functions: a prediction and a target → one loss for each element.

An element is an output of a prediction, or the prediction as a whole where all its outputs have one
loss (job.spec.losses). All are finite, with finite gradients, for outputs of any size up to 1e4.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from job import spec
from job.model.own.functions import LoadedLoss

STEEPEST = 30.0
"""Log rate beyond which a Poisson rate, there 1e13, grows linearly. Counts must be lower."""
PAIRS = 2**24
"""Pairs of items that are looked at together, so that long lists need little memory."""
UNSURE = 1e-7
"""Distance of a focal probability from 1, below which it has no gradient."""


def mean_loss(loss: spec.Loss, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean loss over all elements (scalar).

    prediction: [..., W], W numbers for each prediction (`Task.head_width`): outputs in the target's
    units, or what the loss reads (`LossSection.reads`). target: [...] int64 for losses of classes,
    [..., O] float for the others.
    """
    return _reduced_loss(loss, prediction, target, "mean")


def sample_losses(loss: spec.Loss, prediction: Tensor, target: Tensor) -> Tensor:
    """Mean loss over the elements of each of N samples [N]; arguments as for `mean_loss`."""
    return _reduced_loss(loss, prediction, target, "none").reshape(len(target), -1).mean(1)


def element_losses(loss: spec.Loss, prediction: Tensor, target: Tensor) -> Tensor:
    """Loss of each element; arguments as for `mean_loss`.

    In the target's shape, without its last axis where all outputs have one loss.
    """
    shape = target.shape[:-1] if loss.whole else target.shape
    return _reduced_loss(loss, prediction, target, "none").view(shape)


def _reduced_loss(loss: spec.Loss, prediction: Tensor, target: Tensor, reduction: str) -> Tensor:
    match loss:
        case spec.CrossEntropy(focal=0.0):
            logits, classes = prediction.flatten(0, -2), target.flatten()
            smoothing = loss.smoothing
            return F.cross_entropy(logits, classes, reduction=reduction, label_smoothing=smoothing)
        case spec.BinaryCrossEntropy(focal=0.0):
            target = _smoothed(target, loss.smoothing)
            return F.binary_cross_entropy_with_logits(prediction, target, reduction=reduction)
        case spec.Huber():
            return F.huber_loss(prediction, target, reduction=reduction, delta=loss.delta)
        case spec.MeanSquare():
            return F.mse_loss(prediction, target, reduction=reduction)
        case spec.MeanAbsolute():
            return F.l1_loss(prediction, target, reduction=reduction)
        case spec.CrossEntropy():
            each = _focal(prediction, target, loss)
        case spec.BinaryCrossEntropy():
            each = _binary_focal(prediction, target, loss)
        case spec.Ordinal():
            each = _ordinal(prediction, target)
        case spec.Quantile():
            each = _pinball(prediction, target, loss)
        case spec.PoissonNLL():
            each = _poisson(prediction, target)
        case spec.GaussianNLL():
            each = _gaussian(prediction, target, loss)
        case spec.Ranking():
            each = _pairwise(prediction, target)
        case spec.PythonLoss():
            assert isinstance(loss, LoadedLoss)
            each = loss.of(prediction, target)
    return each if reduction == "none" else each.mean()


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    """The targets of 0 and 1 after label smoothing."""
    return target if smoothing == 0 else target * (1 - smoothing) + smoothing / 2


def _focal(logits: Tensor, classes: Tensor, loss: spec.CrossEntropy) -> Tensor:
    """Focal loss [...] of logits [..., K] (Lin et al. 2017, eq. 4), of labels that may be smoothed.

    A probability near 1 is clamped: (1 − p)^γ has an infinite slope at 1 if γ < 1.
    """
    log_p = logits.log_softmax(-1).clamp(max=-UNSURE)
    terms = -((-log_p.expm1()).log() * loss.focal).exp() * log_p
    of_label = terms.gather(-1, classes.unsqueeze(-1)).squeeze(-1)
    return (1 - loss.smoothing) * of_label + loss.smoothing * terms.mean(-1)


def _binary_focal(logits: Tensor, target: Tensor, loss: spec.BinaryCrossEntropy) -> Tensor:
    """The same of independent 0/1 outputs."""
    ones = _smoothed(target, loss.smoothing)
    log_one, log_zero = F.logsigmoid(logits), F.logsigmoid(-logits)
    of_one = -(loss.focal * log_zero).exp() * log_one
    of_zero = -(loss.focal * log_one).exp() * log_zero
    return ones * of_one + (1 - ones) * of_zero


def _ordinal(logits: Tensor, classes: Tensor) -> Tensor:
    """−ln P(class) [...], from the logits [..., K−1] of P(y > k | y ≥ k).

    Shi, Cao and Raschka 2021, eq. 8, without its division by the number of terms in a batch: their
    sum over k ≤ y is the negative log-likelihood of the class, and so a loss of one element.
    """
    k, y = torch.arange(logits.shape[-1], device=logits.device), classes.unsqueeze(-1)
    terms = F.softplus(torch.where(k < y, -logits, logits))
    return torch.where(k <= y, terms, 0.0).sum(-1)


def _pinball(prediction: Tensor, target: Tensor, loss: spec.Quantile) -> Tensor:
    """Mean over the levels of the pinball losses [..., O] of quantiles [..., O × levels]."""
    levels = _levels(loss.levels, prediction.dtype, prediction.device)
    error = target.unsqueeze(-1) - prediction.unflatten(-1, (-1, len(levels)))
    return torch.maximum(levels * error, (levels - 1) * error).mean(-1)


@cache
def _levels(levels: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept on the device: to send them at each step would wait for it."""
    return torch.tensor(levels, dtype=dtype, device=device)


def _poisson(log_rate: Tensor, counts: Tensor) -> Tensor:
    """Half the unit deviance of counts, rate − y − y ln(rate / y), from log rates.

    Of many, as y (eᵈ − 1 − d) with d = ln(rate / y): the terms of the other form are large there,
    and cancel. Beyond STEEPEST both go on in a straight line.
    """
    near, many = log_rate.clamp(max=STEEPEST), counts.clamp(min=1)
    d = near - many.log()
    of_few = near.exp() - counts * near + torch.xlogy(counts, counts) - counts
    curve = torch.where(counts > 1, many * (d.expm1() - d), of_few)
    # Not log_rate − near: of its two slopes, e³⁰ each, the difference would leave noise.
    return curve + (math.exp(STEEPEST) - counts) * (log_rate - STEEPEST).clamp(min=0)


def log_variance_ratio(raw: Tensor, loss: spec.GaussianNLL) -> Tensor:
    """ln(v / floor²) of the variance v = floor² + exp(raw): never below 0, and smooth."""
    ratio: Tensor = F.softplus(raw - 2 * math.log(loss.floor))
    return ratio


def _gaussian(prediction: Tensor, target: Tensor, loss: spec.GaussianNLL) -> Tensor:
    """Losses [..., O] of means and raw log variances [..., 2 O].

    ½ (ln v + error² / v), less its least value, ln floor: the constant ½ ln 2π cancels too.
    """
    mean, raw = prediction.unflatten(-1, (-1, 2)).unbind(-1)
    ratio = log_variance_ratio(raw, loss)
    error: Tensor = (target - mean) / loss.floor
    return (ratio + error * error * (-ratio).exp()) / 2


def _pairwise(scores: Tensor, relevance: Tensor) -> Tensor:
    """Mean over a list's pairs of ln(1 + exp(−(s_i − s_j))) [...], where i is more relevant than j.

    Burges et al. 2005, eq. 3. NaN is an item without a relevance. A list without a pair has 0.
    """
    lists = max(1, PAIRS // scores.shape[-1] ** 2)
    parts = []
    for s, y in zip(
        scores.flatten(0, -2).split(lists), relevance.flatten(0, -2).split(lists), strict=True
    ):
        above = y.unsqueeze(-1) > y.unsqueeze(-2)
        losses = torch.where(above, F.softplus(s.unsqueeze(-2) - s.unsqueeze(-1)), 0.0)
        parts.append(losses.sum((-2, -1)) / above.sum((-2, -1)).clamp(min=1))
    return torch.cat(parts).view(scores.shape[:-1])
