"""The tasks' gradients at the shared representation z, as products of small factors.

A step task's head is a linear map V [O, D] of each sample, so its gradient at z is δ V, with
δ [T, O] the loss's gradient at the outputs. A window task reads the mean of z over time, so its
gradient is 1/T times that at the mean, the same at every step; where some steps are padding, it is
what each step counts in the mean, times that. Every task thus has a gradient of rank O or 1 per
sample, and inner products follow from the factors,

    ⟨δ V, δ' V'⟩ = Σ_samples Σ_{o,o'} (δᵀ δ')_{o,o'} (V V'ᵀ)_{o,o'},

exactly, and no gradient [B, T, D] is ever stored; only their weighted sum is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def membership(outputs: Sequence[int]) -> Tensor:
    """A 0/1 matrix [K, R + W] of which factor belongs to which task, from outputs per step [K].

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
    pooling: Tensor | None = None
    """[B, T, 1], what each step counts in the mean; None: all the same."""

    def gram(self) -> Tensor:
        """Inner products [K, K] of the tasks' gradients at z."""
        batch, steps, outputs = self.at_outputs.shape
        count, factors = self.members.shape
        width = self.rows.shape[2]
        if not outputs:  # window tasks alone: each has one row, which counts at every step
            rows = (
                self.rows if self.pooling is None else self.rows * self.pooling.norm(dim=1)[:, None]
            )
            each = rows.transpose(0, 1).flatten(1)
            return each @ each.T / (steps if self.pooling is None else 1)
        if factors**2 * (steps + width) > count**2 * steps * width:  # many outputs per step
            dense = torch.stack([self.of_task(k)[0].flatten() for k in range(count)])
            return dense @ dense.T
        counts = self.at_outputs.new_full((1, 1, 1), 1 / steps)
        counts = counts if self.pooling is None else self.pooling
        delta = torch.cat([self.at_outputs, counts.expand(batch, steps, factors - outputs)], 2)
        products = ((delta.mT @ delta) * (self.rows @ self.rows.mT)).sum(0)
        # Members are selected, not multiplied by 0: so one task's overflow stays with that task.
        mine = self.members.bool()
        by_task = torch.where(mine[:, :, None], products, 0.0).sum(1)
        return torch.where(mine, by_task[:, None], 0.0).sum(2)

    def combined(self, weights: Tensor) -> list[Tensor]:
        """Σ_k w_k ∂L_k/∂z, of one tensor [B, T, D], for weights [K]."""
        steps, outputs = self.at_outputs.shape[1:]
        by_factor = weights @ self.members
        of_windows = by_factor[outputs:] / (steps if self.pooling is None else 1)
        # A product reads the rows once; weighing and then adding them, three times.
        mean = torch.tensordot(of_windows, self.rows[:, outputs:].transpose(0, 1), 1).unsqueeze(1)
        at_steps = mean.expand(-1, steps, -1) if self.pooling is None else self.pooling * mean
        if not outputs:
            return [at_steps]
        # One product and one sum in place: a second [B, T, D] would cost as much as the product.
        of_steps = self.at_outputs * by_factor[:outputs]
        return [torch.baddbmm(at_steps, of_steps, self.rows[:, :outputs])]

    def of_task(self, task: int) -> list[Tensor]:
        """∂L_task/∂z, of one tensor [B, T, D]."""
        chosen = torch.zeros_like(self.members[:, 0])
        chosen[task] = 1
        return self.combined(chosen)
