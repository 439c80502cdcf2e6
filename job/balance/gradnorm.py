"""GradNorm: gradient norms that follow the tasks' training rates (Chen et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from job.balance.base import TINY, kept_where_absent
from job.balance.fixed import Fixed

LEAST = 1e-3
"""Smallest weight before all are scaled to a mean of 1, as a step may make one 0 or less."""
BETAS = (0.9, 0.999)
"""Adam's, for the weights."""
EPSILON = 1e-8
"""Adam's."""


class GradNorm(Fixed):
    """GradNorm (Chen et al. 2018), with the norms at the shared representation.

    Task k has the norm G_k = v_k |g_k| under its learned weight v_k, 1 at the start. Its rate is
    r_k = (L_k / L_k of the first step), over the mean of these; so a task that learns slowly has a
    large rate. Each step returns the weights w_k v_k, with w_k the spec's weights, and then
    descends Σ_k |G_k / Ḡ − r_k^alpha| by Adam, with Ḡ the mean of the G_k and the targets held
    constant, and scales v to a mean of 1. The paper does not divide by Ḡ: Adam undoes the factor,
    but for its epsilon, and so a common factor of all losses changes nothing.

    In a step without labels of some task, all of this is done for the others alone, and the scale
    keeps the sum of theirs. The first step of a task is the first with a label of it.
    """

    reads_gram = True
    learned: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    first: Tensor
    steps: Tensor

    def __init__(self, weights: Sequence[float], alpha: float, lr: float) -> None:
        super().__init__(weights)
        self.alpha, self.lr = alpha, lr
        self.register_buffer("learned", torch.ones(self.tasks))
        self.register_buffer("exp_avg", torch.zeros(self.tasks))
        self.register_buffer("exp_avg_sq", torch.zeros(self.tasks))
        self.register_buffer("first", torch.ones(self.tasks))
        self.register_buffer("steps", torch.zeros(self.tasks, dtype=torch.int64))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The spec's weights times the learned ones; learns from this step for the next."""
        weights = self.weights * self.learned
        state = (self.learned, self.exp_avg, self.exp_avg_sq, self.first)
        before = [] if present is None else [each.clone() for each in state]
        self.first.copy_(torch.where(self.steps == 0, losses.clamp(min=TINY), self.first))
        self.steps.add_(1 if present is None else present)
        self._descend(self._slope(losses, gram.diagonal().clamp(min=0).sqrt(), present))
        if present is None:
            self.learned.div_(self.learned.mean())
            return weights
        self.learned.mul_(_mean(before[0], present) / _mean(self.learned, present))
        for now, old in zip(state, before, strict=True):
            now.copy_(kept_where_absent(present, now, old))
        return weights

    def _slope(self, losses: Tensor, norms: Tensor, present: Tensor | None) -> Tensor:
        """The slope [K] of Σ |G_k / Ḡ − r_k^alpha| by the learned weights; 0 without gradients."""
        left = losses.clamp(min=TINY) / self.first
        target = (left / _mean(left, present)) ** self.alpha
        weighted = self.learned * norms
        mean = _mean(weighted, present)
        slope = torch.sign(weighted - mean * target) * norms / mean
        return torch.where(mean > 0, slope, 0.0)

    def _descend(self, slope: Tensor) -> None:
        for moment, beta, now in zip(
            (self.exp_avg, self.exp_avg_sq), BETAS, (slope, slope**2), strict=True
        ):
            moment.mul_(beta).add_(now, alpha=1 - beta)
        # An absent task may have no steps yet; what is computed for it is not kept.
        first, second = (1 - beta ** self.steps.clamp(min=1) for beta in BETAS)
        step = (self.exp_avg / first) / ((self.exp_avg_sq / second).sqrt() + EPSILON)
        self.learned.sub_(step, alpha=self.lr).clamp_(min=LEAST)


def _mean(values: Tensor, present: Tensor | None) -> Tensor:
    """The mean of the values [K] of the tasks in the batch."""
    if present is None:
        return values.mean()
    return torch.where(present, values, 0.0).sum() / present.sum().clamp(min=1)
