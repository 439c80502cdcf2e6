"""NashMTL and CAGrad for two tasks without a solver.

torchjd solves them by cvxpy in 3 and 6 to 16 ms a step, which the toy's half a million steps do not
allow. Two tasks leave one unknown. tests/balance/test_toy.py holds both to the weights that
job.balance.torchjd takes from torchjd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from job.balance.base import Balancer


class NashOfTwo(Balancer):
    """Nash-MTL (Navon et al. 2022): G α = 1/α gives α_i = 1 / |g_i|, up to a common factor.

    torchjd's `max_norm` of 1 brings the combination to length 1, in job.balance.torchjd's unit: the
    root mean square of the two norms.
    """

    BLUR = torch.finfo(torch.float32).eps
    """What a float32 Gram matrix cannot tell from opposite gradients, for which 1 + cos is 0."""

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights; neither gradient may be 0."""
        (g11, g12), (_, g22) = gram.double().tolist()
        norm1, norm2 = math.sqrt(g11), math.sqrt(g22)
        length = math.sqrt(2 * max(1 + g12 / (norm1 * norm2), self.BLUR))
        unit = math.sqrt((g11 + g22) / 2)
        return torch.tensor([unit / norm1, unit / norm2]) / length


class CAGradOfTwo(Balancer):
    """CAGrad (Liu et al. 2021): g0 + c |g0| g_w / |g_w|, with g0 the mean gradient.

    w is the point of the segment between g1 and g2 with the least g_w·g0 + c |g0| |g_w|, a convex
    function of one number, found by halving on its slope.
    """

    TINY = 1e-4
    """torchjd's `norm_eps`: a g_w under this share of the gradients' norm counts as 0."""

    def __init__(self, c: float) -> None:
        super().__init__(2)
        self.c = c

    def weigh(self, losses: Tensor, gram: Tensor, present: Tensor | None = None) -> Tensor:
        """The weights; 1/2 each at a g_w of 0, as evengrad has it where a method gives none."""
        (g11, g12), (_, g22) = gram.double().tolist()
        pull = self.c * math.sqrt(max(g11 + 2 * g12 + g22, 0.0)) / 2
        rise = (g11 - g22) / 2  # (g1 − g2)·g0
        low, high = 0.0, 1.0
        for _ in range(50):
            w = (low + high) / 2
            length = math.sqrt(max(w * w * g11 + 2 * w * (1 - w) * g12 + (1 - w) ** 2 * g22, 0.0))
            slope = w * g11 + (1 - 2 * w) * g12 - (1 - w) * g22  # (g1 − g2)·g_w
            if rise * length + pull * slope > 0:
                high = w
            else:
                low = w
        if length < self.TINY * math.sqrt(g11 + g22):
            return torch.full((2,), 0.5)
        return torch.tensor([0.5 + pull / length * w, 0.5 + pull / length * (1 - w)])
