"""The toy problem's trajectories under our balancers, without a network around them.

The Stepper takes a millisecond for what is a few dozen floating-point operations here, and a table
needs millions of steps. This loop asks the same balancers for weights, combines gradients in closed
form and applies the same Adam; tests/balance/test_toy.py holds it to the Stepper step by step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from job.balance.base import Balancer
from tests.balance.toy.network import LR
from tests.balance.toy.problem import Point, Values, evaluate, losses

BETAS, EPS = (0.9, 0.999), 1e-8
"""Of Adam, as torch and job.train.updates.optimizer have them."""


def walk(balancer: Balancer, start: Point, s: float) -> Iterator[Point]:
    """Where x is after each step of Adam, without end; f1 is scaled by s."""
    x, m, v, n = list(start), [0.0, 0.0], [0.0, 0.0], 0
    own = list(balancer.parameters())
    adam = torch.optim.AdamW(own, LR, weight_decay=0.0, fused=True) if own else None
    while True:
        values = evaluate((x[0], x[1]), s)
        w1, w2 = weigh(balancer, values, s, adam)
        n += 1
        rate = LR / (1 - BETAS[0] ** n)
        root = math.sqrt(1 - BETAS[1] ** n)
        for i in (0, 1):
            g = w1 * values.g1[i] + w2 * values.g2[i]
            m[i] += (1 - BETAS[0]) * (g - m[i])
            v[i] += (1 - BETAS[1]) * (g * g - v[i])
            x[i] -= rate * m[i] / (math.sqrt(v[i]) / root + EPS)
        yield x[0], x[1]


def weigh(
    balancer: Balancer, values: Values, s: float, adam: torch.optim.Optimizer | None
) -> list[float]:
    """The two weights at a point; trains the balancer's own parameters, where it has any."""
    at = torch.tensor(losses(values, s))
    weights: list[float] = balancer(at, gram(values)).tolist()
    objective = balancer.objective(at)
    if objective is not None and adam is not None:
        adam.zero_grad()
        objective.backward()
        adam.step()
    return weights


def gram(values: Values) -> torch.Tensor:
    """Inner products [2, 2] of the two gradients."""
    g1, g2 = values.g1, values.g2
    both = g1[0] * g2[0] + g1[1] * g2[1]
    return torch.tensor([[g1[0] ** 2 + g1[1] ** 2, both], [both, g2[0] ** 2 + g2[1] ** 2]])


def end(balancer: Balancer, start: Point, s: float, steps: int) -> Point:
    """Where x is after so many steps."""
    for n, x in enumerate(walk(balancer, start, s), 1):
        if n == steps:
            return x
    raise AssertionError("a walk has no end")
