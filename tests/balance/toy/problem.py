"""The analytic two-task problem of CAGrad (Liu et al. 2021), Nash-MTL and FAMO, in closed form.

x = (a, b). Above b = 0 each function has a narrow ravine that the other pushes out of; below, they
are bowls around a = 7 and a = −7, and the Pareto set is a nearly flat curve between the two. s
scales f1: 1 in CAGrad's paper, 0.1 in Nash-MTL's and FAMO's.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from typing import NamedTuple

Point = tuple[float, float]

STARTS: tuple[Point, ...] = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
LOWEST = -21.0
"""Below all values of f1 / s and f2: a loss is f less this bound, so it is never below 1 s or 1."""
NEAR = 0.1
"""A point no further than this from the Pareto set has reached it."""
FLOOR = 5e-6
"""Least argument of the logarithms."""


class Values(NamedTuple):
    """f1 and f2 at a point, and their gradients by (a, b)."""

    f: Point
    g1: Point
    g2: Point


def evaluate(x: Point, s: float) -> Values:
    """f1 and f2 with their gradients; at b = 0 both sides of max(·, 0) pass theirs, as in torch."""
    a, b = x
    tanh, half = math.tanh(b), math.tanh(b / 2)
    slope, half_slope = 1 - tanh**2, (1 - half**2) / 2
    u, v = (-a - 7) / 2 + tanh, (-a + 3) / 2 - tanh + 2
    by_u = 1 / u if abs(u) >= FLOOR else 0.0
    by_v = 1 / v if abs(v) >= FLOOR else 0.0
    p1, p2 = math.log(max(abs(u), FLOOR)) + 6, math.log(max(abs(v), FLOOR)) + 6
    q1 = ((7 - a) ** 2 + 0.1 * (b + 8) ** 2) / 10 - 20
    q2 = ((a + 7) ** 2 + 0.1 * (b + 8) ** 2) / 10 - 20
    c1, c2 = max(half, 0.0), max(-half, 0.0)
    d1, d2 = half_slope * (half >= 0), -half_slope * (half <= 0)
    q_by_b = 0.02 * (b + 8) * c2
    return Values(
        (s * (p1 * c1 + q1 * c2), p2 * c1 + q2 * c2),
        (
            s * (-by_u / 2 * c1 + (a - 7) / 5 * c2),
            s * (by_u * slope * c1 + p1 * d1 + q_by_b + q1 * d2),
        ),
        (
            -by_v / 2 * c1 + (a + 7) / 5 * c2,
            -by_v * slope * c1 + p2 * d1 + q_by_b + q2 * d2,
        ),
    )


def losses(values: Values, s: float) -> Point:
    """f1 and f2 less their lower bounds: what balancers that divide by a loss can work with."""
    return values.f[0] - s * LOWEST, values.f[1] - LOWEST


def pareto_b(a: float) -> float:
    """The b at which the Pareto set passes a ∈ [−7, 7].

    It is the least of w f1 + (1 − w) f2 at w = (a + 7) / 14, where the two slopes along a cancel;
    what is left is a function of b alone with one stationary point in [−9, −8], found by halving.
    """
    low, high = -9.0, -8.0
    for _ in range(60):
        b = (low + high) / 2
        half = math.tanh(-b / 2)
        q = (49 - a**2 + 0.1 * (b + 8) ** 2) / 10 - 20
        if 0.02 * (b + 8) * half - q * (1 - half**2) / 2 > 0:
            high = b
        else:
            low = b
    return (low + high) / 2


@cache
def pareto_set() -> tuple[Point, ...]:
    """The Pareto set, from end to end in steps of 0.01 along a."""
    return tuple((a, pareto_b(a)) for a in (i / 100 for i in range(-700, 701)))


def distance(x: Point) -> float:
    """Distance of a point to the Pareto set; the curve is taken as straight between its points."""
    points = pareto_set()
    return min(_to_segment(x, p, q) for p, q in pairwise(points))


def _to_segment(x: Point, p: Point, q: Point) -> float:
    along = (q[0] - p[0], q[1] - p[1])
    share = ((x[0] - p[0]) * along[0] + (x[1] - p[1]) * along[1]) / (along[0] ** 2 + along[1] ** 2)
    share = min(max(share, 0.0), 1.0)
    return math.dist(x, (p[0] + share * along[0], p[1] + share * along[1]))
