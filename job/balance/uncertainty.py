"""Learned homoscedastic uncertainty (Kendall, Gal and Cipolla 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from job.balance.fixed import Fixed


def resting_weight(by_hand: float, loss: float) -> float:
    """The weight at which learning settles: w / (2 loss), within the bounds of a log variance."""
    return 0.5 * by_hand * math.exp(-min(max(math.log(loss), -LARGEST_LOG), LARGEST_LOG))


LARGEST_LOG = 10.0
"""Largest distance of a learned log variance from 0."""


class Uncertainty(Fixed):
    """Learned homoscedastic uncertainty (Kendall, Gal and Cipolla 2018, equation 7).

    objective = Σ w_k (½ exp(−s_k) L_k + ½ s_k) over the log variances s, so task k has the weight
    w_k ½ exp(−s_k). At rest exp(s_k) = L_k, so the weight is w_k / (2 L_k): the loss is divided by
    itself. The objective has no lower bound once a loss reaches 0, so s is kept within ±10.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.log_variance = nn.Parameter(torch.zeros(self.tasks))

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The factors of the losses in the objective; clamps s to its bounds."""
        self.log_variance.clamp_(-LARGEST_LOG, LARGEST_LOG)
        return self.weights * 0.5 * torch.exp(-self.log_variance)

    def objective(self, losses: Tensor) -> Tensor:
        """The objective above, whose gradient trains s."""
        s = self.log_variance
        return (self.weights * 0.5 * (torch.exp(-s) * losses.detach() + s)).sum()
