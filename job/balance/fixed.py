"""Balancers with the spec's own weights, as they are or divided by a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from job.balance.base import TINY, Balancer, kept_where_absent


class Fixed(Balancer):
    """The weights of the spec, as in a plain weighted sum."""

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(len(weights))
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The spec's weights."""
        return self.weights.clone()


class RunningMean(Fixed):
    """w_k / m_k, with m_k the running mean of the loss: the normalizer of the failing trainer.

    m = (L_1 + … + L_n) / n over the first `warmup` steps (at least one), afterwards
    m ← momentum·m + (1 − momentum)·L. The step's own loss is part of the mean that divides it, as
    in that trainer. A loss 1000 times as large gets a weight 1000 times smaller; a target's scale
    may change its gradient by more than that. A task's steps are those with a label of it; before
    the first its weight is w_k.
    """

    mean: Tensor
    steps: Tensor

    def __init__(self, weights: Sequence[float], momentum: float, warmup: int) -> None:
        super().__init__(weights)
        self.momentum, self.warmup = momentum, warmup
        self.register_buffer("mean", torch.zeros(self.tasks))
        self.register_buffer("steps", torch.zeros(self.tasks, dtype=torch.int64))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The spec's weights divided by the running means."""
        self.steps.add_(1 if present is None else present)
        warming = self.steps <= max(self.warmup, 1)
        kept = torch.where(warming, 1 - 1 / self.steps, self.momentum)
        moved = kept * self.mean + (1 - kept) * losses
        self.mean.copy_(kept_where_absent(present, moved, self.mean))
        return self.weights / torch.where(self.steps > 0, self.mean.clamp(min=TINY), 1.0)


class BatchMean(Fixed):
    """w_k / L_k with L_k the loss of this batch, held constant: the gradient of Σ w_k log L_k.

    The published form of this fix divided a detached loss by itself: a constant without gradient,
    so nothing was trained. This class does what that form intended.
    """

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The spec's weights divided by the losses; of an absent task, the spec's weight."""
        divisors = losses.clamp(min=TINY)
        return self.weights / kept_where_absent(present, divisors, torch.ones_like(divisors))
