"""Best constants: by formula and by search, beside other constants and other searches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model
from sklearn import metrics as sk
from torch import Tensor

from job import spec
from job.model.baselines import Labels, fit_baseline
from job.model.losses import TaskLoss
from job.model.losses.best_constant import best_constant
from job.model.losses.element_losses import element_losses, mean_loss
from job.model.losses.minimise import minimised
from tests.support.losses import LOSSES, task_of
from tests.support.nets import batch, task


def drawn(n: int, *shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=draw, dtype=torch.float64)


def mean_at(made: spec.Task, constant: Tensor, target: Tensor, weights: Tensor) -> float:
    """The weighted mean loss of one prediction [W] for all targets that have weight."""
    wide = constant.expand(len(target), made.head_width)
    known = weights > 0
    at = known.unsqueeze(-1) if made.loss.whole else known
    target = torch.where(at, target if made.loss.of_classes else target.double(), 0)
    each, weights = element_losses(made.loss, wide, target), weights.double()
    return ((each * weights).sum() / weights.sum()).item()


@pytest.mark.parametrize("name", LOSSES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_no_neighbour_is_better(name: str, seed: int) -> None:
    """Of weighted labels, some missing: no step along an axis or in a random direction, small or
    large, has a lower mean loss than the best constant."""
    made = task_of(name, missing="skip")
    (target,) = batch([made], size=12, seed=seed).targets
    draw = torch.Generator().manual_seed(seed)
    holes = torch.rand(target.shape, generator=draw) < 0.3
    target = torch.where(holes, -1 if made.loss.of_classes else torch.nan, target)
    of_samples = 0.1 + torch.rand(12, generator=draw)
    loss = TaskLoss(made)
    weights = loss.weights(target, of_samples)
    assert weights is not None
    if not weights.reshape(12, -1).sum(0).all():
        return
    best = best_constant(made.loss, 3, target, 0.0, weights)[0]
    least = mean_at(made, best, target, weights)
    axes = torch.eye(made.head_width, dtype=torch.float64)
    steps = [*axes, *-axes, *torch.randn(20, made.head_width, generator=draw).double()]
    for size in (1e-3, 0.1, 2.0):
        for step in steps:
            assert least <= mean_at(made, best + size * step, target, weights) + 1e-6


def test_quantiles_are_those_of_scikit_learn() -> None:
    """Its linear model of a constant alone has the same pinball loss; level 1/2 is the median."""
    y = drawn(41, 1).exp()
    loss = spec.Quantile(kind="quantile", levels=(0.1, 0.37, 0.5, 0.95))
    found = best_constant(loss, 1, y)[0]
    for level, mine in zip(loss.levels, found, strict=True):
        theirs = linear_model.QuantileRegressor(quantile=level, alpha=0, solver="highs")
        theirs.fit(np.zeros((41, 1)), y[:, 0])
        losses = [
            sk.mean_pinball_loss(y[:, 0], np.full(41, value), alpha=level)
            for value in (mine.item(), theirs.intercept_)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert found[2] == y.median()


def test_skill_is_the_share_of_deviance_explained() -> None:
    """1 − loss / best constant is scikit-learn's D² of Poisson deviance and of pinball loss."""
    counts = torch.poisson(drawn(200, 1).exp() * 3, generator=torch.Generator().manual_seed(1))
    guess = drawn(200, 1, seed=3) / 3 + 1
    loss = spec.PoissonNLL(kind="poisson_nll")
    trivial = mean_loss(loss, best_constant(loss, 1, counts).expand_as(counts), counts)
    skill = 1 - mean_loss(loss, guess, counts) / trivial
    expected = sk.d2_tweedie_score(counts[:, 0], guess[:, 0].exp(), power=1)
    assert skill.item() == pytest.approx(expected)
    one = spec.Quantile(kind="quantile", levels=(0.8,))
    trivial = mean_loss(one, best_constant(one, 1, counts).expand_as(counts), counts)
    skill = 1 - mean_loss(one, guess, counts) / trivial
    expected = sk.d2_pinball_score(counts[:, 0], guess[:, 0], alpha=0.8)
    # Scikit-learn's constant lies between two counts, and is as good as either.
    assert skill.item() == pytest.approx(expected)


def test_the_normal_constant_has_the_mean_and_the_variance() -> None:
    """Its loss is ln(deviation / floor) + 1/2; a target that varies less than the floor has 0."""
    y = 5 + 3 * drawn(500, 2)
    made = task("y", "window", "gaussian_nll", 2)
    best = best_constant(made.loss, 2, y)
    predicted = TaskLoss(made).predict(best).view(2, 2)
    torch.testing.assert_close(predicted[:, 0], y.mean(0))
    torch.testing.assert_close(predicted[:, 1], y.std(0, correction=0))
    expected = (y.std(0, correction=0) / 0.01).log().mean().item() + 0.5
    assert mean_loss(made.loss, best.expand(500, 4), y).item() == pytest.approx(expected)
    still = torch.full((9, 2), 7.0, dtype=torch.float64)
    best = best_constant(made.loss, 2, still)
    assert best.isfinite().all()
    assert mean_loss(made.loss, best.expand(9, 4), still) < 1e-12


