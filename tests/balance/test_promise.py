"""What the methods promise about each task's loss, and that a broken promise is counted."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.balance.promise import at_cosine, gradients, make, of_two, update_cosines

pytestmark = pytest.mark.skipif(find_spec("torchjd") is None, reason="torchjd is not installed")

SLACK = 1e-6
"""The bound that job.balance.torchjd states: ⟨g_k, u⟩ / |g_k| over Σ_j |w_j g_j|."""
CONE = ["UPGrad", "DualProj"]
RATIOS = st.floats(0, 6).map(lambda power: 10**power)


def lowest(method: str, g: Tensor) -> float:
    """The least ⟨g_k, u⟩ / |g_k| over Σ_j |w_j g_j|; fails if the method fell back."""
    balancer = make(method, len(g))
    cosines, cancelled = update_cosines(balancer, g)
    assert balancer.get_buffer("fallbacks") == 0
    return float(cosines.min()) / cancelled


@pytest.mark.parametrize("method", CONE)
@settings(max_examples=60, deadline=None)
@given(tasks=st.integers(2, 32), ratio=RATIOS, seed=st.integers(0, 2**31 - 1), swap=st.booleans())
def test_no_task_gets_worse(method: str, tasks: int, ratio: float, seed: int, swap: bool) -> None:
    """To rounding, no loss rises at norm ratios of 1 … 1e6, K = 2 … 32, in float32."""
    g = gradients(tasks, ratio, torch.Generator().manual_seed(seed))
    assert lowest(method, g.flip(0) if swap else g) >= -SLACK


@pytest.mark.parametrize("method", CONE)
@settings(max_examples=100, deadline=None)
@given(cosine=st.floats(-1, 1), ratio=RATIOS)
def test_no_task_of_two_gets_worse(method: str, cosine: float, ratio: float) -> None:
    """The same at every cosine of two tasks; if they do not cancel, the cosines are bound too."""
    g = at_cosine(cosine, ratio)
    assert lowest(method, g) >= -SLACK
    if cosine >= -0.999:
        cosines, _ = update_cosines(make(method, 2), g)
        assert cosines.min() >= -1e-4


@pytest.mark.parametrize("method", CONE)
@pytest.mark.parametrize("ratio", [1.0, 30.0, 100.0, 1e3, 1e6])
def test_the_small_task_is_not_overruled(method: str, ratio: float) -> None:
    """At cosine −0.5 the small task's cosine was −.02, −.27, −.50 at ratios 30, 100, 1000."""
    cosine, fell_back = of_two(method, ratio)
    assert not fell_back
    assert cosine > -1e-6


