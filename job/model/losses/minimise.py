"""The constant prediction that minimises any loss, by search.

The trivial prediction of a loss that has no formula for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from job.without_compiler import without_compiler

CHUNK = 2**22
"""Numbers of a prediction that a search looks at together, so that it needs little memory."""
SMOOTH = 1e-6
"""Slope at which a search has arrived, of a loss over its spread."""
HALVINGS = 22
"""Of the steps of a search without slopes: they end at 2e-7 of the target's spread."""

ElementLosses = Callable[[Tensor, Tensor], Tensor]
"""A prediction [n, *positions, W] and a target [n, *positions] or [n, *positions, O] → a loss for
each element, [n, *positions] or [n, *positions, O]."""


def minimised(
    losses: ElementLosses, target: Tensor, weights: Tensor | None, start: Tensor, spread: Tensor
) -> Tensor:
    """The constant [1, *positions, W] float64 that minimises the weighted mean of any loss.

    The mean is over dimension 0 of the target [n, …], for each position by itself. weights: of the
    elements, in the shape of the losses; None: all weigh the same. start, spread [1, *positions,
    W]: where the search begins, and the size of a large step. A quasi-Newton search (L-BFGS) leads
    to the minimum of a smooth loss. Where it ends with a slope, as at a kink, a search along the
    axes follows, in steps that halve (Hooke and Jeeves 1961). NaN where all weights are 0.
    """
    means = _Means(losses, target, weights, start)
    spread = torch.where(spread > 0, spread, 1.0)
    found = _quasi_newton(means, start.double(), spread)
    _, slope = means.slope(found)
    if bool((slope * spread).abs().max() > SMOOTH * (1 + means.of(found).max())):
        found = _along_axes(means, found, spread)
    return torch.where(means.known, found, torch.nan)


class _Means:
    """The mean losses of one constant for all n targets, at each position."""

    def __init__(
        self, losses: ElementLosses, target: Tensor, weights: Tensor | None, start: Tensor
    ) -> None:
        self.losses = losses
        target = target.double() if target.is_floating_point() else target
        some = losses(start.double(), target[:1])
        if weights is None:
            weights = torch.ones(len(target), *some.shape[1:], dtype=torch.float64)
        weights = weights.to(start.device)
        totals = weights.sum(0, keepdim=True)
        self.weights = weights / torch.where(totals > 0, totals, 1.0)
        self.by_output = some.dim() == start.dim()
        known = totals > 0 if self.by_output else (totals > 0).unsqueeze(-1)
        self.known = known.repeat_interleave(start.shape[-1] // known.shape[-1], -1)
        more = target.dim() - weights.dim()
        counted = self.weights.view(*weights.shape, *[1] * more) > 0
        self.target = torch.where(counted, target, 0)  # no NaN, which times 0 is NaN

    def of(self, constant: Tensor) -> Tensor:
        """[*positions]."""
        with torch.no_grad():
            return torch.stack(list(self._parts(constant))).sum(0)

    def slope(self, constant: Tensor) -> tuple[float, Tensor]:
        """Their sum over the positions, and its slope in the constant's shape."""
        leaf = constant.detach().requires_grad_()
        total, slope = 0.0, torch.zeros_like(constant)
        with torch.enable_grad():  # a caller that only evaluates has none
            for part in self._parts(leaf):
                slope += torch.autograd.grad(part.sum(), leaf)[0]
                total += part.sum().item()
        return total, slope

    def _parts(self, constant: Tensor) -> Iterator[Tensor]:
        """What some rows after others give to the means [*positions]."""
        size = max(1, CHUNK // max(1, constant.numel()))
        for target, weights in zip(self.target.split(size), self.weights.split(size), strict=True):
            wide = constant.expand(len(target), *constant.shape[1:])
            part = (self.losses(wide, target) * weights).sum(0)
            yield part.mean(-1) if self.by_output else part


def _quasi_newton(means: _Means, start: Tensor, spread: Tensor) -> Tensor:
    """Where L-BFGS ends that begins at `start`; of two places the better one at each position."""
    moved = torch.zeros_like(start).requires_grad_()
    search = without_compiler(torch.optim.LBFGS)(
        [moved],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        total, slope = means.slope(start + spread * moved.detach())
        moved.grad = slope * spread
        return total

    search.step(closure)
    found = start + spread * moved.detach()
    better = means.of(found) < means.of(start)
    return torch.where(better.unsqueeze(-1), found, start)


def _along_axes(means: _Means, found: Tensor, spread: Tensor) -> Tensor:
    """Where a search ends that tries steps up and down along each axis, from `found`."""
    least, step = means.of(found), spread / 10
    for _ in range(HALVINGS):
        moved = torch.zeros_like(found, dtype=torch.bool)
        for w in range(found.shape[-1]):
            for sign in (1, -1):
                trial = found.clone()
                trial[..., w] += sign * step[..., w]
                loss = means.of(trial)
                better = (loss < least)[None]
                found = torch.where(better.unsqueeze(-1), trial, found)
                least = torch.where(better[0], loss, least)
                moved[..., w] |= better
        step = torch.where(moved, step, step / 2)
    return found
