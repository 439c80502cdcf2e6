"""GradNorm against its equations in numpy (Chen et al. 2018)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from job import spec
from job.balance.base import Balancer
from job.balance.build import build_balancer
from tests.support.nets import MIXED, Net, batch


def make(tasks: int, **fields: float) -> Balancer:
    section = spec.GradNorm.model_validate({"kind": "gradnorm", **fields})
    return build_balancer(section, [f"t{k}" for k in range(tasks)], [1] * tasks)


def published(losses: np.ndarray, norms: np.ndarray, alpha: float, lr: float) -> list[np.ndarray]:
    """Algorithm 1 over the steps [n, K] of losses and gradient norms, by Adam in float64."""
    k = losses.shape[1]
    w, m, v, given = np.ones(k), np.zeros(k), np.zeros(k), []
    for t, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1):
        given.append(w)
        inverse_rate = loss / losses[0]
        rate = inverse_rate / inverse_rate.mean()
        target = (w * norm).mean() * rate**alpha
        slope = np.where(w * norm > target, norm, -norm) / (w * norm).mean()
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = np.maximum(w, 1e-3)
        w = w * k / w.sum()
    return given


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("tasks", [2, 5])
def test_weights_follow_algorithm_1(alpha: float, tasks: int) -> None:
    """60 steps with falling losses give the paper's weights, with Adam for its optimizer."""
    draw = np.random.default_rng(tasks)
    losses = draw.uniform(0.5, 2, (60, tasks)) * np.exp(
        -np.outer(np.arange(60), draw.random(tasks)) / 9
    )
    norms = draw.uniform(0.1, 3, (60, tasks))
    balancer = make(tasks, alpha=alpha, lr=0.02)
    for loss, norm, expected in zip(
        losses, norms, published(losses, norms, alpha, 0.02), strict=True
    ):
        gram = torch.diag(torch.tensor(norm**2, dtype=torch.float32))
        weights: Tensor = balancer(torch.tensor(loss, dtype=torch.float32), gram)
        np.testing.assert_allclose(weights.numpy(), expected, rtol=2e-4)


def test_equal_rates_end_at_equal_norms() -> None:
    """At constant losses the weighted norms 1, 2 and 4 become equal; the weights' mean is 1."""
    balancer, norms = make(3), torch.tensor([1.0, 2.0, 4.0])
    for _ in range(400):
        weights = balancer(torch.ones(3), torch.diag(norms**2))
    torch.testing.assert_close(weights * norms, torch.full((3,), 12 / 7), rtol=0.05, atol=0)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


def test_a_slow_task_gets_the_larger_gradient() -> None:
    """If one loss halves and the other stays, the other's norm is 2^alpha times as large."""
    balancer = make(2, alpha=1.0)
    balancer(torch.ones(2), torch.eye(2))
    for _ in range(400):
        weights = balancer(torch.tensor([0.5, 1.0]), torch.eye(2))
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(2.0), rtol=0.1, atol=0)


def test_hand_weights_multiply() -> None:
    """The spec's weights multiply the learned ones, which do not depend on them."""
    plain = make(2)
    section = spec.GradNorm(kind="gradnorm", weights={"t1": 3.0})
    weighted = build_balancer(section, ["t0", "t1"], [1, 1])
    gram = torch.diag(torch.tensor([1.0, 9.0]))
    for _ in range(5):
        expected = plain(torch.ones(2), gram) * torch.tensor([1.0, 3.0])
        torch.testing.assert_close(weighted(torch.ones(2), gram), expected)


def test_weights_stay_positive() -> None:
    """A task whose gradient is a million times the others' keeps a weight above 0."""
    balancer = make(2, lr=0.5)
    for _ in range(50):
        weights = balancer(torch.ones(2), torch.diag(torch.tensor([1e12, 1.0])))
        assert (weights > 0).all()


def test_it_trains_in_the_step() -> None:
    """In a network its weights move from 1 and the losses fall."""
    net = Net(MIXED, {"kind": "gradnorm"}, dropout=0.0)
    measured = [net.step(batch(MIXED)) for _ in range(30)]
    assert measured[0].weights.tolist() == [1.0] * len(MIXED)
    assert not torch.equal(measured[-1].weights, measured[0].weights)
    assert measured[-1].losses.sum() < measured[0].losses.sum()
