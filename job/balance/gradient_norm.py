"""A balancer that gives all tasks equal gradient norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from job.balance.base import TINY
from job.balance.fixed import Fixed


class GradientNorm(Fixed):
    """Equal gradient norms at the shared representation.

    n_k is the bias-corrected running mean of task k's gradient norm, over the steps at which it
    is not 0 (momentum 0: the norm of this step). The weight is w_k n̄ / n_k, with n̄ the mean of
    the n_k: if all w_k are equal, all weighted norms are n̄. A task that never had a gradient keeps
    w_k and is left out of n̄. A norm below 1e-8 n̄ counts as 1e-8 n̄.
    """

    reads_gram = True
    norm: Tensor
    steps: Tensor

    def __init__(self, weights: Sequence[float], momentum: float) -> None:
        super().__init__(weights)
        self.momentum = momentum
        self.log_momentum = math.log(momentum) if momentum > 0 else -math.inf
        self.register_buffer("norm", torch.zeros(self.tasks))
        self.register_buffer("steps", torch.zeros(self.tasks, dtype=torch.int64))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The spec's weights times n̄ / n_k."""
        norm = gram.diagonal().clamp(min=0).sqrt()
        moved = self.momentum * self.norm + (1 - self.momentum) * norm
        self.norm.copy_(torch.where(norm > 0, moved, self.norm))
        self.steps += norm > 0
        known = self.steps > 0
        # In float32, 1 − momentum^steps would be 0 for a momentum near 1.
        seen = -torch.expm1(self.steps.double() * self.log_momentum)
        n = self.norm / torch.where(known, seen, 1.0).to(self.norm.dtype)
        mean = n.sum() / known.sum().clamp(min=1)
        return self.weights * torch.where(known, mean / torch.maximum(n, TINY * mean), 1.0)
