"""The analytic two-task problem: its closed forms, our step on it, and where balancers end.

`python -m tests.balance.toy.run` prints the whole table; the slow tests here hold what it shows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from job.balance.base import Balancer
from job.model.heads import WindowHead
from tests.balance.toy import run
from tests.balance.toy.exact import CAGradOfTwo, NashOfTwo
from tests.balance.toy.network import Function, Toy, balancer
from tests.balance.toy.problem import (
    NEAR,
    STARTS,
    Point,
    distance,
    evaluate,
    losses,
    pareto_b,
    pareto_set,
)
from tests.balance.toy.walk import end, gram, walk

CAGRAD = {"kind": "torchjd", "method": "CAGrad", "options": {"c": run.C}}
NASH = {"kind": "torchjd", "method": "NashMTL"}
SECTIONS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in (*run.KINDS, "running_mean_sqrt_n")},
    **{method: {"kind": "torchjd", "method": method} for method in run.METHODS},
    "CAGrad": CAGRAD,
    "NashMTL": NASH,
}


def logs_rest() -> float:
    """a > 0 at which weights 1/L rest: √39 where b is far below 0, here a little less."""
    a = math.sqrt(39)
    for _ in range(30):
        b = pareto_b(a)
        c = math.tanh(-b / 2)
        a = math.sqrt(49 - 10 * (21 - 20 * c + 0.01 * c * (b + 8) ** 2) / c)
    return a


def anywhere(count: int) -> Iterator[Point]:
    """Random points around the starts and the Pareto set."""
    draw = random.Random(0)
    return ((draw.uniform(-10, 10), draw.uniform(-10, 10)) for _ in range(count))


def combined(x: Point, weights: tuple[float, float], s: float = 1.0) -> list[float]:
    values = evaluate(x, s)
    pairs = zip(values.g1, values.g2, strict=True)
    return [weights[0] * one + weights[1] * other for one, other in pairs]


# --- the problem ------------------------------------------------------------------------------


@pytest.mark.parametrize("s", run.SCALES)
def test_closed_forms_are_autograds(s: float) -> None:
    """Values and gradients in closed form equal torch's of the same functions, at b = 0 too."""
    for x in [*anywhere(50), *STARTS, (3.0, 0.0), (-2.0, 0.0)]:
        values = evaluate(x, s)
        for k, gradient in enumerate([values.g1, values.g2]):
            at = torch.tensor([x], dtype=torch.float64, requires_grad=True)
            f = Function(k == 0, s)(at)
            f.sum().backward()
            assert at.grad is not None
            assert f.item() == pytest.approx(values.f[k], rel=1e-9)
            assert at.grad[0].tolist() == pytest.approx(gradient, rel=1e-7, abs=1e-9)


def test_logarithms_stop_at_their_floor() -> None:
    """On the ravine's line f is as low as the floor allows and the logarithm has no slope."""
    b = 2.0
    on_line = (2 * math.tanh(b) - 7, b)
    values = evaluate(on_line, 1.0)
    assert values.f[0] == pytest.approx((math.log(5e-6) + 6) * math.tanh(1.0), rel=1e-6)
    assert values.g1[0] == 0


def test_pareto_set_is_where_it_was_found() -> None:
    """Its middle and ends lie where others found them, and f in the middle is theirs."""
    assert pareto_b(0) == pytest.approx(-8.355110, abs=1e-6)
    assert pareto_b(7) == pytest.approx(-8.434460, abs=1e-6)
    assert pareto_b(-7) == pytest.approx(-8.434460, abs=1e-6)
    assert evaluate((0, pareto_b(0)), 1).f == pytest.approx((-15.09164, -15.09164), abs=1e-5)


def test_nothing_is_better_than_the_pareto_set() -> None:
    """No point has both functions lower than a point of the set has."""
    curve = [evaluate(x, 1).f for x in pareto_set()[::50]]
    for x in anywhere(2000):
        f1, f2 = evaluate(x, 1).f
        assert not any(f1 < one and f2 < other for one, other in curve)


def test_distance_is_to_the_nearest_point() -> None:
    """0 on the set, also between its points; straight up above it; to its end beside it."""
    assert distance((1.234, pareto_b(1.234))) == pytest.approx(0, abs=1e-5)
    assert distance((0.0, pareto_b(0) + 2)) == pytest.approx(2, abs=1e-4)
    assert distance((-8.0, pareto_b(-7))) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("s", run.SCALES)
def test_losses_are_positive(s: float) -> None:
    """Less its bound no loss falls below 1 (times s), so it can be divided by."""
    for x in [*anywhere(500), *pareto_set()[::100]]:
        one, other = losses(evaluate(x, s), s)
        assert one >= s
        assert other >= 1


@pytest.mark.parametrize("w", [0.1, 0.5, 0.9])
def test_fixed_weights_rest_where_the_closed_form_says(w: float) -> None:
    """Weights (w, 1 − w) have their rest at a = 14 w − 7 on the set."""
    a = 14 * w - 7
    assert combined((a, pareto_b(a)), (w, 1 - w)) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("s", [1.0, 0.1, 0.01])
def test_logs_rest_at_the_same_places_whatever_the_scale(s: float) -> None:
    """Weights 1/L rest at a = ±6.236 (√39 but for tanh) and, as a saddle, at 0, whatever s is."""
    assert logs_rest() == pytest.approx(math.sqrt(39), abs=0.01)
    for a in (-logs_rest(), 0.0, logs_rest()):
        x = (a, pareto_b(a))
        one, other = losses(evaluate(x, s), s)
        assert combined(x, (1 / one, 1 / other), s) == pytest.approx([0, 0], abs=1e-9)


