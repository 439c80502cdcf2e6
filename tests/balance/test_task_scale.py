"""One task's loss times 10⁻³ … 10³: what that does to each balancer, on the toy problem.

There the shared parameters are all there is, gradients are exact and nothing is random. Adam alone
undoes a common factor of all losses; what is asked here is a factor of one.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, get_args

import pytest
import torch

from job import spec
from tests.balance.toy import run
from tests.balance.toy.network import balancer
from tests.balance.toy.problem import Point, evaluate, losses
from tests.balance.toy.walk import gram, walk

SCALES = (1e-3, 0.1, 10.0, 1e3)
START = (9.0, -1.0)
PLACES = (START, (-3.0, -4.0), (2.0, 3.0))
STEPS = 300

NOTHING, LENGTH, DIRECTION = "nothing", "the length of a step", "the direction of a step"
CHANGES = {
    "fixed": DIRECTION,
    "running_mean": NOTHING,
    "running_mean_sqrt_n": NOTHING,
    "batch_mean": NOTHING,
    "uncertainty": DIRECTION,  # until its variances are at rest, see tests/balance/test_toy.py
    "gradient_norm": LENGTH,
    "gradnorm": DIRECTION,  # until its weights are learned
    "UPGrad": DIRECTION,
    "MGDA": DIRECTION,
    "IMTLG": LENGTH,
    "AlignedMTL": DIRECTION,
    "PCGrad": DIRECTION,
    "CAGrad": DIRECTION,
    "NashMTL": LENGTH,
}
"""What the scale of one loss changes of the combined gradient."""
OPTIONS: dict[str, dict[str, Any]] = {"CAGrad": {"c": run.C}, "STCH": {"mu": 0.5}}


def section(name: str) -> dict[str, Any]:
    if name in (*run.METHODS, *run.EXACT, *SCALARIZERS):
        return {"kind": "torchjd", "method": name, "options": OPTIONS.get(name, {})}
    return {"kind": name}


def path_moves(name: str) -> float:
    """The most by which a scale moves the trajectory, over the distance from start to end."""
    plain = list(islice(walk(run.make(name), START, 1.0), STEPS))
    scaled = [islice(walk(run.make(name), START, s), STEPS) for s in SCALES]
    apart = (math.dist(x, y) for path in scaled for x, y in zip(plain, path, strict=True))
    return max(apart) / math.dist(START, plain[-1])


def turns(name: str) -> float:
    """The most by which a scale turns the combined gradient at any of the places, in radians."""
    return max(
        abs(math.remainder(direction(name, x, s) - direction(name, x, 1.0), math.tau))
        for x in PLACES
        for s in SCALES
    )


def direction(name: str, x: Point, s: float) -> float:
    values = evaluate(x, s)
    w1, w2 = balancer(section(name))(torch.tensor(losses(values, s)), gram(values)).tolist()
    a, b = (w1 * one + w2 * other for one, other in zip(values.g1, values.g2, strict=True))
    return math.atan2(b, a)


SCALARIZERS = {
    "DWA": DIRECTION,  # in its first two epochs, as a plain sum
    "FAMO": LENGTH,
    "GeometricMean": LENGTH,
    "STCH": DIRECTION,
}
"""The same of torchjd's scalarizers, at a point: what they learn over steps is not walked here."""


@pytest.mark.parametrize("name", SCALARIZERS)
def test_what_a_losss_scale_changes_for_scalarizers(name: str) -> None:
    """FAMO and the geometric mean keep the direction at any point to rounding; the others turn."""
    if SCALARIZERS[name] == LENGTH:
        assert turns(name) < 1e-4
    else:
        assert turns(name) > 0.5


def test_every_balancer_has_its_place() -> None:
    """A new `balance.kind` must be given its place above."""
    members = get_args(get_args(spec.Balance)[0])
    kinds = {get_args(member.model_fields["kind"].annotation)[0] for member in members}
    assert kinds - {"torchjd"} == set(CHANGES) - {*run.METHODS, *run.EXACT}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_losss_scale_changes(name: str) -> None:
    """Balancers that divide by the loss go the same way to rounding. Those that equalise gradient
    norms keep the direction at any point to rounding; their steps' lengths differ, which Adam's
    moments carry a few percent into the way. All others go another way."""
    match CHANGES[name]:
        case "nothing":
            assert turns(name) < 1e-5
            assert path_moves(name) < 1e-5
        case "the length of a step":
            assert turns(name) < 1e-4
            assert 1e-3 < path_moves(name) < 0.03
        case _:
            assert turns(name) > 0.5
            assert path_moves(name) > 0.5