@pytest.mark.parametrize("cosine", [-0.9, -0.5, -0.01, 0.4])
@pytest.mark.parametrize("ratio", [1.0, 100.0, 1e6])
def test_upgrad_of_two_is_the_paper_s(cosine: float, ratio: float) -> None:
    """Each gradient loses its part against the other, and the two are averaged, at any ratio."""
    g = at_cosine(cosine, ratio).float().double()
    inner = min(float(g[0] @ g[1]), 0.0)
    squares = g.square().sum(1)
    expected = (1 - inner / squares) / 2
    single = g.float()
    weights = make("UPGrad", 2)(torch.ones(2), single @ single.T)
    torch.testing.assert_close(weights, expected.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("ratio", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("tasks", [3, 6])
def test_projections_are_the_nearest_points(tasks: int, ratio: float) -> None:
    """DualProj's and UPGrad's updates are those of a projection onto the cone by coordinate descent
    on its dual, in float64."""
    g = gradients(tasks, ratio, torch.Generator().manual_seed(tasks))
    single = g.float()
    gram = single @ single.T
    for method, starts in (("DualProj", [g.mean(0)]), ("UPGrad", list(g / tasks))):
        expected = sum((project(start, g) for start in starts), torch.zeros_like(g[0]))
        update = make(method, tasks)(torch.ones(tasks), gram).double() @ g
        assert (update - expected).norm() <= 1e-4 * expected.norm()


def project(x: Tensor, g: Tensor) -> Tensor:
    """The nearest point to x [n] at which no ⟨g_k, ·⟩ is negative, by Hildreth's method."""
    rows = g / g.norm(dim=1, keepdim=True)
    multipliers = torch.zeros(len(g), dtype=g.dtype)
    for _ in range(20_000):
        worst = 0.0
        for k, row in enumerate(rows):
            step = max(float(-(row @ x)), -float(multipliers[k]))
            multipliers[k] += step
            x = x + step * row
            worst = max(worst, abs(step))
        if worst <= 1e-13 * float(x.norm()):
            break
    return x


def test_mgda_of_two_is_a_common_descent() -> None:
    """MGDA's update raises neither of two losses by more than its solver's stop allows."""
    for ratio in (1.0, 100.0, 1e6):
        for cosine in (-0.9, -0.5, 0.0, 0.9):
            assert lowest("MGDA", at_cosine(cosine, ratio)) >= -2e-3


# --- fallbacks --------------------------------------------------------------------------------


def fallbacks(method: str, g: Tensor) -> int:
    balancer = make(method, len(g))
    single = g.float()
    balancer(torch.ones(len(g)), single @ single.T)
    return int(balancer.get_buffer("fallbacks"))


@pytest.mark.parametrize("method", ["IMTLG", "NashMTL", "UPGrad", "MGDA", "PCGrad"])
def test_a_task_that_is_too_small_is_counted(method: str) -> None:
    """A gradient below 1.2e-7 of the others cannot have the method's weight: counted. One of 0 has
    nothing to weigh: not counted."""
    assert fallbacks(method, at_cosine(-0.5, 1e8)) == 1
    gone = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert fallbacks(method, gone) == 0


@pytest.mark.parametrize("method", ["IMTLG", "NashMTL", "UPGrad", "DualProj", "MGDA"])
@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e6])
def test_scale_free_methods_answer_up_to_a_million(method: str, ratio: float) -> None:
    """They need no fallback at norm ratios up to 1e6."""
    assert fallbacks(method, at_cosine(-0.5, ratio)) == 0


@pytest.mark.parametrize("method", ["CAGrad", "AlignedMTL", "FairGrad"])
@pytest.mark.parametrize("ratio", [1e5, 1e6])
def test_methods_that_need_the_norms_count_extremes(method: str, ratio: float) -> None:
    """Their numerics end before: such a step is counted and all tasks weigh the same."""
    balancer = make(method, 2)
    single = at_cosine(-0.5, ratio).float()
    assert balancer(torch.ones(2), single @ single.T).tolist() == [0.5, 0.5]
    assert balancer.get_buffer("fallbacks") == 1


@pytest.mark.parametrize("method", ["CAGrad", "AlignedMTL", "FairGrad", "NashMTL"])
@pytest.mark.parametrize("cosine", [-0.8, 0.0, 0.8])
def test_moderate_gradients_need_no_fallback(method: str, cosine: float) -> None:
    """At norm ratios up to 30 the methods' own conditions hold."""
    for ratio in (1.0, 5.0, 30.0):
        assert fallbacks(method, at_cosine(cosine, ratio)) == 0


def test_nash_s_stale_weights_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """NashMTL hides that its solver failed and returns its last weights: counted."""
    import cvxpy

    balancer = make("NashMTL", 2)

    def refuse(*_: object, **__: object) -> None:
        raise cvxpy.SolverError

    monkeypatch.setattr(cvxpy.Problem, "solve", refuse)
    gram = torch.tensor([[1.0, math.sqrt(0.5)], [math.sqrt(0.5), 4.0]])
    balancer.get_buffer("state_prvs_alpha").copy_(torch.tensor([1.0, 5.0]))
    assert balancer(torch.ones(2), gram).tolist() == [0.5, 0.5]
    assert balancer.get_buffer("fallbacks") == 1