def test_ordered_classes_have_the_baseline_of_classes() -> None:
    """The likelihood is of the same frequencies: the entropy, with an unseen class too."""
    y = torch.tensor([0, 0, 1, 3, 3, 3])
    for validation in (y, torch.tensor([2, 0])):
        ordered, plain = (
            fit_baseline(task("y", "window", kind, 4), Labels(y), Labels(validation))
            for kind in ("ordinal", "cross_entropy")
        )
        assert ordered.constant == pytest.approx(plain.constant, rel=1e-5)
        assert ordered.own_constant == pytest.approx(plain.own_constant, rel=1e-5, abs=1e-7)


def test_lists_whose_items_are_alike_have_ln_two() -> None:
    """If each order is as frequent, no constant scores beat equal ones; if one item is above in 3
    of 4 lists of two, the constant has the entropy of that."""
    loss = spec.Ranking(kind="ranking")
    y = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    best = best_constant(loss, 2, y)
    assert mean_loss(loss, best.expand(2, 2), y).item() == pytest.approx(math.log(2))
    y = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    best = best_constant(loss, 2, y)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert mean_loss(loss, best.expand(4, 2), y).item() == pytest.approx(entropy, rel=1e-6)
    assert (best[0, 1] - best[0, 0]).item() == pytest.approx(math.log(3), rel=1e-3)


# --- any loss -----------------------------------------------------------------------------------

OWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "log cosh": lambda p, y: (p - y).cosh().log(),
    "absolute": lambda p, y: (p - y).abs(),
    "steep on one side": lambda p, y: torch.maximum(0.9 * (y - p), 0.1 * (p - y)),
    "power": lambda p, y: (p - y).abs() ** 1.5,
    "relative": lambda p, y: (p - y).square() / (1 + y.abs()),
    "of ever less slope": lambda p, y: ((p - y).square() + 1).log(),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_any_loss_of_one_number_has_its_constant(name: str, scale: float) -> None:
    """At each position and output by itself, smooth or with kinks, in any unit: the mean loss is
    that of the best of 4001 values, or a little lower."""

    def own(prediction: Tensor, target: Tensor) -> Tensor:
        return OWN[name](prediction / scale, target / scale)

    y = scale * (drawn(30, 3, 2).exp() + torch.arange(6.0).view(3, 2))
    start, spread = y.median(0, keepdim=True).values, y.std(0, keepdim=True)
    found = minimised(own, y, None, start, spread)
    reached = own(found.expand_as(y), y).mean(0)
    share = torch.linspace(0, 1, 4001, dtype=torch.float64).view(-1, 1, 1, 1)
    grid = y.amin(0) + share * (y.amax(0) - y.amin(0))  # [4001, 1, 3, 2]
    least = own(grid.expand(-1, *y.shape), y.expand(4001, *y.shape)).mean(1).amin(0)
    assert (reached <= least * (1 + 1e-6)).all()
    assert (reached >= least * (1 - 1e-2)).all()


def test_any_loss_of_a_whole_prediction_has_its_constant() -> None:
    """Of a loss that couples the outputs, with a kink: the geometric median of points, beside
    Weiszfeld's iteration; missing rows have no part in it, nor their NaN."""

    def distance(prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().sum(-1).clamp(min=1e-30).sqrt()

    y = drawn(25, 4, 3).exp()
    weights = torch.rand(25, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights[::5] = 0
    expected = (weights.unsqueeze(-1) * y).sum(0) / weights.sum(0).unsqueeze(-1)
    for _ in range(2000):
        pull = weights / distance(expected, y)
        expected = (pull.unsqueeze(-1) * y).sum(0) / pull.sum(0).unsqueeze(-1)
    least = (weights * distance(expected, y)).sum(0) / weights.sum(0)
    holed = y.clone()
    holed[::5] = torch.nan
    start = y.mean(0, keepdim=True)
    found = minimised(distance, holed, weights, start, torch.ones_like(start))
    reached = (weights * distance(found, y)).sum(0) / weights.sum(0)
    torch.testing.assert_close(reached, least, rtol=1e-5, atol=0)


def test_nothing_is_known_where_nothing_has_weight() -> None:
    """NaN there, and the other positions as if it were not there."""
    y = drawn(20, 3, 2)
    weights = torch.ones(20, 3, 2, dtype=torch.float64)
    weights[:, 1, 0] = 0
    start = torch.zeros(1, 3, 2, dtype=torch.float64)
    with torch.no_grad():  # a caller that only evaluates has no slopes, a search has its own
        found = minimised(lambda p, t: (p - t).square(), y, weights, start, torch.ones_like(start))
    expected = y.mean(0, keepdim=True)
    expected[:, 1, 0] = torch.nan
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=1e-6)
