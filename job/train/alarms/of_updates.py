"""What updates can do to the weights: how far they get in a run, and how much decay takes of them.

Measured once after an epoch, from the weights, the last gradients and the optimizer's averages.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

MUON_RMS = 0.2
"""Root mean square of Muon's updates at a learning rate of 1, as it is set to match AdamW's."""


class UpdateSizes(NamedTuple):
    """Of all trained matrices together; balancers have none."""

    travel: float
    """How far the updates of a whole run can move the weights, relative to their norm: each as
    large as its learning rate allows, and all in one direction."""
    decay: float
    """Norm of what weight decay takes at a step, over that of what the gradient gives."""


FREE = UpdateSizes(math.inf, 0.0)
"""Updates that keep nothing from being learned."""


@torch.no_grad()
def update_sizes(optimizer: torch.optim.Optimizer, steps: int) -> UpdateSizes:
    """How large the updates of an optimizer are in a run of so many steps."""
    size, moved, taken, given = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.dim() < 2 or p.grad is None:
                continue
            update, pace = _update(group, p, optimizer.state.get(p, {}))
            square = p.double().square().sum().cpu()
            size += square
            moved += (group["base_lr"] * steps) ** 2 * pace
            taken += (group["lr"] * group["weight_decay"]) ** 2 * square
            given += group["lr"] ** 2 * update
    travel, decay = (moved / size).sqrt(), (taken / given).sqrt()
    return UpdateSizes(float(travel), float(decay.nan_to_num(0.0)))


def _update(group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Squared norms, at a learning rate of 1: of the last update without decay, and of the largest.

    Decay that is part of the gradient, as in SGD and Adam, is compared with the gradient.
    """
    assert p.grad is not None
    if group["muon"]:
        rms = torch.tensor(MUON_RMS**2 * p.numel(), dtype=torch.float64)
        return rms, rms
    gradient = p.grad.double().square().sum().cpu()
    if "exp_avg" not in state:
        return gradient, gradient / (1 - group.get("momentum", 0.0)) ** 2
    most = torch.tensor(float(p.numel()), dtype=torch.float64)
    if not group.get("decoupled_weight_decay", True):
        return gradient, most
    first, second = (1 - beta ** state["step"] for beta in group["betas"])
    move = state["exp_avg"] / first / ((state["exp_avg_sq"] / second).sqrt() + group["eps"])
    return move.double().square().sum().cpu(), most