# --- our step on it ---------------------------------------------------------------------------


QUICK = {"fixed", "uncertainty", "gradient_norm", "IMTLG"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SECTIONS]
)
def test_walk_is_the_steppers(name: str) -> None:
    """The loop without a network goes where our step goes, but for float32, under every balancer.

    Not from (0, 0): the slopes along a cancel there, and rounding decides which way it goes.
    """
    steps = 10 if name in run.EXACT else 50
    for start in [STARTS[0], STARTS[4]]:
        toy = Toy(SECTIONS[name], start, 0.1)
        plain = list(islice(walk(balancer(SECTIONS[name]), start, 0.1), steps))
        apart = max(math.dist(toy.step(), x) for x in plain)
        assert apart < 2e-5
        assert math.dist(plain[-1], start) > 5e-4 * steps


def test_heads_stay_the_functions() -> None:
    """Training the toy moves x alone: its heads' maps are the identity to the end."""
    toy = Toy({"kind": "fixed"}, STARTS[4], 1.0)
    for _ in range(5):
        toy.step()
    for head in toy.model.heads:
        assert isinstance(head, WindowHead)
        assert (head.output.weight.item(), head.output.bias.item()) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("section", "exact", "close"),
    [(CAGRAD, CAGradOfTwo(run.C), 1e-3), (NASH, NashOfTwo(2), 1e-5)],
    ids=["CAGrad", "NashMTL"],
)
def test_exact_forms_are_torchjds(section: dict[str, Any], exact: Balancer, close: float) -> None:
    """For two tasks our closed forms give the weights that the spec's balancer gives."""
    solved = balancer(section)
    at = torch.ones(2)
    for i, x in enumerate([*anywhere(40), (0.0, -8.0), (-5.7, -8.3), (6.2, -8.4)]):
        products = gram(evaluate(x, run.SCALES[i % 2]))
        torch.testing.assert_close(exact(at, products), solved(at, products), rtol=close, atol=0)
    assert solved.get_buffer("fallbacks") == 0


@pytest.mark.parametrize(
    ("kind", "s", "start", "a", "steps"),
    [
        ("fixed", 1.0, -1.0, 0.0, 3000),
        ("fixed", 0.1, -5.0, 14 / 11 - 7, 2000),
        ("running_mean", 1.0, -6.0, -logs_rest(), 1000),
        ("running_mean", 0.1, -6.0, -logs_rest(), 1000),
        ("batch_mean", 1.0, -6.0, -logs_rest(), 1000),
        ("batch_mean", 0.1, -6.0, -logs_rest(), 1000),
        ("uncertainty", 0.1, -6.0, -logs_rest(), 3000),
    ],
)
def test_balancers_rest_where_closed_forms_say(
    kind: str, s: float, start: float, a: float, steps: int
) -> None:
    """Along the set a sum slides to 14 s / (1 + s) − 7, and what divides by the loss to −6.236."""
    x = end(balancer({"kind": kind}), (start, pareto_b(start)), s, steps)
    assert x == pytest.approx((a, pareto_b(a)), abs=5e-3)


@pytest.mark.parametrize("method", ["MGDA", "IMTLG", "NashMTL", "gradient_norm"])
@pytest.mark.parametrize("a", [-5.0, 0.5, 3.0])
def test_on_the_set_these_cancel_the_gradients(method: str, a: float) -> None:
    """Where the gradients are opposite, equal norms and the shortest combination both give none."""
    x = (a, pareto_b(a))
    values = evaluate(x, 1.0)
    products = gram(values)
    w1, w2 = run.make(method)(torch.tensor(losses(values, 1.0)), products).tolist()
    given = w1 * math.hypot(*values.g1) + w2 * math.hypot(*values.g2)
    assert math.hypot(*combined(x, (w1, w2))) < 1e-5 * given


# --- from the starts, to the end ----------------------------------------------------------------

ENDS = [
    *(("fixed", 1.0, start, 0.0) for start in (1, 3, 4)),
    *(("fixed", 1.0, start, None) for start in (0, 2)),
    *(("fixed", 0.1, start, 14 / 11 - 7) for start in (0, 1, 3, 4)),
    ("fixed", 0.1, 2, None),
    *(("batch_mean", s, 3, -logs_rest()) for s in run.SCALES),
    *(("batch_mean", s, 4, logs_rest()) for s in run.SCALES),
    *(("batch_mean", s, start, None) for s in run.SCALES for start in (0, 2)),
    ("uncertainty", 1.0, 3, -logs_rest()),
    ("uncertainty", 0.1, 4, logs_rest()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "s", "start", "a"), ENDS)
def test_balancers_end_where_the_table_says(
    method: str, s: float, start: int, a: float | None
) -> None:
    """On the set at this a, or (None) still more than 1 away from it, after 50 000 steps."""
    x = run.trace(run.Job(method, s, STARTS[start], run.STEPS))
    if a is None:
        assert distance(x) > 1
    else:
        assert x == pytest.approx((a, pareto_b(a)), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gradient_norm", "IMTLG", "AlignedMTL", "NashMTL"])
def test_these_reach_the_set_from_the_hardest_start(method: str) -> None:
    """From (9, 9), where a sum is stuck in a ravine, at s = 1."""
    torch.manual_seed(0)
    every_hundredth = islice(walk(run.make(method), STARTS[2], 1.0), 0, run.STEPS, 100)
    assert any(distance(x) < NEAR for x in every_hundredth)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["PCGrad", "CAGrad"])
def test_these_do_not_reach_it_from_there(method: str) -> None:
    """From the same start, with as many steps."""
    assert distance(run.trace(run.Job(method, 1.0, STARTS[2], run.STEPS))) > 1
