"""The tasks' gradients at the shared representation z, in the factored form they come in.

A step task's head is a linear map V [O, D] of each sample, so its gradient at z is δ V, with
δ [T, O] the loss's gradient at the outputs. A window task reads the mean of z over time, so its
gradient is 1/T times that at the mean, the same at every step. Every task thus has a gradient of
rank O or 1 per sample, and inner products follow from the factors,

    ⟨δ V, δ' V'⟩ = Σ_samples Σ_{o,o'} (δᵀ δ')_{o,o'} (V V'ᵀ)_{o,o'},

exactly, without writing any gradient [B, T, D] down. Only their weighted sum is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def membership(outputs: Sequence[int]) -> Tensor:
    """Which factor belongs to which task: 0/1 [K, R + W], from outputs per step [K].

    The factors are the R outputs of all step tasks, then the W window tasks (0 outputs per step).
    """
    owners = [k for k, n in enumerate(outputs) for _ in range(n)]
    owners += [k for k, n in enumerate(outputs) if n == 0]
    return torch.eye(len(outputs))[:, owners]


class Gradients(NamedTuple):
    """Gradients of K losses at z [B, T, D]; R outputs of step tasks in all, W window tasks."""

    at_outputs: Tensor
    """δ [B, T, R]."""
    rows: Tensor
    """[B, R + W, D]: V, then each window task's gradient at its mean of z over time."""
    members: Tensor
    """[K, R + W], see `membership`."""

    def gram(self) -> Tensor:
        """Inner products [K, K] of the tasks' gradients at z."""
        batch, steps, outputs = self.at_outputs.shape
        count, factors = self.members.shape
        width = self.rows.shape[2]
        if factors**2 * (steps + width) > count**2 * steps * width:  # many outputs per step
            dense = torch.stack([self.at_z(k).flatten() for k in range(count)])
            return dense @ dense.T
        even = self.at_outputs.new_full((1, 1, 1), 1 / steps)
        delta = torch.cat([self.at_outputs, even.expand(batch, steps, factors - outputs)], 2)
        products = ((delta.mT @ delta) * (self.rows @ self.rows.mT)).sum(0)
        # Sums over members by choice, not by product with 0: one task's overflow stays its own.
        mine = self.members.bool()
        by_task = torch.where(mine[:, :, None], products, 0.0).sum(1)
        return torch.where(mine, by_task[:, None], 0.0).sum(2)

    def combined(self, weights: Tensor) -> Tensor:
        """Σ_k w_k ∂L_k/∂z [B, T, D] for weights [K]."""
        steps, outputs = self.at_outputs.shape[1:]
        by_factor = weights @ self.members
        by_window = by_factor[outputs:, None] / steps
        mean = (by_window * self.rows[:, outputs:]).sum(1, keepdim=True)
        # One product and one sum in place: a second [B, T, D] would cost as much as the product.
        return torch.baddbmm(
            mean.expand(-1, steps, -1),
            self.at_outputs * by_factor[:outputs],
            self.rows[:, :outputs],
        )

    def at_z(self, task: int) -> Tensor:
        """∂L_task/∂z [B, T, D]."""
        chosen = torch.zeros_like(self.members[:, 0])
        chosen[task] = 1
        return self.combined(chosen)
