"""A leak of the target into features: into one, found by rank, or into a sum that hides it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from job.diagnose.case import Finding
from job.diagnose.causes.targets import FEWEST, _leak, _ranks
from job.diagnose.neighbours import Rows, hidden_formula
from tests.support.nets import task


def leak(features: Tensor, target: Tensor, level: str = "window", **more: Any) -> Finding | None:
    kind = more.pop("kind", "mse")
    return _leak(task("y", level, kind, **more), target, features)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_values_share_a_rank() -> None:
    """A rank, from 0, is the number of smaller values plus half the number of other equal ones."""
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (50, 3))).double()
    smaller = (values[:, None] > values[None]).sum(1)
    equal = (values[:, None] == values[None]).sum(1) - 1
    assert torch.equal(_ranks(values), smaller + equal / 2)


@pytest.mark.parametrize("n", [2, 3, 5, FEWEST, 200])
def test_a_constant_feature_is_no_leak(n: int) -> None:
    """However few the samples are, a feature that never changes tells nothing."""
    target = torch.arange(float(n))[:, None]
    assert leak(torch.ones(n, 4, 2), target) is None


@pytest.mark.parametrize("n", [2, 10, FEWEST - 1])
def test_few_samples_show_no_leak(n: int) -> None:
    """Below FEWEST samples even a copy of the target is not reported."""
    target = draw(n, 1)
    features = target[:, :, None].expand(n, 4, 1).contiguous()
    assert leak(features, target) is None


@pytest.mark.parametrize("level", ["window", "step"])
@pytest.mark.parametrize("monotone", [lambda y: 7 * y + 1, torch.exp, lambda y: -(y**3)])
def test_a_monotone_copy_is_a_leak(level: str, monotone: Any) -> None:
    """Any rising or falling function of the target gives it away."""
    n = 2 * FEWEST
    features = draw(n, 4, 3)
    target = draw(n, 4, 1, seed=1) if level == "step" else draw(n, 1, seed=1)
    features[:, :, 1] = monotone(target[:, :, 0] if level == "step" else target)
    finding = leak(features, target, level)
    assert finding is not None
    assert "feature 1 has a rank correlation of 1.0000" in finding.evidence


def test_classes_may_leak() -> None:
    """A feature that is the class itself has its ranks, ties and all."""
    labels = torch.arange(60) % 3
    features = draw(60, 4, 2)
    features[:, :, 0] = labels[:, None].float()
    assert leak(features, labels, kind="cross_entropy", outputs=3) is not None
    assert leak(features[:, :, 1:], labels, kind="cross_entropy", outputs=3) is None


def test_one_outlier_is_no_leak() -> None:
    """One sample far off in both makes values correlate; ranks do not."""
    features, target = draw(100, 4, 1), draw(100, 1, seed=1)
    features[7], target[7] = 1e6, 1e6
    assert leak(features, target) is None


def rows(x: Tensor, y: Tensor) -> tuple[Rows, Rows]:
    """The rows of both splits."""
    places = torch.arange(len(x))
    whole = Rows(x.double(), y.double()[:, None], places)
    return whole.at(places[::2]), whole.at(places[1::2])


def test_a_sum_that_hides_the_target_is_a_leak() -> None:
    """Two features with the same noise, of both signs, have the target as their sum."""
    x, y, noise = draw(400, 6), draw(400, seed=1), draw(400, seed=2)
    x[:, 2], x[:, 5] = (y + 4 * noise) / 4, -noise
    found = hidden_formula(*rows(x, y))
    assert found is not None
    assert found.columns == [2, 5]
    assert found.explained > 0.9999
    assert found.alone < 0.1


def test_an_honest_sum_is_none() -> None:
    """Parts that do not cancel are what a task may well be made of, and so is a noisy difference
    of what goes together."""
    x, noise = draw(400, 6), draw(400, seed=2)
    assert hidden_formula(*rows(x, x[:, 2] + x[:, 5])) is None
    x[:, 5] = x[:, 2] + 0.2 * x[:, 5]
    assert hidden_formula(*rows(x, x[:, 2] - x[:, 5] + 0.02 * noise)) is None


def test_few_rows_have_no_sum() -> None:
    """With as many features as rows any target is a sum of them."""
    x, y = draw(40, 30), draw(40, seed=1)
    assert hidden_formula(*rows(x, y)) is None
