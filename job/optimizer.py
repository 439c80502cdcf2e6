"""AdamW with a learning rate per room of the network, and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from job import spec
from job.step import Stepper


def build(optimizer: spec.AdamW, balance: spec.Balance, stepper: Stepper) -> torch.optim.AdamW:
    """AdamW over trunk, heads and the balancer's own parameters, in that order of groups.

    Fused: the only kind that can be told on the device to skip an update.
    """
    own = balance.lr if isinstance(balance, spec.Uncertainty) and balance.lr else optimizer.lr
    rooms: list[tuple[str, float, float, Iterable[Tensor]]] = [
        ("trunk", optimizer.lr, optimizer.weight_decay, stepper.model.trunk.parameters()),
        (
            "heads",
            optimizer.head_lr or optimizer.lr,
            optimizer.weight_decay,
            stepper.model.by_task.parameters(),
        ),
        ("balancer", own, 0.0, stepper.balancer.parameters()),
    ]
    groups = [
        {"params": list(parameters), "lr": lr, "base_lr": lr, "weight_decay": decay, "room": room}
        for room, lr, decay, parameters in rooms
    ]
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], betas=optimizer.betas, fused=True)
    for group in adamw.param_groups:
        for p in group["params"]:
            # What the first step would make: so a state has all its tensors from the start.
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            adamw.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return adamw


def factor(schedule: str, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) of so many, relative to the base: no state to resume."""
    done = step / max(1, steps)
    match schedule:
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "one_cycle":  # Smith and Topin 2018, cosine form
            warm = 0.3
            if done < warm:
                return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm)) / 2
            return (1 + math.cos(math.pi * (done - warm) / (1 - warm))) / 2
        case _:
            return 1.0


def set_rate(optimizer: torch.optim.Optimizer, scheduled: float) -> float:
    """Set every group's rate to its base times the schedule's factor; returns the trunk's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * scheduled
    rate: float = optimizer.param_groups[0]["lr"]
    return rate
